"""The writing side: one connection, called from one thread at a time, never from the event loop's.

Rule of this file: a method is one transaction, so that a crash leaves all of it or nothing.
"""

from __future__ import annotations

import secrets
import sqlite3
import uuid
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import astuple, define, field, frozen

from synceventsd.core.errors import LogDamaged, StorageUnavailable
from synceventsd.core.ledger import Changes, Entry
from synceventsd.core.model import Group
from synceventsd.core.positions import EPOCH_BYTES, Epoch, Epochs
from synceventsd.eventlog.schema import AGAIN_KEY, FILE_NAME, SCHEMA_VERSION, Durability, connect_writer, translated

SUSPECT_SUFFIX: Final = "-suspect"  # of a file beside the log; moved aside with it

# A producer that sends only rubbish must not fill the disk with explanations of it.
MAX_REJECTS_KEPT: Final = 20_000

_LEDGER: Final = "SELECT id, reason, uid, at, coalesce(until, at), first, last, count, detail FROM ledger ORDER BY id"
_OLDEST_GROUPS: Final = (
    "SELECT first, count, accepted_at, bytes_before, length(lines), businesses FROM event_group ORDER BY first LIMIT ?"
)

# How much may be written to the WAL before a commit is followed by a checkpoint, so that its cost is spread over many
# groups; and what a commit writes beside the text, at least: a page for each of the tables and indexes it touches.
CHECKPOINT_BYTES: Final = 16 * 2**20
COMMIT_OVERHEAD: Final = 6 * 4096


@frozen
class ProducerCount:
    """How many lines of a producer are dealt with for good."""

    producer: str
    uid: int
    accepted: int


@frozen
class RejectRow:
    """A line of a producer that was not stored, kept so that it can be told again."""

    producer: str
    line: int
    event_id: str | None
    code: str
    error: str


@frozen
class Commit:
    """Everything that one transaction writes.

    `forget_before`: producers last seen before then (seconds since 1970) are forgotten, with their rejects.
    """

    at: float
    groups: Sequence[Group] = ()
    producers: Sequence[ProducerCount] = ()
    rejects: Sequence[RejectRow] = ()
    forwarded: int = 0
    seen: Sequence[tuple[str, int]] = ()  # producer, acked: said hello since the last commit
    ledger: Changes = Changes()  # noqa: RUF009 (immutable)
    forget_before: float | None = None


