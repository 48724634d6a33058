"""What the other rooms see of the log: append by handing in, read by position, and what is known of its state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import trio
from attrs import define, field, frozen

from synceventsd.core.again import cannot_send_again
from synceventsd.core.errors import LogDamaged, RetryRefused, StorageUnavailable
from synceventsd.core.filters import Filter
from synceventsd.core.ledger import Entry, Incident
from synceventsd.core.model import Group
from synceventsd.core.positions import Epochs, Position, Resume, resume
from synceventsd.eventlog.commits import Commit
from synceventsd.eventlog.committer import Committer, Retention
from synceventsd.eventlog.lane import Lane
from synceventsd.eventlog.reader import Backlog, ProducerState, Reader, Scan
from synceventsd.eventlog.store import Store, new_epoch_name
from synceventsd.eventlog.tail import Tail
from synceventsd.logs import get_logger

log = get_logger("eventlog")
T = TypeVar("T")

SCAN_BYTES: Final = 2 * 2**20  # how much text one look for the beginning of a replay goes through: some 10 ms

# Seconds for which publishers at full speed wait between two turns while the forwarder is late: a tenth more events got
# through, of eight of them and with a reader of everything.
GIVE_WAY: Final = 0.002

READ_BYTES: Final = 2**20  # how much text one read from the disk brings: some 2 ms, a few chunks for a reader


@frozen
class Slice:
    """Consecutive groups for one reader.

    Attributes:
        groups: oldest first; the first may begin before the position asked for.
        upto: everything that the reader may see up to this number is in `groups`.
    """

    groups: Sequence[Group]
    upto: int


@frozen
class LogStatistics:
    """A snapshot for people and metrics; sizes in bytes."""

    last: int
    oldest: int
    forwarded: int
    used: int
    limit: int
    pending_bytes: int
    ballast: int
    failing: str | None
    full: bool


@define(eq=False)
class EventLog:
    """The durable log. One owner of every number: `last`, `oldest`, `forwarded`.

    Attributes:
        last: number of the newest durable event (0: none yet).
        forwarded: Redis has executed everything up to this number; equals `last` where Redis is off.
    """

    _store: Store
    _lane: Lane
    _reader: Reader
    _index: Reader
    committer: Committer = field(init=False)
    last: int = field(init=False)
    _retention: Retention
    _wall_clock: Callable[[], float]
    _forwarding: bool
    _mark: Position = field(init=False)
    _syncs_upto: int = field(default=0, init=False)
    _damaged: bool = field(default=False, init=False)
    _save_syncs: Callable[[], Awaitable[None]] | None = field(default=None, init=False)
    _followers: list[Callable[[Group], None]] = field(factory=list, init=False)
    _tail: Tail = field(factory=Tail, init=False)
    _moved: trio.Event = field(factory=trio.Event, init=False)
    _reading: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1), init=False)
    _looking_up: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1), init=False)

    def __attrs_post_init__(self) -> None:
        self.last = self._store.last
        self._mark = Position(self.epochs.current.name, min(self._store.forwarded, self.last))
        self.committer = Committer(
            self._store,
            self._lane,
            self._retention,
            self._wall_clock,
            self._on_commit,
            lambda: min(self.forwarded, self._syncs_upto),
            lambda: self.forwarded,
            self._release,
            self._reopen,
        )

    # State

    @property
    def log_id(self) -> str:
        """Return the log's UUID; a new log is never taken for an old one."""
        return self._store.log_id

    @property
    def epochs(self) -> Epochs:
        """Return the epochs, the running one last."""
        return self._store.epochs

    @property
    def oldest(self) -> int:
        """Return the number of the oldest event kept; `last + 1` when none is."""
        return self._store.oldest

    @property
    def forwarded(self) -> int:
        """Return up to which number Redis has executed everything."""
        return self.epochs.still_out(self._mark) if self._forwarding else self.last

    def mark_forwarded(self, position: Position) -> None:
        """Note that everything up to `position` is out; saved with the next commit, at the latest a second later.

        Lower than before is possible: where Redis lost the cursor, events go out again. What went out under an epoch
        that is over counts only as far as later ones do not send it again.
        """
        self._mark = position

    async def send_again(self, seq: int, uid: int) -> tuple[int, int]:
        """Have the events from number `seq` on go out to Redis again; return the first and the last that do.

        Durable when it returns, also while Redis is down: the forwarder sees the new epoch, or the next start does. It
        waits while the log cannot be written. Cancelled, it is done or not begun.

        Args:
            seq: at least 1.
            uid: of the user who asks for it.

        Raises:
            RetryRefused: these events are not there, or Redis is off.
            LogDamaged: the log broke; the next start salvages it.
        """
        async with self.committer.turn:
            refusal = cannot_send_again(seq, self.oldest, self.last, forwarding=self._forwarding)
            if refusal is not None:
                raise RetryRefused(*refusal)
            name, last = new_epoch_name(), self.last
            await self.committer.insist(
                self._store.begin_again, name, seq - 1, unless=lambda: self.epochs.current.name == name
            )
        log.warning("redis.retry", first=seq, last=last, uid=uid)
        detail = "sent again to Redis, as this user asked"
        self.note(Incident("retried", last - seq + 1, uid=uid, first=seq, last=last, detail=detail))
        await self.wait_noted()
        return seq, last

    def statistics(self) -> LogStatistics:
        """Return a snapshot."""
        return LogStatistics(
            self.last,
            self.oldest,
            self.forwarded,
            self._store.used,
            self._retention.max_bytes,
            self.committer.pending_bytes,
            self._store.ballast.held,
            self.committer.failing,
            self.committer.full,
        )

    def before_pruning(self, save: Callable[[], Awaitable[None]]) -> None:
        """Call `save` when room is needed and `save_syncs` is all that keeps events from being deleted."""
        self._save_syncs = save

    async def _release(self) -> bool:
        before = self._syncs_upto
        if before < self.forwarded and self._save_syncs is not None:
            await self._save_syncs()
        return self._syncs_upto > before

    async def _reopen(self, full: bool) -> None:
        """Open the file again for writing, after a failure.

        As long as any connection of this process is open, SQLite keeps a closed one's descriptor and takes it again. So
        the readers are closed too, but for a full disk: there the old descriptor is as good, and they could perhaps not
        be opened again.

        Raises:
            StorageUnavailable: it cannot be opened now.
        """
        if full:
            await self.committer.in_lane(self._store.reopen)
            return
        async with self._reading, self._looking_up:
            for reader in (self._reader, self._index):
                reader.close()
            try:
                await self.committer.in_lane(self._store.reopen)
            finally:
                for reader in (self._reader, self._index):
                    with suppress(StorageUnavailable):  # then the next reopening opens it
                        reader.open()

    def follow(self, follower: Callable[[Group], None]) -> None:
        """Call `follower(group)` for each group once it is durable and before any line of it is acknowledged."""
        self._followers.append(follower)

    def _on_commit(self, groups: Sequence[Group]) -> None:
        for group in groups:
            self._tail.add(group)
            self.last = group.last
            for follower in self._followers:
                follower(group)
        self._moved.set()
        self._moved = trio.Event()

    async def give_way(self) -> None:
        """Let everybody else have a turn, and the forwarder a little more where it is about to fall behind the tail.

        From the disk it is slower, so it would stay behind for as long as the load lasts. Where Redis is away it falls
        behind all the same, and then nobody waits.
        """
        late = self._forwarding and self._tail.is_late(self._mark.seq)
        await trio.sleep(GIVE_WAY if late else 0)

    async def wait_beyond(self, seq: int) -> None:
        """Wait until there is an event beyond number `seq`."""
        while self.last <= seq:
            await self._moved.wait()

    # Reading

    def tail_beyond(self, after: int) -> Slice | None:
        """Return the groups beyond `after` from memory, or None when they reach further back than that."""
        if after >= self.last:
            return Slice((), self.last)
        return Slice(self._tail.beyond(after), self.last) if self._tail.covers(after) else None

    async def read(self, after: int, business: int | None = None, max_bytes: int = READ_BYTES) -> Slice:
        """Return groups beyond `after`, from memory where they are there, else up to `max_bytes` from the disk.

        Raises:
            StorageUnavailable: the log cannot be read now.
            LogDamaged: the next group does not read.
        """
        recent = self.tail_beyond(after)
        if recent is not None:
            return recent
        last = self.last
        try:
            groups, complete = await self._read(
                self._reader.groups, lambda: self.epochs, after, max_bytes, business, last
            )
        except LogDamaged as damage:
            if not self.committer.book.covers("log_damaged", after + 1, damage.last):  # salvaged, and told then
                await self._note_damage(damage)
            raise
        reached = groups[-1].last if groups else after
        return Slice(groups, max(last, reached) if complete else reached)

    async def end_of_damage(self, after: int, damage: LogDamaged) -> int:
        """Return the number of the last event, beyond `after`, that does not read; `read(after)` raised `damage`.

        Raises:
            StorageUnavailable: the log cannot be read now.
        """
        # In a broken tree SQLite may say of what comes next that it comes before: nobody is led back.
        last = after + 1 if damage.last is None else max(after + 1, damage.last)
        while damage.last is None and last < self.last:
            try:
                await self.read(last, max_bytes=1)
            except LogDamaged:
                last += 1
            else:
                break
        return last

    async def replay_start(self, filter_: Filter, count: int) -> int:
        """Return the number after which the newest `count` events that match begin."""
        if count <= 0 or self.last == 0:
            return self.last
        scan = Scan(None, count, self.last)
        while scan.start is None:  # in slices, so that a narrow filter keeps nobody else from reading
            try:
                scan = await self._read(self._reader.replay_start, filter_, scan.wanted, scan.down_from, SCAN_BYTES)
            except LogDamaged as damage:  # what lies before it is out of reach
                await self._note_damage(damage)
                scan = Scan(scan.down_from, 0, 0)
        return max(scan.start, self.oldest - 1)

    async def producer(self, producer: str, acked: int) -> ProducerState:
        """Return what is known of a producer.

        Raises:
            LogDamaged: it does not read; the daemon ends, because without its count nothing of it can be accepted.
        """
        try:
            return await self._look_up(self._index.producer, producer, acked)
        except LogDamaged as damage:
            await self._note_damage(damage)
            self.committer.condemn(damage)
            raise

    async def backlog(self) -> Backlog:
        """Return what waits for Redis: bytes of text, and since when the oldest of it waits."""
        if self.forwarded >= self.last:
            return Backlog(0, None)
        return await self._look_up(self._index.backlog, self.forwarded, self._store.total_bytes)

    async def accepted_after(self, after: int) -> float | None:
        """Return when the first event beyond number `after` was accepted; None when there is none."""
        recent = self.tail_beyond(after)
        if recent is None:
            return (await self._look_up(self._index.backlog, after, 0)).oldest_at
        return recent.groups[0].accepted_at if recent.groups else None

    def resume(self, last_event_id: str) -> Resume:
        """Return where the reader who sent this `Last-Event-ID` goes on."""
        return resume(last_event_id, self.epochs, self.oldest, self.last)

    def position(self, seq: int) -> Position:
        """Return the position right after event `seq`, to be given to somebody who will come back with it."""
        return self.epochs.at(seq)

    # The sync status, which lives beside the events

    async def load_syncs(self) -> tuple[int, list[bytes]]:
        """Return the saved sync states and the number of the event after which they were saved."""
        try:
            upto, states = await self._look_up(self._index.syncs)
        except LogDamaged as damage:
            await self._note_damage(damage)
            upto, states = 0, []
        self._syncs_upto = upto
        return upto, states

    async def save_syncs(self, rows: Sequence[tuple[int, int, bytes]], upto: int) -> None:
        """Save changed sync states; retention takes no event that they do not cover."""
        await self.committer.in_lane(self._store.save_syncs, rows, upto)
        self._syncs_upto = upto

    async def save_mark(self) -> None:
        """Save up to where Redis has everything.

        Raises:
            StorageUnavailable: nothing was saved.
        """
        commit = Commit(at=self._wall_clock(), forwarded=self.forwarded, ledger=self.committer.book.take())
        await self.committer.in_lane(self._store.append, commit)
        self.committer.book.saved(commit.ledger)

    # The ledger

    def note(self, incident: Incident) -> bool:
        """Write down what was rejected, lost, dropped or skipped. Return whether that began a new entry.

        Saved with the next commit, at the latest ten seconds later.
        """
        return self.committer.note(incident)

    async def wait_noted(self) -> None:
        """Wait until what was written into the ledger so far is durable; for as long as the log cannot be written."""
        await self.committer.wait_noted()

    def ledger(self, newest: int = 50) -> list[Entry]:
        """Return the newest entries of the ledger."""
        return self.committer.book.newest(newest)

    def ledger_totals(self) -> dict[str, int]:
        """Return how many there ever were, by reason."""
        return dict(self.committer.book.totals)

    async def _note_damage(self, damage: LogDamaged) -> None:
        """Have the next start salvage the log, and tell of it once."""
        if not self._damaged:
            self._damaged = True
            log.error("log.damaged", reason=str(damage), effect="read over; the next start salvages the log")
            await trio.to_thread.run_sync(self._store.suspect)

    async def _read(self, work: Callable[..., T], *args: Any) -> T:
        # Never abandoned: the thread must not use the connection while the next one does.
        return await trio.to_thread.run_sync(work, *args, limiter=self._reading)

    async def _look_up(self, work: Callable[..., T], *args: Any) -> T:
        """Read a few rows on a connection of their own: a publisher's hello does not queue behind replays."""
        return await trio.to_thread.run_sync(work, *args, limiter=self._looking_up)
