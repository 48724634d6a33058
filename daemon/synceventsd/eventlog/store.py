"""The writing side: one connection, called from one thread at a time, never from the event loop's.

Rule of this file: a method is one transaction, so that a crash leaves all of it or nothing.
"""

from __future__ import annotations

import secrets
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, Final

from attrs import astuple, define, field

from synceventsd.core.errors import LogDamaged, StartupError, StorageUnavailable
from synceventsd.core.ledger import Changes, Entry
from synceventsd.core.positions import EPOCH_BYTES, Epoch, Epochs
from synceventsd.eventlog import wal
from synceventsd.eventlog.ballast import Ballast, ballast_for
from synceventsd.eventlog.commits import Commit
from synceventsd.eventlog.rows import GROUP_COLUMNS, TEXT, lines_of, row_of, unpacked
from synceventsd.eventlog.schema import (
    AGAIN_KEY,
    FILE_NAME,
    INSERT_GROUP,
    Durability,
    connect_writer,
    insert,
    translated,
)

SUSPECT_SUFFIX: Final = "-suspect"  # of a file beside the log; moved aside with it

# A producer that sends only rubbish must not fill the disk with explanations of it.
MAX_REJECTS_KEPT: Final = 20_000

LEDGER: Final = "SELECT id, reason, uid, at, coalesce(until, at), first, last, count, detail FROM ledger ORDER BY id"
_OLDEST_GROUPS: Final = "SELECT first, accepted_at, bytes_before, businesses FROM event_group ORDER BY first"

CLOCK_SLACK: Final = 1.0  # seconds that a clock may go back without being told: a time server corrects as much

# How much may be written to the WAL before a commit is followed by a checkpoint, which holds up the next ones. With
# 16 MiB that was 6 to 9 ms, the 99th percentile at 5,000 events/s, and full load was a tenth slower. And what a commit
# writes beside the text, at least: a page for each of the tables and indexes it touches.
CHECKPOINT_BYTES: Final = 4 * 2**20
COMMIT_OVERHEAD: Final = 6 * 4096
EVENT_OVERHEAD: Final = 3 * 4  # bytes: whose it is, its checksum, where it lies
REJECT_OVERHEAD: Final = 600  # bytes: the event's id, and what is left free of a page


