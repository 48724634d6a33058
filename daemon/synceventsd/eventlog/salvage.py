"""A damaged log: moved aside, and what still reads of it carried over into a new file.

Rule of this file: the damaged files are only read. Numbers, epochs and the log's name are kept, so what the damage cost
looks to everybody like a log that was set back: Redis' cursor and readers' positions stay good as far as the new log
reaches. Where the epochs do not read, the log gets a new name, and what was saved goes out again.
"""

from __future__ import annotations

import sqlite3
import time
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from synceventsd.core.envelope import decode_stored
from synceventsd.core.model import GLOBAL
from synceventsd.eventlog.schema import Durability, connect_reader, connect_writer, translated
from synceventsd.eventlog.store import SUSPECT_SUFFIX
from synceventsd.logs import get_logger

log = get_logger("eventlog")

ROWS_A_TRANSACTION: Final = 500
TELL_EVERY: Final = 5.0  # seconds between two lines of progress
_SMALL_TABLES: Final = ("meta", "epoch", "producer", "reject", "sync", "ledger")
_COLUMNS: Final = "first, count, accepted_at, crc, lines"
_INSERT_GROUP: Final = "INSERT INTO event_group VALUES (?, ?, ?, ?, ?, ?, ?)"


@define(eq=False)
class Salvaged:
    """What was carried over, and which numbers were not."""

    events: int = 0
    last: int = 0
    size: int = 0
    lost: list[tuple[int, int]] = field(factory=list)
    cut: list[str] = field(factory=list)  # tables beside the events' that did not read to their end


def move_aside(path: Path) -> Path:
    """Rename the log's files and return the new name of the database."""
    target = Path(f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{time.time_ns() % 1000:03}")
    for suffix in ("", "-wal", "-shm", SUSPECT_SUFFIX):
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{target}{suffix}")
    return target


def salvage(damaged: Path, target: Path, durability: Durability, progress: Callable[[], object]) -> Salvaged:
    """Carry over what reads from the damaged file into a new one.

    Args:
        damaged: the file moved aside.
        target: where the new log goes; there must be none.
        durability: as for any log.
        progress: called now and then, so that whoever waits for the start knows that it goes on.

    Raises:
        StorageUnavailable: the new file cannot be written.
    """
    found = Salvaged()
    with translated(), closing(connect_writer(target, durability)) as new, closing(connect_reader(damaged)) as old:
        new.execute("BEGIN IMMEDIATE")
        for table in _SMALL_TABLES:
            _copy_table(old, new, table, found)
        if not _names_are_whole(new):
            new.execute("DELETE FROM epoch")
            new.execute("DELETE FROM meta")
        new.execute("COMMIT")
        _copy_groups(old, new, found, progress)
    return found


def _copy_table(old: sqlite3.Connection, new: sqlite3.Connection, table: str, found: Salvaged) -> None:
    """Copy a table's rows up to the first that does not read."""
    for insert, row in _rows_to_insert(old, table, found):
        new.execute(insert, row)


def _rows_to_insert(old: sqlite3.Connection, table: str, found: Salvaged) -> Iterator[tuple[str, Any]]:
    """Yield each row with what inserts it; a file of an older version may have fewer columns."""
    try:
        rows = old.execute(f"SELECT * FROM {table}")  # noqa: S608 (a name of this file)
        names = ", ".join(column[0] for column in rows.description)
        marks = ", ".join("?" * len(rows.description))
        for row in rows:
            yield f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", row  # noqa: S608
    except sqlite3.DatabaseError:
        found.cut.append(table)


def _readable(old: sqlite3.Connection, sql: str, *values: int) -> Iterator[Any]:
    """Yield rows until one does not read."""
    with suppress(sqlite3.DatabaseError, UnicodeDecodeError):
        yield from old.execute(sql, values)


def _names_are_whole(new: sqlite3.Connection) -> bool:
    """Return whether the log's name and its epochs were read: without all of them positions cannot be trusted."""
    named = new.execute("SELECT count(*) FROM meta WHERE key = 'log_id'").fetchone()[0]
    count, newest = new.execute("SELECT count(*), max(number) FROM epoch").fetchone()
    return bool(named and count and count == newest)


def _copy_groups(
    old: sqlite3.Connection, new: sqlite3.Connection, found: Salvaged, progress: Callable[[], object]
) -> None:
    told_at = time.monotonic()
    expected: int | None = None
    new.execute("BEGIN IMMEDIATE")
    for number, (first, count, accepted_at, crc, lines) in enumerate(_rows(old), 1):
        if expected is not None and first > expected:
            found.lost.append((expected, first - 1))
        expected = first + count
        for start, kept in _whole_parts(first, count, crc, lines, found):
            _insert(new, found, start, kept, accepted_at)
        if number % ROWS_A_TRANSACTION == 0:
            new.execute("COMMIT")
            new.execute("BEGIN IMMEDIATE")
            progress()
        if time.monotonic() - told_at > TELL_EVERY:
            told_at = time.monotonic()
            log.info("log.salvaging", events=found.events, upto=found.last)
    new.execute("COMMIT")


def _rows(old: sqlite3.Connection) -> Iterator[Any]:
    """Yield the groups that read: from the beginning up to the damage, then those behind it, found from the end."""
    last = -1
    for row in _readable(old, f"SELECT {_COLUMNS} FROM event_group ORDER BY first"):  # noqa: S608
        last = row[0]
        yield row
    behind = list(_readable(old, "SELECT first FROM event_group WHERE first > ? ORDER BY first DESC", last))
    for (first,) in reversed(behind):
        yield from _readable(old, f"SELECT {_COLUMNS} FROM event_group WHERE first = ?", first)  # noqa: S608


def _whole_parts(first: int, count: int, crc: int, text: Any, found: Salvaged) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the runs of events of a group that are whole; what is not is noted as lost."""
    if not isinstance(text, bytes):
        found.lost.append((first, first + count - 1))
        return
    lines = text.split(b"\n")
    if zlib.crc32(text) == crc and len(lines) == count:
        yield first, lines
        return
    if len(lines) != count:  # which line has which number is not known any more
        found.lost.append((first, first + count - 1))
        return
    run: list[bytes] = []
    for seq, line in enumerate([*lines, b""], first):
        if seq < first + count and _is_event(line):
            run.append(line)
            continue
        if run:
            yield seq - len(run), run
            run = []
        if seq < first + count:
            found.lost.append((seq, seq))


def _is_event(line: bytes) -> bool:
    try:
        decode_stored(line)
    except ValueError:
        return False
    return True


def _insert(new: sqlite3.Connection, found: Salvaged, first: int, lines: list[bytes], accepted_at: float) -> None:
    text = b"\n".join(lines)
    businesses = array("I", sorted({decode_stored(line).business_id or GLOBAL for line in lines}))
    new.execute(
        _INSERT_GROUP, (first, len(lines), accepted_at, found.size, zlib.crc32(text), businesses.tobytes(), text)
    )
    new.executemany("INSERT INTO place VALUES (?, ?)", [(business, first) for business in businesses])
    found.events += len(lines)
    found.last = first + len(lines) - 1
    found.size += len(text)
