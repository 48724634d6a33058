"""The log's tables, and how a connection to them is opened. A change of the tables is a new number here.

SQLite before 3.51.3 can corrupt a WAL database when one connection checkpoints while another commits
(sqlite.org/wal.html, "the WAL-reset bug"). So one connection does all writes and all checkpoints, and every other one
is opened read-only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

from synceventsd.core.errors import LogDamaged, StartupError, StorageUnavailable

Durability = Literal["power", "process"]

FILE_NAME: Final = "events.db"
LOCK_NAME: Final = "lock"  # held by the daemon that uses the directory
APPLICATION_ID: Final = 0x53594556  # "SYEV", so that file(1) and we know the file
SCHEMA_VERSION: Final = 4

# What is in a group's row: see `rows`. The text and what follows it are last, so that SQLite need not read their
# overflow pages to reach the others. In rows of older programs the text lies as it came, and `businesses` may hold each
# business once.
# `bytes_before` adds up the text from the log's beginning: the size of any range is one subtraction, never a scan.
SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE epoch (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, first INTEGER NOT NULL);
CREATE TABLE event_group (
  first INTEGER PRIMARY KEY,
  count INTEGER NOT NULL,
  accepted_at REAL NOT NULL,
  bytes_before INTEGER NOT NULL,
  crc INTEGER NOT NULL,
  businesses BLOB NOT NULL,
  lines BLOB NOT NULL,
  sums BLOB,
  totals BLOB
);
CREATE TABLE place (business INTEGER, first INTEGER, PRIMARY KEY (business, first)) WITHOUT ROWID;
CREATE TABLE producer (
  id TEXT PRIMARY KEY, uid INTEGER NOT NULL, accepted INTEGER NOT NULL, seen_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE reject (
  producer TEXT, line INTEGER, event_id TEXT, code TEXT NOT NULL, error TEXT NOT NULL, PRIMARY KEY (producer, line)
) WITHOUT ROWID;
CREATE TABLE sync (
  integration INTEGER, business INTEGER, state BLOB NOT NULL, PRIMARY KEY (integration, business)
) WITHOUT ROWID;
CREATE TABLE ledger (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, reason TEXT NOT NULL, first INTEGER, last INTEGER, count INTEGER NOT NULL,
  detail TEXT NOT NULL, until REAL, uid INTEGER
);
"""

# What brings a file of an older version to the next one.
_UPGRADES: Final = {
    1: "ALTER TABLE ledger ADD COLUMN until REAL; ALTER TABLE ledger ADD COLUMN uid INTEGER;",
    2: "ALTER TABLE event_group ADD COLUMN sums BLOB;",  # rows without keep the checksum that they have
    3: "ALTER TABLE event_group ADD COLUMN totals BLOB;",  # and so do these
}
# Before an epoch's name, in `meta`: after which number that epoch has events sent again.
AGAIN_KEY: Final = "again:"

INSERT_GROUP: Final = "INSERT INTO event_group VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ROWS_AT_ONCE: Final = 100  # of a few thousand variables that a statement may have
TABLES: Final = frozenset(("meta", "epoch", "event_group", "place", "producer", "reject", "sync", "ledger"))

# What these mean for the reader of the error: the file is broken, as against "cannot be done just now". Our statements
# are right and contradict nothing in a sound file, so a missing table or a key that is there already is damage too.
_NOT_TEXT: Final = "NOT_TEXT"  # the sqlite3 module has no name for a text that is no UTF-8
_DAMAGE: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH", _NOT_TEXT)
# The disk is full. The second one is what SQLite says when the shared memory beside the WAL cannot grow.
_FULL: Final = frozenset(("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"))


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether the error says that the file is broken."""
    name = _name_of(error)
    return name.startswith(_DAMAGE) or name == "SQLITE_ERROR"


def _name_of(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", _NOT_TEXT if type(error) is sqlite3.OperationalError else "MISUSE")


@contextmanager
def translated() -> Iterator[None]:
    """Turn SQLite's errors into ours; the only border where they enter.

    Raises:
        LogDamaged: the file is broken.
        StorageUnavailable: everything else; the message holds SQLite's name of the error.
    """
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error):
            raise LogDamaged(f"{_name_of(error)}: {error}") from error
        raise StorageUnavailable(f"{_name_of(error)}: {error}", full=_name_of(error) in _FULL) from error
    except UnicodeDecodeError as error:  # a broken schema stands in SQLite's message, which Python then cannot read
        raise LogDamaged(f"text that is no UTF-8: {error.reason}") from error


def connect_writer(path: Path, durability: Durability) -> sqlite3.Connection:
    """Open the one connection that writes; make the tables in an empty file, upgrade those of an older version.

    Raises:
        StartupError: the file is not ours to touch.
        LogDamaged: it is ours, and broken.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64, timeout=1)
    try:
        if _is_empty(db, path):
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # must come before the first table, else it does nothing
        db.execute("PRAGMA journal_mode = WAL")
        # FULL syncs the WAL in every commit; NORMAL only at a checkpoint.
        db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
        db.execute("PRAGMA wal_autocheckpoint = 0")  # the committer checkpoints between groups, when it suits
        db.execute("PRAGMA journal_size_limit = 67108864")
        # Debian's SQLite writes zeros over what is deleted, which doubles the work of retention.
        db.execute("PRAGMA secure_delete = OFF")
        if _is_empty(db, path):
            db.executescript(
                f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        for older in range(db.execute("PRAGMA user_version").fetchone()[0], SCHEMA_VERSION):
            db.executescript(f"BEGIN IMMEDIATE; {_UPGRADES[older]} PRAGMA user_version = {older + 1}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db


def _is_empty(db: sqlite3.Connection, path: Path) -> bool:
    """Return whether the file has no tables yet; look at whose it is before anything is written.

    Raises:
        StartupError: it is another program's, or a newer synceventsd's.
        LogDamaged: it is ours, and a bit is flipped in what says so.
    """
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if not tables and version == 0:
        return True
    if 0 < version <= SCHEMA_VERSION and tables >= TABLES:
        return False
    ours = db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    if not ours and not tables & TABLES:
        raise StartupError(f"{path} is another program's: name another storage.state_dir, or move the file away")
    if 0 < version <= SCHEMA_VERSION or (tables == TABLES and (version ^ SCHEMA_VERSION).bit_count() == 1):
        raise LogDamaged("the tables and their version do not agree")
    raise StartupError(
        f"{path} has tables of version {version}, this program knows version {SCHEMA_VERSION}: "
        "run the synceventsd that made it, or name another storage.state_dir"
    )


def insert(db: sqlite3.Connection, table: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert small rows, many in a statement: for each the interpreter's lock is let go and waited for.

    Groups together would save as much again, a twentieth of the throughput, but take 15 MB more memory.
    """
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        row = f"({', '.join('?' * len(some[0]))})"
        sql = f"INSERT INTO {table} VALUES {', '.join([row] * len(some))}"  # noqa: S608 (our own text)
        db.execute(sql, tuple(chain.from_iterable(some)))


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot write."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=1
    )
