"""The hub: every reader is a cursor over the log.

Rule of this file: a reader holds a position and a filter, never a queue. So a slow reader costs no memory, replay and
live are the same loop, and nothing can fall between them. Only readers whose business is concerned are told of events,
in rounds: those that wait at the log's end and want the same get the same bytes, and their tasks sleep on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Final, NoReturn, Protocol

import trio
from attrs import define, field, frozen

from synceventsd.core.deliveries import Delivery, Gap, deliveries, take
from synceventsd.core.errors import LogDamaged, StorageUnavailable, TooManyStreams
from synceventsd.core.filters import Filter
from synceventsd.core.latency import Latency
from synceventsd.core.ledger import Incident
from synceventsd.core.model import GLOBAL
from synceventsd.core.positions import GapReason, Position
from synceventsd.eventlog import READ_BYTES, EventLog, Slice
from synceventsd.logs import get_logger

log = get_logger("hub")

# Between two rounds the hub rests for as long as the last one took, so that readers get at most half of the loop's time
# and, the more there are of them, the more events at once; but never longer than this (seconds).
MAX_REST: Final = 0.02
WAKING: Final = 50e-6  # seconds that a woken reader's task takes, after the round
TURN: Final = 0.002  # seconds for which readers are told before everybody else has a turn

# How many readers may read so much from the disk at a time, and keep what is left of it, with its frames. Others read
# as much as the log does by itself. To ask for every 64 KiB was up to half of what a replay of 2,000 events took, but
# thousands who do not read on must not keep as much each.
MOST_HELD: Final = 4
HELD_BYTES: Final = 4 * 2**20

# How long a reader waits before it tries a log again that cannot be read just now (seconds).
RETRY_READ: Final = 1.0


@frozen
class Start:
    """Where a reader begins: right after event number `after`."""

    after: int
    gap: Gap | None = None


class Taken(Enum):
    """What became of a delivery that was offered to a reader whose task waits."""

    ALL = 1
    PARTLY = 2  # the task has to see to the rest
    NOTHING = 3


class Outlet(Protocol):
    """Where a waiting reader's deliveries go without its task."""

    def offer(self, delivery: Delivery) -> Taken:
        """Take a delivery, as far as that is possible without waiting."""