@define(eq=False)
class Store:
    """The log's writing connection and what only it knows."""

    path: Path
    durability: Durability
    log_id: str = ""
    epochs: Epochs = field(factory=lambda: Epochs(()))
    last: int = 0
    oldest: int = 1
    forwarded: int = 0
    total_bytes: int = 0
    oldest_bytes: int = 0
    used: int = 0
    ledger: Sequence[Entry] = ()
    rejects_dropped: int = 0  # since somebody asked: those that MAX_REJECTS_KEPT left no room for
    _db: sqlite3.Connection | None = None
    _wal_bytes: int = 0

    # Opening and closing

    def open(self) -> None:
        """Open the file, check its end, and make everything that is in it durable.

        Raises:
            LogDamaged: it is not a log of ours, or its newest group does not read.
            StorageUnavailable: it cannot be opened now.
        """
        if self._suspect.exists():
            raise LogDamaged("an earlier run met damage while writing")
        with translated():
            self._db = connect_writer(self.path, self.durability)
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise StorageUnavailable(
                f"{self.path} has tables of version {version}, this program knows version {SCHEMA_VERSION}: "
                "run the newer synceventsd, or name another storage.state_dir"
            )
        self._read_state()
        # After a failed fsync the kernel may show pages that never reached the disk, and call them clean. A full
        # checkpoint writes them again, from what we read, to another file, and syncs that.
        self._checkpoint("TRUNCATE")

    def _read_state(self) -> None:
        with translated():
            meta = dict(self._connection.execute("SELECT key, value FROM meta"))
            epochs = self._connection.execute("SELECT name, first FROM epoch ORDER BY number").fetchall()
            newest = self._connection.execute(
                "SELECT first, count, bytes_before, crc, lines FROM event_group ORDER BY first DESC LIMIT 1"
            ).fetchone()
            oldest = self._connection.execute(
                "SELECT first, bytes_before FROM event_group ORDER BY first LIMIT 1"
            ).fetchone()
            ledger = self._connection.execute(_LEDGER).fetchall()
        self.ledger = [Entry(*row) for row in ledger]
        self.log_id = str(meta.get("log_id", ""))
        self.forwarded = int(meta.get("forwarded", 0))
        self.epochs = Epochs(tuple(Epoch(name, first, meta.get(AGAIN_KEY + name)) for name, first in epochs))
        # Retention may take every event away; their numbers must not come back.
        self.last = int(meta.get("last_deleted", 0))
        self.total_bytes = int(meta.get("deleted_bytes", 0))
        self.oldest, self.oldest_bytes = self.last + 1, self.total_bytes
        if newest is not None:
            first, count, before, crc, lines = newest
            if zlib.crc32(lines) != crc:
                raise LogDamaged(f"checksum of the newest group (from event {first}) does not match")
            self.last, self.total_bytes = first + count - 1, before + len(lines)
            self.oldest, self.oldest_bytes = oldest
        self._wal_bytes = 1  # whatever an earlier connection left; the check-in below tells
        self._measure()

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
        self._wal_bytes += COMMIT_OVERHEAD
        self.epochs = Epochs((*self.epochs.items, again))
        self.forwarded = min(self.forwarded, after)

    @property
    def _suspect(self) -> Path:
        return self.path.with_name(f"{self.path.name}{SUSPECT_SUFFIX}")

    def suspect(self) -> None:
        """Have the next start salvage the log: damage was met that a look at its end would not show."""
        self._suspect.touch()

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
            text = b"\n".join(group.lines)
            businesses = array("I", group.by_business).tobytes()
            rows.append((group.first, len(group.lines), group.accepted_at, total, zlib.crc32(text), businesses, text))
            total += len(text)
        with self._transaction() as db:
            if rows:
                db.executemany("INSERT INTO event_group VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
                db.executemany(
                    "INSERT INTO place VALUES (?, ?)",
                    [(business, group.first) for group in commit.groups for business in group.by_business],
                )
            dropped = self._write_producers(db, commit)
            _write_ledger(db, commit.ledger)
            if commit.forwarded > self.forwarded:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('forwarded', ?)", (commit.forwarded,))
        self._wal_bytes += COMMIT_OVERHEAD + total - self.total_bytes
        if commit.groups:
            self.last, self.total_bytes = commit.groups[-1].last, total
        self.forwarded = max(self.forwarded, commit.forwarded)
        self.rejects_dropped += dropped
        self._measure()

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

    def prune(self, upto: int, older_than: float, keep_bytes: int, max_groups: int, max_bytes: int) -> int:
        """Delete the oldest groups that nobody is owed any more.

        Args:
            upto: only groups that end at or before this number may go.
            older_than: those accepted before this go for their age (seconds since 1970).
            keep_bytes: the oldest go until no more text than this is left.
            max_groups, max_bytes: at most so many groups and (all but the last) so much text in one call, so that no
                commit waits long.

        Returns:
            How many groups went.
        """
        gone = []
        with translated(), closing(self._connection.cursor()) as rows:
            for first, count, accepted_at, before, size, businesses in rows.execute(_OLDEST_GROUPS, (max_groups,)):
                wanted = accepted_at < older_than or self.total_bytes - before > keep_bytes
                if first + count - 1 > upto or not wanted or before - self.oldest_bytes > max_bytes:
                    break
                gone.append((first, first + count, before + size, businesses))
        if not gone:
            return 0
        last_first, oldest, oldest_bytes, _ = gone[-1]
        with self._transaction() as db:
            db.execute("DELETE FROM event_group WHERE first <= ?", (last_first,))
            db.executemany(
                "DELETE FROM place WHERE business = ? AND first = ?",
                [(business, first) for first, _, _, packed in gone for business in array("I", packed)],
            )
            db.execute("INSERT OR REPLACE INTO meta VALUES ('last_deleted', ?)", (oldest - 1,))
            db.execute("INSERT OR REPLACE INTO meta VALUES ('deleted_bytes', ?)", (oldest_bytes,))
        self._wal_bytes += COMMIT_OVERHEAD * (1 + len(gone) // 8)
        self.oldest, self.oldest_bytes = oldest, oldest_bytes
        self._measure()
        return len(gone)

    # Upkeep

    @property
    def checkpoint_due(self) -> bool:
        """Return whether the WAL has grown so much that it must be moved into the database, load or no load."""
        return self._wal_bytes >= CHECKPOINT_BYTES

    def checkpoint_if_due(self, *, idle: bool) -> None:
        """Move the WAL into the database when it has grown, or when there is time for it."""
        if self.checkpoint_due or (idle and self._wal_bytes > 0):
            self._checkpoint("PASSIVE")

    def _checkpoint(self, mode: str) -> None:
        with translated():
            busy, frames, moved = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        if not busy and frames == moved:  # else a reader is in the way; it is short, and the next try comes soon
            self._wal_bytes = 0

    def _measure(self) -> None:
        with translated():
            pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
            free = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
            size = self._connection.execute("PRAGMA page_size").fetchone()[0]
        self.used = (pages - free) * size

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


def _write_ledger(db: sqlite3.Connection, changes: Changes) -> None:
    """Save entries as they are now: done twice, it is the same."""
    db.executemany("DELETE FROM ledger WHERE id = ?", [(key,) for key in changes.gone])
    db.executemany(
        "INSERT OR REPLACE INTO ledger (id, reason, uid, at, until, first, last, count, detail)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [astuple(entry) for entry in changes.entries],
    )


def new_epoch_name() -> str:
    """Return a name that no epoch has had."""
    return secrets.token_hex(EPOCH_BYTES)


def store_in(state_dir: Path, durability: Durability) -> Store:
    """Return the store of a state directory, not yet opened."""
    return Store(state_dir / FILE_NAME, durability)
