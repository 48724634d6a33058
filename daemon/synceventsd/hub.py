"""The hub: every reader is a cursor over the log.

Rule of this file: a reader holds a position and a filter, never a queue. So a slow reader costs no memory, replay and
live are the same loop, and nothing can fall between them. Only readers whose business is concerned are woken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio
from attrs import define, field, frozen

from synceventsd.core.errors import LogDamaged, StorageUnavailable, TooManyStreams
from synceventsd.core.filters import Filter
from synceventsd.core.ledger import Incident
from synceventsd.core.model import GLOBAL, Group
from synceventsd.core.positions import GapReason, Position
from synceventsd.eventlog import EventLog
from synceventsd.logs import get_logger

log = get_logger("hub")

# How much text a reader is handed at once: joined into one chunk, since a chunk costs some 45 us however small it is.
BATCH_BYTES: Final = 64 * 1024

# How long a reader waits before it tries a log again that cannot be read just now (seconds).
RETRY_READ: Final = 1.0


@frozen
class Gap:
    """Events that the reader should have had are not there; it goes on with event number `resumes_at`."""

    reason: GapReason
    resumes_at: int


@frozen
class Start:
    """Where a reader begins: right after event number `after`."""

    after: int
    gap: Gap | None = None


@frozen
class Delivery:
    """What a reader gets next: at most one of `gap` and `events`; neither when there was nothing for a while.

    `events` are pairs of a group and an index in it: `group.sse(index)` is the frame that all readers share.
    `position` is where the reader is once it has taken this.
    """

    events: Sequence[tuple[Group, int]]
    gap: Gap | None
    position: Position


@define(eq=False)
class Subscription:
    """One reader's cursor. Used by one task; `filter` may be replaced at any time and holds from the next event on."""

    _hub: Hub
    filter: Filter
    after: int
    _woken: trio.Event = field(factory=trio.Event, init=False)
    _skipped_to: int = field(default=0, init=False)

    async def next(self, patience: float) -> Delivery | None:
        """Return what comes next, or an empty delivery when nothing did for `patience` seconds; None at the end.

        Cancelling leaves the cursor where it was: the events of a delivery that was not returned come again.
        """
        with trio.move_on_after(patience):
            while not self._hub.closing:
                delivery = await self._read()
                if delivery is not None:
                    return delivery
                if not self._hub.closing:  # while it read: closing wakes only who is parked
                    await self._park()
        if self._hub.closing:
            return None
        return Delivery((), None, self.position)

    @property
    def position(self) -> Position:
        """Return where the reader is."""
        return self._hub.position(self.after)

    async def _read(self) -> Delivery | None:
        """Return the next delivery, or None once nothing is left up to the log's end."""
        log = self._hub.log
        while self.after < log.last and not self._hub.closing:
            if self.after + 1 < log.oldest:
                gap = self._hub.gap(GapReason.EXPIRED, log.oldest)
                self.after = log.oldest - 1
                return Delivery((), gap, self.position)
            recent = log.tail_beyond(self.after)
            try:
                found = recent or await log.read(self.after, self.filter.business_id)
            except LogDamaged as damage:
                # It does not read, and never will: say so and go on behind it.
                self.after = await log.end_of_damage(self.after, damage)
                return Delivery((), self._hub.gap(GapReason.DAMAGED, self.after + 1), self.position)
            except StorageUnavailable:
                await trio.sleep(RETRY_READ)
                continue
            events, upto = take(found.groups, self.filter, self.after, found.upto)
            self.after = upto
            if events:
                return Delivery(events, None, self.position)
            await trio.lowlevel.checkpoint()  # a narrow filter may step over the whole log
        return None

    async def _park(self) -> None:
        """Wait until a group that may concern this reader is committed; nothing before that group did."""
        self._woken = trio.Event()
        with self._hub.parked(self):
            await self._woken.wait()
        self.after = max(self.after, self._skipped_to)

    def wake(self, before: int) -> None:
        """Wake the reader: no event up to number `before` concerned it since it parked."""
        self._skipped_to = before
        self._woken.set()

    def caught_up(self, last: int) -> None:
        """Note that nothing up to `last` concerned the reader while it was parked."""
        self.after = max(self.after, last)


