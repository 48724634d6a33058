"""The words that all rooms use: a group of events as the log holds them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from attrs import define, field

from synceventsd.core import frames
from synceventsd.core.envelope import Envelope, decode_envelope
from synceventsd.core.lines import Part
from synceventsd.core.positions import Position

GLOBAL = 0  # stands for "no business" in an index; real ids begin at 1

# How much text a reader is handed at once: joined into one chunk, since a chunk costs some 45 us however small it is.
STRETCH_BYTES: Final = 64 * 1024


@define(eq=False)
class Stretch(Sequence[int]):
    """Some of a group's events that go to a reader together, as their indexes, rising.

    Attributes:
        indexes: as a plain sequence.
        size: how many bytes of text they are.
        whole: the stretch that this is the end of; what is encoded for that serves both.
        text: its frames for the event stream, once they are encoded.
    """

    indexes: Sequence[int]
    size: int
    whole: Stretch | None = None
    text: bytes | None = None

    def __len__(self) -> int:
        """Return how many events they are."""
        return len(self.indexes)

    def __getitem__(self, place: Any) -> Any:
        """Return an event's index."""
        return self.indexes[place]

    def __iter__(self) -> Iterator[int]:
        """Yield the events' indexes."""
        return iter(self.indexes)


@define(eq=False)
class Group:
    """Consecutive events that were committed together; what derives from them is worked out once, when first asked.

    A group and not an event is the unit of the log, of its index and of the tail: the cost of a row, of an index entry
    and of a wake-up is then paid once for many events.

    Attributes:
        first: number of the first event.
        epoch: name of the epoch that accepted them.
        accepted_at: when, in seconds since 1970 (wall clock).
        lines: the events as they came and as they leave; read for one business, only those that it may see (`Part`).
        heads, whose, size: given where they are known already; `size` is how many bytes of text it holds.
    """

    first: int
    epoch: str
    accepted_at: float
    lines: Sequence[bytes]
    _heads: Sequence[Envelope] | None = None
    _whose: Sequence[int] | None = None
    _size: int | None = None
    _frames: dict[int, bytes] = field(factory=dict, init=False)
    _stretches: Sequence[Stretch] | None = field(default=None, init=False)  # of all of it, or of what was read of it
    _by_business: Mapping[int, Sequence[int]] | None = field(default=None, init=False)

    @property
    def size(self) -> int:
        """Return how many bytes of text it holds."""
        if self._size is None:
            self._size = sum(map(len, self.lines))
        return self._size

    def sizes(self, indexes: Iterable[int]) -> list[int]:
        """Return how many bytes of text single events are."""
        lines = self.lines
        return [len(lines[index]) for index in indexes]

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
        seen = self._visible(business_id)
        skip = after + 1 - self.first
        return seen if skip <= 0 else seen[bisect_left(seen, skip) :]

    def _visible(self, business_id: int | None) -> Sequence[int]:
        if business_id is None:
            return range(len(self.lines))
        if type(self.lines) is Part:  # read for this business; isinstance() takes five times as long
            return sorted(self.lines.found)
        own, everybody = self.by_business.get(business_id, ()), self.by_business.get(GLOBAL, ())
        return sorted((*own, *everybody)) if own and everybody else own or everybody

    def position(self, index: int) -> Position:
        """Return the position right after one event."""
        return Position(self.epoch, self.first + index)

    def stretches(self, business_id: int | None, after: int) -> Sequence[Stretch]:
        """Return what a reader of this business may see beyond event number `after`, cut where all of its readers cut.

        So what is encoded for one of them is what the others want, too.
        """
        indexes = self._visible(business_id)
        if not indexes:  # as a rule, on a walk through what was committed just now
            return ()
        if len(indexes) == len(self.lines) or type(self.lines) is Part:
            if self._stretches is None:
                self._stretches = list(self._cut(indexes))
            found = self._stretches
        else:  # thousands of readers, each of another business, must not leave something in each of thousands of groups
            found = list(self._cut(indexes))
        skip = after + 1 - self.first
        if skip <= 0:
            return found
        return [one if one[0] >= skip else self._rest(one, skip) for one in found if one[-1] >= skip]

    def _cut(self, indexes: Sequence[int]) -> Iterator[Stretch]:
        """Cut events into stretches, each time before there are more than STRETCH_BYTES."""
        totals = list(accumulate(self.sizes(indexes)))
        start, before = 0, 0
        while start < len(totals):
            stop = max(bisect_right(totals, before + STRETCH_BYTES), start + 1)
            yield Stretch(indexes[start:stop], totals[stop - 1] - before)
            start, before = stop, totals[stop - 1]

    def _rest(self, whole: Stretch, skip: int) -> Stretch:
        indexes = whole.indexes[bisect_left(whole.indexes, skip) :]
        return Stretch(indexes, sum(self.sizes(indexes)), whole)

    def sse(self, stretch: Stretch) -> bytes:
        """Return events' frames for the event stream, joined; encoded once, shared by all readers."""
        whole = stretch.whole or stretch
        if self._heads is not None and not isinstance(whole.indexes, range):
            # Just committed, and of several businesses: many readers want some of it, each something else.
            return b"".join(self.frames(stretch))
        if whole.text is None:
            whole.text = self._encoded(whole)
        return whole.text if stretch is whole else frames.beginning_at(whole.text, self.position(stretch[0]))

    def frames(self, indexes: Sequence[int]) -> list[bytes]:
        """Return single events' frames; each encoded once, shared by all readers."""
        made = self._frames
        missing = [index for index in indexes if index not in made]
        if missing:
            made.update(zip(missing, frames.single(self._encoded(missing)), strict=True))
        return [made[index] for index in indexes]

    def _encoded(self, indexes: Sequence[int]) -> bytes:
        return frames.sse_frames(self.epoch, [self.first + index for index in indexes], self._heads_of(indexes))

    def _heads_of(self, indexes: Sequence[int]) -> list[Envelope]:
        if self._heads is not None:
            return [self._heads[index] for index in indexes]
        return list(map(decode_envelope, map(self.lines.__getitem__, indexes)))

    def ws(self, indexes: Sequence[int]) -> list[str]:
        """Return events as WebSocket messages."""
        return [
            frames.ws_event(self.head(index).event_type, self.position(index), frames.payload(frame))
            for index, frame in zip(indexes, self.frames(indexes), strict=True)
        ]
