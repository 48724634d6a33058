"""The log's tables, and how a connection to them is opened. A change of the tables is a new number here.

SQLite before 3.51.3 can corrupt a WAL database when one connection checkpoints while another commits
(sqlite.org/wal.html, "the WAL-reset bug"). So one connection does all writes and all checkpoints, and every other one
is opened read-only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from synceventsd.core.errors import LogDamaged, StorageUnavailable

Durability = Literal["power", "process"]

FILE_NAME: Final = "events.db"
LOCK_NAME: Final = "lock"  # held by the daemon that uses the directory
APPLICATION_ID: Final = 0x53594556  # "SYEV", so that file(1) and we know the file
SCHEMA_VERSION: Final = 2

# `lines` is the last column, so that SQLite need not read the overflow pages of the text to reach the others.
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
  lines BLOB NOT NULL
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
_UPGRADES: Final = {1: "ALTER TABLE ledger ADD COLUMN until REAL; ALTER TABLE ledger ADD COLUMN uid INTEGER;"}
# Before an epoch's name, in `meta`: after which number that epoch has events sent again.
AGAIN_KEY: Final = "again:"

# What these mean for the reader of the error: the file is broken, as against "cannot be done just now".
_DAMAGE: Final = frozenset(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CORRUPT_INDEX", "SQLITE_CORRUPT_SEQUENCE"))


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether the error says that the file is broken."""
    return getattr(error, "sqlite_errorname", "") in _DAMAGE


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
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if is_damage(error):
            raise LogDamaged(f"{name}: {error}") from error
        raise StorageUnavailable(f"{name}: {error}") from error
    except UnicodeDecodeError as error:  # a broken schema stands in SQLite's message, which Python then cannot read
        raise LogDamaged(f"text that is no UTF-8: {error.reason}") from error


def connect_writer(path: Path, durability: Durability) -> sqlite3.Connection:
    """Open the one connection that writes; make the tables in an empty file, and upgrade those of an older version."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64, timeout=1)
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # must come before the first table, else it does nothing
    db.execute("PRAGMA journal_mode = WAL")
    # FULL syncs the WAL in every commit; NORMAL only at a checkpoint.
    db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
    db.execute("PRAGMA wal_autocheckpoint = 0")  # the committer checkpoints between groups, when it suits
    db.execute("PRAGMA journal_size_limit = 67108864")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        db.executescript(
            f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
    for older in range(max(version, 1), SCHEMA_VERSION if version else 0):
        db.executescript(f"BEGIN IMMEDIATE; {_UPGRADES[older]} PRAGMA user_version = {older + 1}; COMMIT;")
    return db


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot write."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=1
    )