def take(groups: Sequence[Group], filter_: Filter, after: int, upto: int) -> tuple[list[tuple[Group, int]], int]:
    """Return the matching events beyond `after`, up to a batch's size, and the number up to which all was looked at."""
    events: list[tuple[Group, int]] = []
    size = 0
    everything = filter_.takes_all
    for group in groups:
        heads = group.heads
        for index in group.indexes(filter_.business_id, after):
            if everything or filter_.matches(heads[index]):
                events.append((group, index))
                size += len(group.lines[index])
                if size >= BATCH_BYTES:
                    return events, group.first + index
    return events, upto


@define(eq=False)
class Hub:
    """All readers; owns who is parked and waits for which business."""

    log: EventLog
    max_streams: int
    streams: int = field(default=0, init=False)
    refused: Counter[str] = field(factory=Counter, init=False)  # readers since the start, by reason
    gaps: Counter[str] = field(factory=Counter, init=False)  # told to readers since the start, by reason
    closing: bool = field(default=False, init=False)
    _parked: dict[int | None, set[Subscription]] = field(factory=dict, init=False)
    _locating: set[trio.CancelScope] = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self.log.follow(self._on_group)

    async def locate(self, filter_: Filter, last_event_id: str | None, replay: int) -> Start | None:
        """Return where a reader begins, or None when the hub closes meanwhile: a narrow filter may look for long.

        Args:
            filter_: what it wants.
            last_event_id: where it was, as it was told; None or empty on a first visit.
            replay: on a first visit, how many of the newest matching events come first.
        """
        with trio.CancelScope() as scope:
            self._locating.add(scope)
            try:
                return await self._locate(filter_, last_event_id, replay)
            finally:
                self._locating.discard(scope)
        return None

    async def _locate(self, filter_: Filter, last_event_id: str | None, replay: int) -> Start:
        if last_event_id:
            resume = self.log.resume(last_event_id)
            after = resume.after
            if resume.first_visit:
                after = await self.log.replay_start(filter_, replay)
            return Start(after, None if resume.gap is None else self.gap(resume.gap, after + 1))
        return Start(await self.log.replay_start(filter_, replay))

    @contextmanager
    def subscribe(self, filter_: Filter, after: int) -> Iterator[Subscription]:
        """Open a cursor right after event number `after`.

        Raises:
            TooManyStreams: `http.max_streams` are open.
        """
        if self.streams >= self.max_streams:
            error = (
                f"{self.max_streams} streams are open already (http.max_streams = {self.max_streams}): close some, "
                "or have the setting raised"
            )
            self.refuse("too_many_streams", error)
            raise TooManyStreams(error)
        self.streams += 1
        try:
            yield Subscription(self, filter_, after)
        finally:
            self.streams -= 1

    def refuse(self, reason: str, detail: str) -> None:
        """Count a reader that finds no place, and tell of it when that begins."""
        self.refused[reason] += 1
        if self.log.note(Incident(f"http_{reason}", 1, detail=detail)):
            log.warning("http.refused", reason=reason, detail=detail)

    def gap(self, reason: GapReason, resumes_at: int) -> Gap:
        """Return a gap to be told to a reader, and count it."""
        self.gaps[reason.value] += 1
        return Gap(reason, resumes_at)

    def position(self, seq: int) -> Position:
        """Return the position right after event `seq`."""
        return self.log.position(seq)

    def close(self) -> None:
        """End all streams: every reader's `next` returns None soon."""
        self.closing = True
        for scope in self._locating:
            scope.cancel()
        for subscriptions in self._parked.values():
            for subscription in subscriptions:
                subscription.wake(0)

    @contextmanager
    def parked(self, subscription: Subscription) -> Iterator[None]:
        """Keep the subscription among those that wait; what did not wake it by the end did not concern it."""
        business = subscription.filter.business_id
        waiting = self._parked.setdefault(business, set())
        waiting.add(subscription)
        try:
            yield
        finally:
            if subscription in waiting:
                waiting.discard(subscription)
                if not waiting:
                    self._parked.pop(business, None)
                subscription.caught_up(self.log.last)

    def _on_group(self, group: Group) -> None:
        businesses = group.by_business
        concerned = list(self._parked) if GLOBAL in businesses else [None, *businesses]
        for business in concerned:
            woken = self._parked.pop(business, set())
            for subscription in woken:
                subscription.wake(group.first - 1)
            woken.clear()  # so that `parked` can tell who was woken from who gave up waiting