@define(eq=False)
class Store:
    """The log's writing connection and what only it knows."""

    path: Path
    durability: Durability
    ballast: Ballast
    log_id: str = ""
    epochs: Epochs = field(factory=lambda: Epochs(()))
    last: int = 0
    oldest: int = 1
    forwarded: int = 0
    total_bytes: int = 0
    oldest_bytes: int = 0
    _pages: int = 0  # bytes
    _newest_at: float = 0.0
    _set_back: tuple[int, float] = (0, 0.0)
    ledger: Sequence[Entry] = ()
    rejects_dropped: int = 0  # since somebody asked: those that MAX_REJECTS_KEPT left no room for
    _db: sqlite3.Connection | None = None
    _wal_bytes: int = 0

    # Opening and closing

    def open(self) -> None:
        """Open the file, check its end, and make everything that is in it durable.

        Raises:
            LogDamaged: it is broken, or its newest group does not read.
            StorageUnavailable: it cannot be opened now.
            StartupError: it is not a log of ours.
        """
        self._look_at_files()
        with translated():
            self._db = connect_writer(self.path, self.durability)
        self._read_state()
        # After a failed fsync the kernel may show pages that never reached the disk, and call them clean. A full
        # checkpoint writes them again, from what we read, to another file, and syncs that.
        self._checkpoint("TRUNCATE")

    def _look_at_files(self) -> None:
        """Look for what SQLite would pass over in silence, or destroy by opening the file."""
        log_file, wal_file = self.path, self.path.with_name(f"{self.path.name}-wal")
        if log_file.is_dir():
            raise StartupError(f"{log_file} is a directory: move it away, or name another storage.state_dir")
        if self._suspect.exists():
            raise LogDamaged("an earlier run met damage")
        try:
            if log_file.exists():
                log_file.open("rb").close()
            missing = not (log_file.exists() and log_file.stat().st_size) and wal_file.exists()
            if missing and wal_file.stat().st_size:
                raise LogDamaged("the database is gone, its WAL is here")
            hidden = wal.hides_commits(wal_file)
        except PermissionError as error:
            raise StartupError(f"{error.filename}: {error.strerror}; give it to the user that runs this") from error
        except OSError as error:
            raise StorageUnavailable(f"{error.filename}: {error.strerror}") from error
        if hidden:
            raise LogDamaged("something is broken in the WAL, and there are commits behind it")

    def _read_state(self) -> None:
        with translated():
            meta = dict(self._connection.execute("SELECT key, value FROM meta"))
            epochs = self._connection.execute("SELECT name, first FROM epoch ORDER BY number").fetchall()
            newest = self._connection.execute(
                f"SELECT {GROUP_COLUMNS} FROM event_group ORDER BY first DESC LIMIT 1"  # noqa: S608 (our own text)
            ).fetchone()
            oldest = self._connection.execute(
                "SELECT first, bytes_before FROM event_group ORDER BY first LIMIT 1"
            ).fetchone()
            ledger = self._connection.execute(LEDGER).fetchall()
        self.ledger = entries_of(ledger)
        self.log_id = str(meta.get("log_id", ""))
        self.forwarded = _number(meta, "forwarded")
        self._set_back = (_number(meta, "set_back_upto"), _number(meta, "set_back_at"))
        if not all(isinstance(name, str) and isinstance(first, int) for name, first in epochs):
            raise LogDamaged("an epoch does not read")
        again = [meta.get(f"{AGAIN_KEY}{name}") for name, _ in epochs]
        if not all(after is None or isinstance(after, int) for after in again):
            raise LogDamaged("which events are to be sent again does not read")
        self.epochs = Epochs(
            tuple(Epoch(name, first, after) for (name, first), after in zip(epochs, again, strict=True))
        )
        # Retention may take every event away; their numbers must not come back.
        self.last = _number(meta, "last_deleted")
        self.total_bytes = _number(meta, "deleted_bytes")
        self.oldest, self.oldest_bytes = self.last + 1, self.total_bytes
        if newest is not None:
            if lines_of(newest) is None:
                raise LogDamaged(f"checksum of the newest group (from event {newest[0]}) does not match")
            first, count, self._newest_at, before, _, _, lines, *_ = newest
            self.last, self.total_bytes = first + count - 1, before + len(lines)
            self.oldest, self.oldest_bytes = oldest
            if not isinstance(self.oldest_bytes, int) or not 0 < self.oldest <= first:
                raise LogDamaged("the oldest group does not read")
        self._wal_bytes = 1  # whatever an earlier connection left; the check-in below tells
        self.measure()

    def begin_epoch(self) -> None:
        """Write a new epoch, and the log's name if it has none yet; comes before the first append of every start."""
        name = new_epoch_name()
        log_id = self.log_id or str(uuid.uuid4())
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('log_id', ?)", (log_id,))
            db.execute("INSERT INTO epoch (name, first) VALUES (?, ?)", (name, self.last + 1))
            # A log that lost its end to damage gives those numbers out again: they are neither out nor folded.
            db.execute(
                "UPDATE meta SET value = min(value, ?) WHERE key IN ('forwarded', 'syncs_upto')",
                (self.last,),
            )
        self.log_id, self.forwarded = log_id, min(self.forwarded, self.last)
        self.epochs = Epochs((*self.epochs.items, Epoch(name, self.last + 1)))

    def begin_again(self, name: str, after: int) -> None:
        """Write a new epoch that has the events after number `after` sent again.

        No group may have been composed before and be written after it: it would bear the older epoch's name.
        """
        again = Epoch(name, self.last + 1, after)
        with self._transaction() as db:
            db.execute("INSERT INTO epoch (name, first) VALUES (?, ?)", (name, again.first))
            db.execute("INSERT INTO meta VALUES (?, ?)", (AGAIN_KEY + name, after))
            db.execute("UPDATE meta SET value = min(value, ?) WHERE key = 'forwarded'", (after,))
        self._grow(COMMIT_OVERHEAD)
        self.epochs = Epochs((*self.epochs.items, again))
        self.forwarded = min(self.forwarded, after)

    @property
    def _suspect(self) -> Path:
        return self.path.with_name(f"{self.path.name}{SUSPECT_SUFFIX}")

    def suspect(self) -> None:
        """Have the next start salvage the log: damage was met that a look at its end would not show."""
        with suppress(OSError):  # then the next start finds it when somebody reads or writes there again
            self._suspect.touch()

    @property
    def used(self) -> int:
        """Return how many bytes the events and the ballast take, as they were counted since they were measured."""
        return self._pages + self.ballast.held

    def reopen(self) -> None:
        """Open the file again after a failure; what the failed transaction left is read anew, and durable then.

        Raises:
            StorageUnavailable: it cannot be opened, or a reader kept the check-in from being complete.
            LogDamaged: it does not read.
        """
        self.disconnect()
        self.open()
        if self._wal_bytes:
            self.disconnect()
            raise StorageUnavailable("a reader is in the way of writing everything again")

    def close(self) -> None:
        """Check everything in and close; never raises, because what is committed is durable already."""
        if self._db is not None:
            with suppress(StorageUnavailable, LogDamaged):
                self._checkpoint("TRUNCATE")
            self.disconnect()

    def disconnect(self) -> None:
        """Close the connection and nothing else."""
        db, self._db = self._db, None
        if db is not None:
            # The descriptor is gone either way, and nothing was promised about what was not committed.
            with suppress(sqlite3.Error):
                db.close()

    # Writing

    def append(self, commit: Commit) -> None:
        """Write one group commit; durable when it returns.

        Raises:
            StorageUnavailable, LogDamaged: nothing was promised; whether it was written is known after `reopen`.
        """
        total = self.total_bytes
        rows = []
        for group in commit.groups:
            row = row_of(group.first, group.accepted_at, total, group.whose, group.lines)
            rows.append(row)
            total += len(row[TEXT])
        with self._transaction() as db:
            self._notice_clock(db, commit.at)
            db.executemany(INSERT_GROUP, rows)
            insert(db, "place", [(business, group.first) for group in commit.groups for business in group.by_business])
            dropped = self._write_producers(db, commit)
            write_ledger(db, commit.ledger)
            if commit.forwarded > self.forwarded:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('forwarded', ?)", (commit.forwarded,))
        beside = sum(EVENT_OVERHEAD * len(group.lines) for group in commit.groups)  # the text
        beside += sum(len(row.error) + REJECT_OVERHEAD for row in commit.rejects)
        self._grow(COMMIT_OVERHEAD + total - self.total_bytes + beside)
        if commit.groups:
            self.last, self.total_bytes = commit.groups[-1].last, total
            self._newest_at = commit.at
        self.forwarded = max(self.forwarded, commit.forwarded)
        self.rejects_dropped += dropped

    def _notice_clock(self, db: sqlite3.Connection, now: float) -> None:
        """Where the clock was set back, note that what it had put into the future was accepted now at the latest."""
        if self._newest_at - now > CLOCK_SLACK:
            values = (("set_back_upto", self.last), ("set_back_at", int(now)))
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)
            self._set_back, self._newest_at = (self.last, int(now)), now

    def _write_producers(self, db: sqlite3.Connection, commit: Commit) -> int:
        """Save what is known of producers; return how many rejects there was no room for."""
        dropped = 0
        for producer, acked in commit.seen:
            # One of whom no line is known yet gets no row: there is nothing to remember, and a hello costs nothing.
            db.execute("UPDATE producer SET seen_at = ? WHERE id = ?", (commit.at, producer))
            db.execute("DELETE FROM reject WHERE producer = ? AND line <= ?", (producer, acked))
        if commit.producers:
            db.executemany(
                "INSERT INTO producer VALUES (?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET accepted = excluded.accepted, seen_at = excluded.seen_at",
                [(count.producer, count.uid, count.accepted, commit.at) for count in commit.producers],
            )
        if commit.rejects:
            db.executemany(
                "INSERT OR REPLACE INTO reject VALUES (?, ?, ?, ?, ?)",
                [(row.producer, row.line, row.event_id, row.code, row.error) for row in commit.rejects],
            )
            for producer in {row.producer for row in commit.rejects}:
                dropped += db.execute(
                    "DELETE FROM reject WHERE producer = ?1 AND line <= "
                    "(SELECT line FROM reject WHERE producer = ?1 ORDER BY line DESC LIMIT 1 OFFSET ?2)",
                    (producer, MAX_REJECTS_KEPT),
                ).rowcount
        if commit.forget_before is not None:
            before = (commit.forget_before,)
            db.execute("DELETE FROM reject WHERE producer IN (SELECT id FROM producer WHERE seen_at < ?)", before)
            db.execute("DELETE FROM producer WHERE seen_at < ?", before)
        return dropped

    def save_syncs(self, rows: Sequence[tuple[int, int, bytes]], upto: int) -> None:
        """Save the sync states as they were after event `upto`, together with that number."""
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO sync VALUES (?, ?, ?)", rows)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('syncs_upto', ?)", (upto,))

    def seen_before(self, before: float) -> int:
        """Return how many producers were last seen before then (seconds since 1970)."""
        with translated():
            row = self._connection.execute("SELECT count(*) FROM producer WHERE seen_at < ?", (before,)).fetchone()
        return int(row[0])

    def prune(
        self, upto: int, now: float, keep_seconds: float, keep_bytes: int, max_groups: int, max_bytes: int
    ) -> int:
        """Delete the oldest groups that nobody is owed any more.

        Args:
            upto: only groups that end at or before this number may go.
            now: seconds since 1970.
            keep_seconds: those accepted longer ago go for their age; what the clock put into the future counts as
                accepted when that was noticed.
            keep_bytes: the oldest go until no more text than this is left.
            max_groups, max_bytes: at most so many groups and (all but the last) so much text in one call, so that no
                commit waits long.

        Returns:
            How many groups went.
        """
        if self._newest_at - now > CLOCK_SLACK:
            with self._transaction() as db:
                self._notice_clock(db, now)
        gone, oldest, oldest_bytes = self._outlived(upto, now, keep_seconds, keep_bytes, max_groups, max_bytes)
        if not gone:
            return 0
        last_first = gone[-1][0]
        with self._transaction() as db:
            db.execute("DELETE FROM event_group WHERE first <= ?", (last_first,))
            db.executemany(
                "DELETE FROM place WHERE business = ? AND first = ?",
                [(business, first) for first, packed in gone for business in set(unpacked(packed))],
            )
            db.execute("INSERT OR REPLACE INTO meta VALUES ('last_deleted', ?)", (oldest - 1,))
            db.execute("INSERT OR REPLACE INTO meta VALUES ('deleted_bytes', ?)", (oldest_bytes,))
            # What goes was out; the mark that says so may not be saved yet.
            db.execute(
                "INSERT INTO meta VALUES ('forwarded', ?)"
                " ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)",
                (oldest - 1,),
            )
        self._grow(COMMIT_OVERHEAD * (1 + len(gone) // 8))
        self.oldest, self.oldest_bytes = oldest, oldest_bytes
        self.forwarded = max(self.forwarded, oldest - 1)
        self.measure()
        return len(gone)

    def _outlived(
        self, upto: int, now: float, keep_seconds: float, keep_bytes: int, max_groups: int, max_bytes: int
    ) -> tuple[list[tuple[int, bytes]], int, int]:
        """Return the groups that are to go, and where the log begins without them: number and bytes."""
        set_back_upto, set_back_at = self._set_back
        gone: list[tuple[int, bytes]] = []
        oldest, oldest_bytes = self.oldest, self.oldest_bytes
        with translated(), closing(self._connection.cursor()) as rows:
            # Row by row: as a rule nothing is to go, and to read all that might took a sixth of the writer's time.
            groups = chain(rows.execute(_OLDEST_GROUPS), [(self.last + 1, 0.0, self.total_bytes, b"")])
            # A group ends where the next one begins: its own count is not believed without its checksum.
            for group, (next_first, _, next_before, _) in islice(pairwise(groups), max_groups):
                first, accepted_at, before, businesses = group
                if not (isinstance(accepted_at, float) and isinstance(before, int) and isinstance(next_before, int)):
                    raise LogDamaged(f"the group from event {first} does not read")
                at = min(accepted_at, set_back_at) if first <= set_back_upto else accepted_at
                wanted = at < now - keep_seconds or self.total_bytes - before > keep_bytes
                if next_first - 1 > upto or not wanted or before - self.oldest_bytes > max_bytes:
                    break
                gone.append((first, businesses))
                oldest, oldest_bytes = next_first, next_before
        return gone, oldest, oldest_bytes

    # Upkeep

    @property
    def checkpoint_due(self) -> bool:
        """Return whether the WAL has grown so much that it must be moved into the database, load or no load."""
        return self._wal_bytes >= CHECKPOINT_BYTES

    def checkpoint_if_due(self, *, idle: bool) -> None:
        """Move the WAL into the database when it has grown, or when there is time for it."""
        if self.checkpoint_due or (idle and self._wal_bytes > 0):
            self._checkpoint("PASSIVE")
        else:
            self.measure()

    def check_in(self) -> None:
        """Move all of the WAL into the database and give its room back, as far as readers let us."""
        self._checkpoint("TRUNCATE")

    def _checkpoint(self, mode: str) -> None:
        with translated():
            busy, frames, moved = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        if not busy and frames == moved:  # else a reader is in the way; it is short, and the next try comes soon
            self._wal_bytes = 0
        self.measure()

    def _grow(self, written: int) -> None:
        """Count what was written, until somebody looks: to ask SQLite after each commit costs each a thirtieth."""
        self._wal_bytes += written
        self._pages += written

    def measure(self) -> None:
        """Look how much the events take. Between two checkpoints that is counted, as a rule somewhat too high.

        Raises:
            StorageUnavailable, LogDamaged: it cannot be told.
        """
        with translated():
            pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
            free = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
            size = self._connection.execute("PRAGMA page_size").fetchone()[0]
        self._pages = (pages - free) * size

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StorageUnavailable("the log is not open")
        return self._db

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._connection
        with translated():
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:  # SQLite has rolled back by itself after some errors (full disk), not after all
                    db.execute("ROLLBACK")


def entries_of(rows: Sequence[Sequence[Any]]) -> list[Entry]:
    """Return the ledger's rows as entries.

    Raises:
        LogDamaged: one of them cannot be what was written.
    """
    entries = [Entry(*row) for row in rows]
    for entry in entries:
        wanted = (entry.id, int), (entry.reason, str), (entry.at, float), (entry.until, float), (entry.count, int)
        if not all(isinstance(value, kind) for value, kind in (*wanted, (entry.detail, str))):
            raise LogDamaged(f"entry {entry.id} of the ledger does not read")
    return entries


def write_ledger(db: sqlite3.Connection, changes: Changes) -> None:
    """Save entries as they are now: done twice, it is the same."""
    if not (changes.gone or changes.entries):
        return
    db.executemany("DELETE FROM ledger WHERE id = ?", [(key,) for key in changes.gone])
    db.executemany(
        "INSERT OR REPLACE INTO ledger (id, reason, uid, at, until, first, last, count, detail)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [astuple(entry) for entry in changes.entries],
    )


def new_epoch_name() -> str:
    """Return a name that no epoch has had."""
    return secrets.token_hex(EPOCH_BYTES)


def store_in(state_dir: Path, durability: Durability, max_bytes: int = 0) -> Store:
    """Return the store of a state directory, not yet opened; `max_bytes` bounds the ballast."""
    return Store(state_dir / FILE_NAME, durability, ballast_for(state_dir, max_bytes))


def _number(meta: Mapping[str, object], key: str) -> int:
    value = meta.get(key, 0)
    if not isinstance(value, int):
        raise LogDamaged(f"{key} does not read")
    return value
