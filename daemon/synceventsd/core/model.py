"""The words that all rooms use: a group of events as the log holds them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import islice

from attrs import define, field

from synceventsd.core import frames
from synceventsd.core.envelope import Envelope, decode_envelope
from synceventsd.core.positions import Position

GLOBAL = 0  # stands for "no business" in an index; real ids begin at 1


@define(eq=False)
class Group:
    """Consecutive events that were committed together; what derives from them is worked out once, when first asked.

    A group and not an event is the unit of the log, of its index and of the tail: the cost of a row, of an index entry
    and of a wake-up is then paid once for many events.

    Attributes:
        first: number of the first event.
        epoch: name of the epoch that accepted them.
        accepted_at: when, in seconds since 1970 (wall clock).
        lines: the events as they came and as they leave.
        heads, whose, size: given where they are known already; `size` is how many bytes of text it holds.
    """

    first: int
    epoch: str
    accepted_at: float
    lines: Sequence[bytes]
    _heads: Sequence[Envelope] | None = None
    _whose: Sequence[int] | None = None
    _size: int | None = None
    _frames: list[bytes | None] | None = field(default=None, init=False)
    _by_business: Mapping[int, Sequence[int]] | None = field(default=None, init=False)

    @property
    def size(self) -> int:
        """Return how many bytes of text it holds."""
        if self._size is None:
            self._size = sum(map(len, self.lines))
        return self._size

    @property
    def last(self) -> int:
        """Return the number of the last event."""
        return self.first + len(self.lines) - 1

    @property
    def heads(self) -> Sequence[Envelope]:
        """Return the decoded envelopes."""
        if self._heads is None:
            self._heads = [decode_envelope(line) for line in self.lines]
        return self._heads

    def head(self, index: int) -> Envelope:
        """Return one decoded envelope; a reader of a few events of a group does not pay for all of them."""
        return decode_envelope(self.lines[index]) if self._heads is None else self._heads[index]

    @property
    def whose(self) -> Sequence[int]:
        """Return each event's business, `GLOBAL` where it has none."""
        if self._whose is None:
            self._whose = [head.business_id or GLOBAL for head in self.heads]
        return self._whose

    @property
    def by_business(self) -> Mapping[int, Sequence[int]]:
        """Return which indexes belong to which business; global events stand under `GLOBAL`."""
        if self._by_business is None:
            whose = self.whose
            if whose.count(whose[0]) == len(whose):  # as a rule under load: a big sync of one shop
                self._by_business = {whose[0]: range(len(whose))}
                return self._by_business
            places: dict[int, list[int]] = {}
            for index, business in enumerate(whose):
                places.setdefault(business, []).append(index)
            self._by_business = places
        return self._by_business

    def indexes(self, business_id: int | None, after: int) -> Sequence[int]:
        """Return, in order, the indexes of what a reader of this business may see, beyond event number `after`."""
        skip = max(after + 1 - self.first, 0)
        if business_id is None:
            return range(skip, len(self.lines))
        if self._by_business is None:  # read from the disk, for this reader: the others' places would be for nobody
            places = enumerate(islice(self.whose, skip, None), skip)
            return [index for index, owner in places if owner in (business_id, GLOBAL)]
        own, everybody = self._by_business.get(business_id, ()), self._by_business.get(GLOBAL, ())
        merged = sorted((*own, *everybody)) if own and everybody else own or everybody
        return merged[bisect_left(merged, skip) :]

    def position(self, index: int) -> Position:
        """Return the position right after one event."""
        return Position(self.epoch, self.first + index)

    def sse(self, indexes: Sequence[int]) -> list[bytes]:
        """Return events' frames for the event stream; each encoded once, shared by all readers."""
        if self._frames is None:
            self._frames = [None] * len(self.lines)
        made = self._frames
        return [made[index] or self._frame(made, index) for index in indexes]

    def _frame(self, made: list[bytes | None], index: int) -> bytes:
        frame = made[index] = frames.sse_frame(self.epoch, self.first + index, self.head(index))
        return frame

    def ws(self, index: int) -> str:
        """Return the event as a WebSocket message."""
        head = self.head(index)
        return frames.ws_event(head.event_type, self.position(index), frames.payload(head, self.first + index))
