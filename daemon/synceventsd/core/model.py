"""The words that all rooms use: a group of events as the log holds them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import Final

from attrs import define, field, frozen

from synceventsd.core import frames
from synceventsd.core.envelope import Envelope, decode_envelope
from synceventsd.core.positions import Position

GLOBAL = 0  # stands for "no business" in an index; real ids begin at 1

# How much text a reader is handed at once: joined into one chunk, since a chunk costs some 45 us however small it is.
STRETCH_BYTES: Final = 64 * 1024


@frozen
class Stretch:
    """Some of a group's events, one after the other, and how many bytes of text they are."""

    indexes: range
    size: int


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
    _frames: dict[int, bytes] = field(factory=dict, init=False)
    _texts: dict[int, bytes] = field(factory=dict, init=False)  # frames of whole stretches, by their ends
    _stretches: dict[int, Stretch] = field(factory=dict, init=False)  # by their ends
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

    def stretches(self, indexes: range) -> list[Stretch]:
        """Cut what goes from some index to the group's end, everywhere where all readers cut it.

        So what is encoded for one of them is what the others want, too.
        """
        if not self._stretches:
            self._stretches = {stretch.indexes.stop: stretch for stretch in self._cut()}
        return [
            stretch if stretch.indexes.start >= indexes.start else self._rest(indexes.start, stretch.indexes.stop)
            for stretch in self._stretches.values()
            if stretch.indexes.stop > indexes.start
        ]

    def _cut(self) -> Iterator[Stretch]:
        """Cut the whole group, each time before there are more than STRETCH_BYTES."""
        if self.size <= STRETCH_BYTES:
            yield Stretch(range(len(self.lines)), self.size)
            return
        ends = list(accumulate(map(len, self.lines)))
        start, before = 0, 0
        while start < len(ends):
            stop = max(bisect_right(ends, before + STRETCH_BYTES), start + 1)
            yield Stretch(range(start, stop), ends[stop - 1] - before)
            start, before = stop, ends[stop - 1]

    def _rest(self, start: int, stop: int) -> Stretch:
        return Stretch(range(start, stop), sum(map(len, self.lines[start:stop])))

    def sse(self, indexes: Sequence[int]) -> bytes:
        """Return events' frames for the event stream, joined; encoded once, shared by all readers.

        Args:
            indexes: single ones, or those of a stretch.
        """
        if not isinstance(indexes, range):
            return b"".join(self.frames(indexes))
        stretch = self._stretches[indexes.stop].indexes
        text = self._texts.get(stretch.stop)
        if text is None:
            text = self._texts[stretch.stop] = self._encoded(stretch)
        return text if indexes == stretch else frames.beginning_at(text, self.position(indexes.start))

    def frames(self, indexes: Sequence[int]) -> list[bytes]:
        """Return single events' frames; each encoded once, shared by all readers."""
        made = self._frames
        missing = [index for index in indexes if index not in made]
        if missing:
            made.update(zip(missing, frames.single(self._encoded(missing)), strict=True))
        return [made[index] for index in indexes]

    def _encoded(self, indexes: Sequence[int]) -> bytes:
        return frames.sse_frames(self.epoch, [self.first + index for index in indexes], list(map(self.head, indexes)))

    def ws(self, indexes: Sequence[int]) -> list[str]:
        """Return events as WebSocket messages."""
        return [
            frames.ws_event(self.head(index).event_type, self.position(index), frames.payload(frame))
            for index, frame in zip(indexes, self.frames(indexes), strict=True)
        ]
