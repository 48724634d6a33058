"""Group commit: take what all connections have handed in, write it in one transaction, then tell each of them.

Rule of this file: a line is settled (and so acknowledged) after the transaction that holds it is durable, never before.
While one group is being synced the next one gathers, so groups grow with the load and a sync costs little an event.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import trio
from attrs import define, evolve, field
from trio.lowlevel import ParkingLot

from synceventsd.core import backoff
from synceventsd.core.envelope import BUFFER_FULL
from synceventsd.core.errors import LogDamaged, StorageUnavailable
from synceventsd.core.latency import Latency
from synceventsd.core.ledger import Book, Changes, Incident
from synceventsd.core.model import Group
from synceventsd.eventlog.commits import Commit, ProducerCount, RejectRow
from synceventsd.eventlog.lane import Lane
from synceventsd.eventlog.lots import MAX_GROUP_BYTES, Lot, Source, compose, fitting, incidents_of, refused
from synceventsd.eventlog.store import Store
from synceventsd.logs import get_logger

log = get_logger("eventlog")
T = TypeVar("T")

# What may wait for the next commit, over all connections; past that, connections stop reading. 0.1 s at full speed.
MAX_PENDING_BYTES: Final = 8 * 2**20

UPKEEP_EVERY: Final = 1.0  # seconds: how soon the mark is saved and retention looked at when nothing is published
UPKEEP_AGAIN: Final = 0.02  # seconds: how soon the next slice is deleted when there is more
RETENTION_GROUPS: Final = 256  # groups deleted in one transaction, and
RETENTION_BYTES: Final = 8 * 2**20  # their text, so that no commit waits long for it
PRODUCER_MEMORY: Final = 7 * 86400.0  # seconds; contract, section 4
FORGET_EVERY: Final = 3600.0  # seconds
LEDGER_EVERY: Final = 10.0  # seconds in which the ledger waits for a commit that is written anyway
MARK_EVERY: Final = 0.05  # seconds in which the mark waits; it matters only where Redis loses its cursor in a crash
BALLAST_EVERY: Final = 10.0  # seconds between two tries to take what is missing of the ballast


@define(eq=False)
class Retention:
    """How long events are kept for replay, and how much the log may hold at all (bytes, seconds)."""

    max_bytes: int
    retain_bytes: int
    retain_seconds: float


@define(eq=False)
class Committer:
    """The one writer of the log. Owns what is pending, the lane to the store, and the knowledge whether storing works.

    Attributes:
        failing: why the log cannot be written just now, or None.
        full: whether new events are being rejected with `buffer_full`.
        beat: `trio.current_time()` of the last sign of progress, for the watchdog.
        latency: how long events took from being handed in until they were durable.
        turn: held while anything is composed, written or deleted; whoever holds it finds none of that half done.
    """

    store: Store
    lane: Lane
    retention: Retention
    wall_clock: Callable[[], float]
    on_commit: Callable[[Sequence[Group]], None]
    owed_from: Callable[[], int]  # events up to this number are out, and their text may be deleted
    mark: Callable[[], int]  # up to where Redis has everything
    release: Callable[[], Awaitable[bool]]  # have `owed_from` catch up with what is out; false when it has
    reopen: Callable[[bool], Awaitable[None]]  # open the file again, after a failure that was a full disk, or was not
    failing: str | None = field(default=None, init=False)
    _condemned: LogDamaged | None = field(default=None, init=False)
    _ballast_told: int = field(default=-1, init=False)
    full: bool = field(default=False, init=False)
    beat: float = field(default=0.0, init=False)
    book: Book = field(factory=Book, init=False)
    rejected_full: int = field(default=0, init=False)
    latency: Latency = field(factory=Latency, init=False)
    turn: trio.Lock = field(factory=trio.Lock, init=False)
    _pending: list[Lot] = field(factory=list, init=False)
    _pending_bytes: int = field(default=0, init=False)
    _in_flight: list[Lot] = field(factory=list, init=False)
    _seen: dict[str, int] = field(factory=dict, init=False)
    _present: dict[str, int] = field(factory=dict, init=False)
    _work: trio.Event = field(factory=trio.Event, init=False)
    _landed: trio.Event = field(factory=trio.Event, init=False)
    _room: ParkingLot = field(factory=ParkingLot, init=False)  # who came first goes first: of hundreds few find room
    _forget_at: float = field(default=0.0, init=False)
    _ballast_at: float = field(default=0.0, init=False)
    _ledger_due: float = field(default=0.0, init=False)
    _mark_due: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self.book.load(self.store.ledger)

    # What connections call

    def hand_in(self, lot: Lot) -> None:
        """Queue a lot for the next commit; `lot.source.settled` is called when it is durable."""
        lot.handed_in_at = trio.current_time()
        self._pending.append(lot)
        self._pending_bytes += lot.cost
        self._work.set()

    async def wait_room(self) -> None:
        """Wait until more may be handed in: while storing fails, that is not before it works again."""
        while self.failing is not None or self._pending_bytes > MAX_PENDING_BYTES:
            await self._room.park()

    async def withdraw(self, producer: str) -> None:
        """Drop what the producer's connections handed in and is not being written yet; wait for what is.

        On return everything that they handed in is either dealt with or dropped for good. Cancelling leaves it dropped.
        """
        kept = [lot for lot in self._pending if lot.source.producer != producer]
        self._pending = kept
        self._pending_bytes = sum(lot.cost for lot in kept)
        self._land()  # whoever waited for what was dropped waits for nothing now
        while any(lot.source.producer == producer for lot in self._in_flight):
            await self._landed.wait()

    async def wait_settled(self, source: Source) -> None:
        """Wait until nothing that the source handed in is open."""
        while any(lot.source is source for lot in (*self._pending, *self._in_flight)):
            await self._landed.wait()

    async def wait_empty(self) -> None:
        """Wait until nothing is pending."""
        while self._pending or self._in_flight:
            await self._landed.wait()

    def greet(self, producer: str, acked: int) -> None:
        """Note that a producer said hello; saved with the next commit. It counts as seen until it leaves."""
        self._seen[producer] = self._present[producer] = acked
        self._work.set()

    def leave(self, producer: str) -> None:
        """Note that a producer's connection is gone."""
        self._present.pop(producer, None)

    def note(self, incident: Incident) -> bool:
        """Write into the ledger; saved with a commit. Return whether that began a new entry."""
        return self.book.note(incident, self.wall_clock())

    async def wait_noted(self) -> None:
        """Wait until what was written into the ledger so far is durable."""
        revision = self.book.revision
        self._ledger_due = 0.0
        while self.book.saved_revision < revision:
            self._work.set()
            await self._landed.wait()

    async def in_lane(self, work: Callable[..., T], *args: Any) -> T:
        """Run one of the store's methods in the writer's lane; never abandoned, so it is done or not begun.

        Raises:
            StorageUnavailable: it could not be done now.
            LogDamaged: it met damage; the next start will salvage the log, so this one has to end.
        """
        try:
            return await self.lane.run(work, *args)
        except LogDamaged as error:
            log.error("log.damaged", reason=str(error), effect="the daemon ends; its next start salvages the log")
            self.condemn(error)
            await self.lane.run(self.store.suspect)
            raise

    def condemn(self, damage: LogDamaged) -> None:
        """Have `run` end with this damage, whoever met it."""
        self._condemned = damage
        self._work.set()

    @property
    def pending_bytes(self) -> int:
        """Return how much text waits for the next commit."""
        return self._pending_bytes

    # The loop

    async def run(self) -> None:
        """Commit for ever. Cancelled, it finishes the transaction it is in and leaves the rest unacknowledged.

        Raises:
            LogDamaged: the log is broken where it is written, or where no one can do without it.
        """
        self._tell_ballast()
        upkeep_at = trio.current_time() + UPKEEP_EVERY
        while True:
            with trio.move_on_at(upkeep_at):
                await self._work.wait()
            self.beat = trio.current_time()
            if self._condemned is not None:
                raise self._condemned
            await self._take_turn()
            try:
                idle = not self._work.is_set()
                if not idle:
                    self._work = trio.Event()
                    await self._commit_pending()
                more = None
                if idle or trio.current_time() >= upkeep_at:
                    more = await self._upkeep(idle=idle)
                elif self.store.checkpoint_due:
                    # Not with the rest of the upkeep: each turn in the lane waits for the loop twice. Looking for what
                    # retention may take, 13 times a second at full load, was a fifth of the writer's time.
                    await self.insist(partial(self.store.checkpoint_if_due, idle=False))
            finally:
                self.turn.release()
            if more is not None:
                upkeep_at = trio.current_time() + (UPKEEP_AGAIN if more else UPKEEP_EVERY)

    async def _take_turn(self) -> None:
        try:
            self.turn.acquire_nowait()  # nearly always: to wait even then costs a turn of the loop, for each commit
        except trio.WouldBlock:
            await self.turn.acquire()

    async def _commit_pending(self) -> None:
        lots = await self._take()
        commit = self._commit_of(lots)
        await self._write(commit)
        if commit.groups:
            self.on_commit(commit.groups)
            self._measure(lots)
        self._in_flight = []
        for lot in lots:
            lot.source.settled(lot.upto, lot.rejects)
        self._land()

    def _measure(self, lots: Sequence[Lot]) -> None:
        now = trio.current_time()
        for lot in lots:
            if lot.lines:
                self.latency.observe(now - lot.handed_in_at, len(lot.lines))

    def _commit_of(self, lots: Sequence[Lot]) -> Commit:
        at = self.wall_clock()
        counts: dict[str, ProducerCount] = {}
        rejects: list[RejectRow] = []
        for lot in lots:
            producer = lot.source.producer
            if producer is not None:
                counts[producer] = ProducerCount(producer, lot.source.uid, lot.upto)
                rejects.extend(
                    RejectRow(producer, reject.line, reject.fault.event_id, reject.fault.code, reject.fault.error)
                    for reject in lot.rejects
                )
            for incident in incidents_of(lot) if lot.rejects else ():
                self._note_rejects(incident)
        groups = compose(lots, self.store.last + 1, self.store.epochs.current.name, at)
        seen, self._seen = self._seen, {}
        # Rubbish alone must not cost a sync: what is not written with something else waits for a while.
        due = trio.current_time() >= self._ledger_due
        ledger = Changes()
        if groups or counts or due:
            ledger = self.book.take()
            self._ledger_due = trio.current_time() + LEDGER_EVERY
        return Commit(
            at=at,
            groups=groups,
            producers=tuple(counts.values()),
            rejects=rejects,
            forwarded=self._mark_to_save(bool(groups)),
            seen=tuple(seen.items()),
            ledger=ledger,
        )

    def _mark_to_save(self, has_groups: bool) -> int:
        """Return the mark, or 0 while there is time: it changes with every batch, and is one more page to write."""
        now = trio.current_time()
        if has_groups and now < self._mark_due:
            return 0
        self._mark_due = now + MARK_EVERY
        return self.mark()

    def _note_rejects(self, incident: Incident) -> None:
        if self.note(incident):
            log.warning("lines.rejected", code=incident.reason, uid=incident.uid, example=incident.detail)

    async def _write(self, commit: Commit) -> None:
        def is_in() -> bool:
            return bool(commit.groups) and self.store.last >= commit.groups[-1].last

        # A transaction that reported an error may be in the file after all; after the reopening it is durable.
        await self.insist(self.store.append, commit, unless=is_in)
        self.book.saved(commit.ledger)
        dropped, self.store.rejects_dropped = self.store.rejects_dropped, 0
        if dropped:
            detail = "explanations of a producer's rejected lines beyond those that are kept; the lines count elsewhere"
            self.note(Incident("rejects_untold", dropped, detail=detail))

    async def insist(self, work: Callable[..., T], *args: Any, unless: Callable[[], bool] = lambda: False) -> T | None:
        """Have the store do something, for as long as it takes; what fails is told once, and once when it works again.

        To be called by who holds `turn`. Cancelled, it may leave the file closed; the next caller opens it again.

        Args:
            work: a method of the store.
            args: for it.
            unless: asked after each reopening; true when there is nothing left to do, and None is returned.
        """
        failures = 0
        answer: T | None = None
        while failures == 0 or not unless():
            try:
                answer = await self.in_lane(work, *args)
            except StorageUnavailable as error:
                failures = await self._reopen(failures + 1, error)
            else:
                break
        if self.failing is not None:
            self.failing = None
            log.info("storage.recovered", failures=failures)
            self._tell_ballast()
            self._land()  # connections that wait for room wait for this too
        return answer

    async def _reopen(self, failures: int, error: StorageUnavailable) -> int:
        """Open the file again, however often it takes; return how many failures there were."""
        while True:
            await self._fail(error)
            await trio.sleep(backoff.delay(failures, 0.5))
            self.beat = trio.current_time()
            try:
                await self.reopen(error.full)
                if error.full:
                    await self._make_room_on_disk()
            except StorageUnavailable as again:
                failures += 1
                error = again
            else:
                return failures

    async def _fail(self, error: StorageUnavailable) -> None:
        if self.failing is None:
            log.error("storage.failing", reason=str(error), effect="nothing is read or acknowledged until it works")
        self.failing = str(error)
        if error.full:
            await self.lane.run(self.store.ballast.release)
            self._tell_ballast()

    async def _make_room_on_disk(self) -> None:
        """Do in the ballast's room what needs no new event, then take it again: it is not for new events.

        Raises:
            StorageUnavailable: not even that could be done.
        """
        await self.in_lane(self.store.append, Commit(at=self.wall_clock(), forwarded=self.mark()))
        await self.release()
        while await self.in_lane(self.store.prune, *self._prunable(self.retention.retain_bytes)):
            self.beat = trio.current_time()
        await self.in_lane(self.store.check_in)
        await self.in_lane(self.store.ballast.take)

    def _tell_ballast(self) -> None:
        """Tell how much the ballast takes, where that has changed."""
        held, wanted = self.store.ballast.held, self.store.ballast.wanted
        if held != self._ballast_told and (held, self._ballast_told) != (wanted, -1):
            (log.info if held == wanted else log.warning)("storage.ballast", bytes=held, wanted=wanted)
        self._ballast_told = held

    def _land(self) -> None:
        self._landed.set()
        self._landed = trio.Event()
        self._room.unpark_all()

    # Limits

    async def _take(self) -> Sequence[Lot]:
        """Take what is pending and fits, after making room as far as anything may go; refuse the next lot if none fits.

        From taking to settling a lot is in flight. What does not fit stays pending, for the next commit.
        """
        while True:
            count = self._fitting()
            if count < len(self._pending):
                await self.insist(self.store.measure)
                count = self._fitting()  # anew: also because while it was measured a takeover may have withdrawn some
            if count == len(self._pending):
                return self._fly(count)
            try:
                more = await self._make_room() or await self.release()
            except StorageUnavailable as error:
                await self._reopen(1, error)
                continue
            count = self._fitting()
            if not more and self._pending:
                return self._fly(count) if count else self._refuse(self._fly(1))

    def _fitting(self) -> int:
        return fitting(self._pending, self.retention.max_bytes - self.store.used)

    async def _make_room(self) -> bool:
        """Delete what nobody is owed, first what is kept for replay no longer; return whether there was any."""
        if await self.insist(self.store.prune, *self._prunable(self.retention.retain_bytes)):
            return True
        first = self.store.oldest
        await self.insist(self.store.prune, *self._prunable(keep_bytes=0))
        count = self.store.oldest - first
        if count:
            detail = "deleted before their time, to make room for new events (storage.max_bytes)"
            self.note(Incident("replay_shortened", count, first=first, last=first + count - 1, detail=detail))
        return count > 0

    def _fly(self, count: int) -> list[Lot]:
        self._in_flight, self._pending = self._pending[:count], self._pending[count:]
        self._pending_bytes = sum(lot.cost for lot in self._pending)
        if self._pending:
            self._work.set()
        self._land()  # there is room again, for who waits for it: not only once this is written
        return self._in_flight

    def _refuse(self, lots: Sequence[Lot]) -> list[Lot]:
        error = (
            f"the buffer is full: {self.store.used} of {self.retention.max_bytes} bytes (storage.max_bytes) are taken "
            "by events that Redis has not got yet"
        )
        if not self.full:
            self.full = True
            log.error("storage.full", used=self.store.used, limit=self.retention.max_bytes)
        self.rejected_full += sum(len(lot.lines) for lot in lots)
        return [refused(lot, BUFFER_FULL, error) for lot in lots]

    async def _upkeep(self, *, idle: bool) -> bool:
        """Do what need not be done at once, in a short slice; return whether there is more to delete.

        Whatever cannot be written holds up everything, as a commit would: what fails here would fail there.
        """
        ledger_due = self.book.unsaved and trio.current_time() >= self._ledger_due
        if ledger_due or (idle and (self.mark() > self.store.forwarded or self._seen)):
            await self._write(self._commit_of(()))
            self._land()
        pruned = await self.insist(self.store.prune, *self._prunable(self.retention.retain_bytes))
        now = trio.current_time()
        if now >= self._forget_at:
            self._forget_at = now + FORGET_EVERY
            await self._forget_producers(self.wall_clock() - PRODUCER_MEMORY)
        await self.insist(partial(self.store.checkpoint_if_due, idle=idle))
        if now >= self._ballast_at and self.store.ballast.held < self.store.ballast.wanted:
            self._ballast_at = now + BALLAST_EVERY
            await self.in_lane(self.store.ballast.take)
            self._tell_ballast()
        if self.full:
            self._look_for_room()
        return bool(pruned)

    async def _forget_producers(self, before: float) -> None:
        self._seen.update(self._present)  # who is connected is seen, however silent
        await self._write(self._commit_of(()))
        count = await self.insist(self.store.seen_before, before)
        if count:
            self.note(Incident("producers_forgotten", count, detail="not seen for seven days, with their rejects"))
            self._ledger_due = 0.0
            await self._write(evolve(self._commit_of(()), forget_before=before))

    def _prunable(self, keep_bytes: int) -> tuple[int, float, float, int, int, int]:
        keep_seconds = self.retention.retain_seconds
        return self.owed_from(), self.wall_clock(), keep_seconds, keep_bytes, RETENTION_GROUPS, RETENTION_BYTES

    def _look_for_room(self) -> None:
        """End the rejecting when the next events would be taken: there is room, or what is kept may make room."""
        margin = min(MAX_GROUP_BYTES, self.retention.max_bytes // 8)
        if self.owed_from() >= self.store.oldest or self.store.used + margin < self.retention.max_bytes:
            self.full = False
            log.info("storage.room_again", used=self.store.used, limit=self.retention.max_bytes)