@define(eq=False)
class Subscription:
    """One reader's cursor. Used by one task; `filter` may be replaced at any time and holds from the next event on.

    Attributes:
        live_from: what is beyond this number was accepted after the reader came.
    """

    _hub: Hub
    filter: Filter
    after: int
    outlet: Outlet | None = None
    live_from: int = field(init=False)
    _woken: trio.Event = field(factory=trio.Event, init=False)
    _skipped_to: int = field(default=0, init=False)
    _unfinished: bool = field(default=False, init=False)
    _held: Slice | None = field(default=None, init=False)  # beyond `after`, without a gap

    def __attrs_post_init__(self) -> None:
        self.live_from = self._hub.log.last

    async def next(self, patience: float) -> Delivery | None:
        """Return what comes next, or an empty delivery when nothing did for `patience` seconds; None at the end.

        An empty delivery also comes, at once, when the outlet took one partly: the rest of that is to be seen to.

        Cancelling leaves the cursor where it was: the events of a delivery that was not returned come again.
        """
        self._unfinished = False
        with trio.move_on_after(patience):
            while not self._hub.closing:
                delivery = await self._read()
                if delivery is not None:
                    self._hub.measure(delivery, self.live_from)
                    return delivery
                if not self._hub.closing:  # while it read: closing wakes only who is parked
                    await self._park()
                if self._unfinished:
                    break
        if self._hub.closing:
            return None
        return Delivery((), None, self.position)

    @property
    def position(self) -> Position:
        """Return where the reader is."""
        return self._hub.position(self.after)

    def share(self, most: int) -> int:
        """Return its share of so many, of which all readers have one; at least one."""
        return max(most // self._hub.streams, 1)

    async def _read(self) -> Delivery | None:
        """Return the next delivery, or None once nothing is left up to the log's end."""
        log = self._hub.log
        while self.after < log.last and not self._hub.closing:
            if self.after + 1 < log.oldest:
                gap = self._hub.gap(GapReason.EXPIRED, log.oldest)
                self.after = log.oldest - 1
                self._hold(None)
                return Delivery((), gap, self.position)
            recent = log.tail_beyond(self.after)
            try:
                found = recent or self._held or await self._read_from_disk()
            except LogDamaged as damage:
                # It does not read, and never will: say so and go on behind it.
                self.after = await log.end_of_damage(self.after, damage)
                return Delivery((), self._hub.gap(GapReason.DAMAGED, self.after + 1), self.position)
            except StorageUnavailable:
                await trio.sleep(RETRY_READ)
                continue
            runs, upto = take(found.groups, self.filter, self.after, found.upto)
            self.after = upto
            self._hold(None if found is recent else found)
            if runs:
                return Delivery(runs, None, self.position)
            await trio.lowlevel.checkpoint()  # a narrow filter may step over the whole log
        return None

    async def _read_from_disk(self) -> Slice:
        most = HELD_BYTES if self._hub.may_hold(self) else READ_BYTES
        return await self._hub.log.read(self.after, self.filter.business_id, most)

    def _hold(self, found: Slice | None) -> None:
        """Keep what is left of a read from the disk, if there is a place, so that the next delivery needs none."""
        left = [] if found is None else [group for group in found.groups if group.last > self.after]
        self._held = Slice(left, found.upto) if found is not None and self._hub.holds(self, bool(left)) else None

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

    def offer(self, news: Sequence[Delivery], before: int) -> bool:
        """Give the parked reader what concerns it after number `before`; return false if that woke its task."""
        for number, delivery in enumerate(news):
            taken = Taken.NOTHING if self.outlet is None else self.outlet.offer(delivery)
            if taken is not Taken.NOTHING:
                self.after = before = delivery.position.seq
            if taken is not Taken.ALL:
                self._unfinished = taken is Taken.PARTLY
                for handed in news[: number + self._unfinished]:
                    self._hub.measure(handed)
                self.wake(before)
                return False
        return True

    def caught_up(self, told: int) -> None:
        """Note that nothing up to `told` concerned the reader while it was parked."""
        self.after = max(self.after, told)


@define(eq=False)
class Hub:
    """All readers; owns who is parked and waits for which business.

    Attributes:
        latency: how long events took from being accepted until a reader was handed them; once for each reader, and only
            for what was accepted after it came.
    """

    log: EventLog
    max_streams: int
    streams: int = field(default=0, init=False)
    refused: Counter[str] = field(factory=Counter, init=False)  # readers since the start, by reason
    gaps: Counter[str] = field(factory=Counter, init=False)  # told to readers since the start, by reason
    closing: bool = field(default=False, init=False)
    latency: Latency = field(factory=Latency, init=False)
    _wall_clock: Callable[[], float] = time.time
    _open: set[Subscription] = field(factory=set, init=False)
    _parked: dict[int | None, set[Subscription]] = field(factory=dict, init=False)
    _holders: set[Subscription] = field(factory=set, init=False)  # of what they read from the disk
    _locating: set[trio.CancelScope] = field(factory=set, init=False)
    _first_parked: trio.Event = field(factory=trio.Event, init=False)
    _told: int = field(init=False)  # parked readers know of everything up to this number

    def __attrs_post_init__(self) -> None:
        self._told = self.log.last

    async def run(self) -> NoReturn:
        """Tell parked readers of new events, for ever. Cancelling leaves their positions right."""
        while True:
            if not self._parked:  # as on a host without readers: no round a commit for nobody
                self._first_parked = trio.Event()
                await self._first_parked.wait()
            await self.log.wait_beyond(self._told)
            began = trio.current_time()
            woken = await self._tell_all()
            await trio.sleep(min(trio.current_time() - began + woken * WAKING, MAX_REST))

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
        subscription = Subscription(self, filter_, after)
        self.streams += 1
        self._open.add(subscription)
        try:
            yield subscription
        finally:
            self._open.discard(subscription)
            self.streams -= 1
            self._holders.discard(subscription)

    def may_hold(self, subscription: Subscription) -> bool:
        """Return whether it may keep what it reads from the disk."""
        return subscription in self._holders or len(self._holders) < MOST_HELD

    def holds(self, subscription: Subscription, wanted: bool) -> bool:
        """Note whether it wants to keep what it read; return whether it may."""
        if wanted and self.may_hold(subscription):
            self._holders.add(subscription)
            return True
        self._holders.discard(subscription)
        return False

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

    def measure(self, delivery: Delivery, live_from: int = 0, readers: int = 1) -> None:
        """Count the latency of a delivery that so many readers take now, unless it begins with older events."""
        begins_at = next((group.first + indexes[0] for group, indexes in delivery.runs), live_from)
        if begins_at > live_from:
            now = self._wall_clock()
            for group, indexes in delivery.runs:
                self.latency.observe(now - group.accepted_at, len(indexes) * readers)

    def slowest(self) -> int:
        """Return up to which number every reader was handed what was accepted since it came; all: the log's last."""
        parked: set[Subscription] = set().union(*self._parked.values())
        return min(
            (max(one.after, one.live_from, self._told if one in parked else 0) for one in self._open),
            default=self.log.last,
        )

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
        if not self._parked:
            self._told = self.log.last  # there was nobody to be told, and this reader has had everything
            self._first_parked.set()
        waiting = self._parked.setdefault(business, set())
        waiting.add(subscription)
        try:
            yield
        finally:
            if subscription in waiting:
                self._unpark(subscription, waiting)
                subscription.caught_up(self._told)

    def _unpark(self, subscription: Subscription, waiting: set[Subscription]) -> None:
        waiting.discard(subscription)
        business = subscription.filter.business_id
        if not waiting and self._parked.get(business) is waiting:
            del self._parked[business]

    async def _tell_all(self) -> int:
        """Tell all parked readers that are concerned of what is new; return how many had to be woken.

        Those who want the same come one after the other, so that no more than one filter's text is held at a time.
        Cancelled, it leaves those whose turn had not come to the next round.
        """
        base, last = self._told, self.log.last
        recent = self.log.tail_beyond(base)
        turn_ends = trio.current_time() + TURN
        woken = 0
        for wanted, readers in self._concerned(recent).items():
            news: list[Delivery] | None = None
            taken = 0  # by readers who are not counted in the latency yet
            for subscription, waiting in readers:
                # By the clock: to look through a burst for a narrow filter takes a thousand times as long as to pass
                # on what another reader got too.
                if trio.current_time() >= turn_ends:
                    self._measure_all(news, taken)
                    taken = 0
                    await trio.lowlevel.checkpoint()
                    turn_ends = trio.current_time() + TURN
                if subscription not in waiting or subscription.after >= last:
                    continue  # it left, or parked after it had read all this, while others had their turn
                if recent is None or subscription.after > base or subscription.filter != wanted:
                    subscription.wake(base)
                else:
                    if news is None:
                        news = deliveries(recent.groups, wanted, base, last, self.position)
                    if subscription.offer(news, base):
                        taken += 1
                        continue
                self._unpark(subscription, waiting)
                woken += 1
            self._measure_all(news, taken)
        self._told = last
        return woken

    def _measure_all(self, news: Sequence[Delivery] | None, readers: int) -> None:
        for delivery in news or () if readers else ():
            self.measure(delivery, readers=readers)

    def _concerned(self, recent: Slice | None) -> dict[Filter, list[tuple[Subscription, set[Subscription]]]]:
        """Return the parked readers of the businesses that have news, by filter, each with the set it waits in."""
        businesses: set[int | None] = set().union(*(group.by_business for group in recent.groups)) if recent else set()
        if recent is None or GLOBAL in businesses:
            parked = list(self._parked.values())
        else:
            parked = [self._parked[business] for business in (None, *businesses) if business in self._parked]
        found: dict[Filter, list[tuple[Subscription, set[Subscription]]]] = {}
        for waiting in parked:
            for subscription in waiting:
                found.setdefault(subscription.filter, []).append((subscription, waiting))
        return found
