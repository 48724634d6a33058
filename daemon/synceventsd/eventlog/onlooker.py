"""The log as a tool sees it that is not the daemon: looked at in short slices, whether a daemon runs or not.

Rule of this file: nothing is ever changed, made or held up. While a daemon runs, each look is one short read
transaction beside it. When none does, no lock is taken and no file made: a log that was closed is read as immutable,
and the WAL that a killed daemon left is read with its index in this process' memory. A look during which a daemon began
or ended is done again.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from attrs import define, field, frozen

from synceventsd.core.errors import LogDamaged, StorageUnavailable
from synceventsd.eventlog.schema import APPLICATION_ID, FILE_NAME, LOCK_NAME, SCHEMA_VERSION, connect_reader, translated

T = TypeVar("T")

LOOKS: Final = 20  # how often a look is done again because a daemon began or ended meanwhile


class LogMissing(Exception):
    """There is no log. Reader: name another directory."""


class LogForbidden(Exception):
    """This user may not read the log. Reader: be another one."""


class LogForeign(Exception):
    """The file is no log of ours, or of a newer version. Reader: use another program."""


class LogOlder(LogForeign):
    """The log is of an older version. Reader: have the daemon start once, which brings it up to date."""


@frozen
class _Moment:
    """Whether a daemon runs, and what the files looked like; equal moments saw the same log."""

    running: bool
    files: tuple[tuple[int, ...], ...]

    @property
    def has_wal(self) -> bool:
        return len(self.files) > 1


@define(eq=False)
class Onlooker:
    """A log that is only looked at; for one thread."""

    directory: Path
    _moment: _Moment | None = field(default=None, init=False)
    _db: sqlite3.Connection | None = field(default=None, init=False)

    @property
    def path(self) -> Path:
        """Return the file."""
        return self.directory / FILE_NAME

    @property
    def running(self) -> bool:
        """Return whether a daemon ran at the latest look."""
        return self._moment is not None and self._moment.running

    def look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `work` reads in one transaction; it must be short, and may be called again.

        Raises:
            LogMissing, LogForbidden, LogForeign: there is nothing to look at.
            LogDamaged: it does not read.
            StorageUnavailable: it cannot be read just now.
        """
        for _ in range(LOOKS):
            before = self._observe()
            try:
                outcome: T | LogDamaged | StorageUnavailable = self._look_once(before, work)
            except (LogDamaged, StorageUnavailable) as error:  # or a daemon began to write while we read without locks
                outcome = error
            if self._observe() == before:
                if isinstance(outcome, (LogDamaged, StorageUnavailable)):
                    raise outcome
                return outcome
        raise StorageUnavailable(f"{self.path} changes all the time without a daemon that holds its lock")

    def close(self) -> None:
        """Close the file."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _look_once(self, moment: _Moment, work: Callable[[sqlite3.Connection], T]) -> T:
        with translated():
            db = self._connection(moment)
            db.execute("BEGIN")
            try:
                return work(db)
            except (TypeError, ValueError) as error:  # where a number should be is something else
                raise LogDamaged(f"a value that cannot be: {error}") from error
            finally:
                with suppress(sqlite3.Error):  # nothing was written that could be lost
                    db.execute("ROLLBACK")

    def _connection(self, moment: _Moment) -> sqlite3.Connection:
        if self._db is None or self._moment != moment:
            self.close()
            self._db, self._moment = _connect(self.path, moment), moment
            _check_kind(self._db, self.path)
        return self._db

    def _observe(self) -> _Moment:
        try:
            with self.path.open("rb") as file:
                database = os.fstat(file.fileno())
            running = is_running(self.directory)
            if running:  # it changes the files as it likes; another file is another log
                return _Moment(True, ((database.st_dev, database.st_ino),))
            return _Moment(False, (_print_of(database), *_wal_of(self.path)))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LogMissing(f"there is no log at {self.path}") from error
        except PermissionError as error:
            raise LogForbidden(
                f"{error.filename} may not be read by this user; be root, or the user that the daemon runs as"
            ) from error
        except OSError as error:
            raise StorageUnavailable(f"{self.path}: {error.strerror}") from error


def is_running(directory: Path) -> bool:
    """Return whether a daemon uses this state directory.

    Raises:
        OSError: it cannot be told.
    """
    try:
        lock = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Held for an instant; a daemon that starts just then tries again (log.py).
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def _connect(path: Path, moment: _Moment) -> sqlite3.Connection:
    if moment.running:
        return connect_reader(path)
    # Opened as usual, SQLite would make a -wal and a -shm here, and fail where it may not.
    how = "vfs=unix-none" if moment.has_wal else "immutable=1"
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&{how}", uri=True, isolation_level=None)
    db.execute("PRAGMA locking_mode = EXCLUSIVE")  # with a WAL: its index stays in memory
    return db


def _check_kind(db: sqlite3.Connection, path: Path) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        raise LogMissing(f"{path} is empty: the daemon has not begun a log in it")
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise LogForeign(f"{path} is a SQLite database, but no log of synceventsd")
    if version < SCHEMA_VERSION:
        raise LogOlder(
            f"{path} has tables of version {version}, this program reads version {SCHEMA_VERSION}: "
            "the next start of the daemon brings it up to that"
        )
    if version != SCHEMA_VERSION:
        raise LogForeign(
            f"{path} has tables of version {version}, this program knows version {SCHEMA_VERSION}: "
            "use the newer synceventsd"
        )


def _print_of(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _wal_of(path: Path) -> tuple[tuple[int, ...], ...]:
    try:
        found = path.with_name(f"{path.name}-wal").stat()
    except FileNotFoundError:
        return ()
    return (_print_of(found),) if found.st_size else ()
