"""A damaged log: what still reads of it is carried over into a new file, and then the two change places.

Rule of this file: the damaged files are only read, and stay where they are until the new one is complete and synced; so
a start that is killed at any point has everything the next time. Numbers, epochs and the log's name are kept, so what
the damage cost looks to everybody like a log that was set back: Redis' cursor and readers' positions stay good as far
as the new log reaches. Where the epochs do not read, the log gets a new name, and what was saved goes out again.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import define, field

from synceventsd.core.envelope import decode_envelope
from synceventsd.core.errors import LogDamaged, StorageUnavailable
from synceventsd.core.ledger import Book, Incident
from synceventsd.core.model import GLOBAL
from synceventsd.eventlog.carve import Found, carve
from synceventsd.eventlog.rows import TEXT, row_of
from synceventsd.eventlog.schema import (
    INSERT_GROUP,
    Durability,
    connect_reader,
    connect_writer,
    insert,
    translated,
)
from synceventsd.eventlog.store import LEDGER, SUSPECT_SUFFIX, entries_of, write_ledger
from synceventsd.logs import get_logger

log = get_logger("eventlog")

GROUPS_A_TRANSACTION: Final = 500
TELL_EVERY: Final = 5.0  # seconds between two lines of progress
MAX_RANGES_TOLD: Final = 100  # of what damage cost, a ledger entry each; the rest stands in one more
PARTIAL_SUFFIX: Final = ".salvaging"  # a new file that is not complete: worth nothing
COMPLETE_SUFFIX: Final = ".salvaged"  # one that is, and only has to take the damaged one's place
_FILES: Final = ("-wal", "-shm", SUSPECT_SUFFIX, "")  # the database last: as long as it is there, nothing is decided
# What reads, and yet was never written by us: the small tables have no checksums.
_UNFIT: Final = (
    "meta WHERE key != 'log_id' AND typeof(value) != 'integer'",
    "epoch WHERE typeof(name) != 'text' OR typeof(first) != 'integer'",
    "producer WHERE typeof(uid) != 'integer' OR typeof(accepted) != 'integer' OR typeof(id) != 'text'",
    "reject WHERE typeof(line) != 'integer' OR typeof(producer) != 'text' OR typeof(code) != 'text'",
    "sync WHERE typeof(state) != 'blob'",
    "ledger WHERE typeof(at) != 'real' OR typeof(reason) != 'text' OR typeof(count) != 'integer'"
    " OR typeof(detail) != 'text' OR typeof(until) NOT IN ('real', 'null')",
)
_SMALL_TABLES: Final = ("meta", "epoch", "producer", "reject", "sync", "ledger")


@define(eq=False)
class Salvaged:
    """What was carried over, and which numbers were not."""

    events: int = 0
    last: int = 0
    size: int = 0
    lost: list[tuple[int, int]] = field(factory=list)
    cut: list[str] = field(factory=list)  # tables beside the events' that did not read to their end


def recover(path: Path, durability: Durability, damage: LogDamaged, progress: Callable[[], object]) -> None:
    """Put a new log in the place of a damaged one, with what reads of it, and write down what does not.

    Args:
        path: the log's file; nobody has it open.
        durability: as for any log.
        damage: what was found.
        progress: called now and then, so that whoever waits for the start knows that it goes on.

    Raises:
        StorageUnavailable: it cannot be written now; the damaged files are as they were.
    """
    aside = _new_name(path)
    log.error("log.damaged", reason=str(damage), will_move_to=str(aside))
    partial, complete = (Path(f"{path}{suffix}") for suffix in (PARTIAL_SUFFIX, COMPLETE_SUFFIX))
    with on_disk():
        for suffix in ("", "-wal", "-shm"):
            Path(f"{partial}{suffix}").unlink(missing_ok=True)
        saved = _salvage(path, partial, durability, f"{damage}; the file was moved to {aside.name}", progress)
        os.replace(partial, complete)
    finish(path, aside)
    lost = sum(last - first + 1 for first, last in saved.lost)
    log.warning(
        "log.salvaged", events=saved.events, lost=lost, ranges=saved.lost[:MAX_RANGES_TOLD], moved_to=str(aside)
    )


def finish(path: Path, aside: Path | None = None) -> None:
    """Let a complete new file, if there is one, take the damaged one's place; also where an earlier try was cut short.

    Raises:
        StorageUnavailable: the files cannot be renamed now.
    """
    complete = Path(f"{path}{COMPLETE_SUFFIX}")
    if not complete.exists():
        return
    aside = aside or _new_name(path)
    with on_disk():
        for suffix in _FILES:
            with suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
        complete.rename(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _new_name(path: Path) -> Path:
    when = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return path.with_name(f"{path.name}.damaged-{when}-{time.time_ns() % 1000:03}")


def _salvage(
    damaged: Path, target: Path, durability: Durability, detail: str, progress: Callable[[], object]
) -> Salvaged:
    found = Salvaged()
    with translated(), closing(connect_writer(target, durability)) as new:
        new.execute("BEGIN IMMEDIATE")
        if damaged.exists():
            _copy_tables(damaged, new, found)
        for unfit in _UNFIT:
            new.execute(f"DELETE FROM {unfit}")  # noqa: S608 (our own texts)
        if not _names_are_whole(new):
            new.execute("DELETE FROM epoch")
            new.execute("DELETE FROM meta")
        marks = dict(new.execute("SELECT key, value FROM meta WHERE typeof(value) = 'integer'"))
        _copy_groups(carve(damaged, marks.get("last_deleted", 0), progress), new, found, progress)
        known = max(marks.get("syncs_upto", 0), marks.get("forwarded", 0))
        if found.last < known:
            found.lost.append((max(found.last, marks.get("last_deleted", 0)) + 1, known))
        found.lost = merged(found.lost)
        write_ledger(new, _ledger_of(new, found, detail).take())
        new.execute("COMMIT")
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return found


def _ledger_of(new: sqlite3.Connection, found: Salvaged, detail: str) -> Book:
    """Write down what the damage cost: what happened, then each range of numbers, and the rest of them together."""
    book, now = Book(), time.time()
    book.load(entries_of(new.execute(LEDGER).fetchall()))
    tables = f"; not all of {', '.join(found.cut)} reads" if found.cut else ""
    book.note(Incident("log_damaged", 0, detail=f"{detail}, {found.events} events were carried over{tables}"), now)
    for first, last in found.lost[:MAX_RANGES_TOLD]:
        book.note(Incident("log_damaged", last - first + 1, first=first, last=last, detail="does not read"), now)
    rest = found.lost[MAX_RANGES_TOLD:]
    if rest:
        count = sum(last - first + 1 for first, last in rest)
        detail = f"{len(rest)} more ranges that do not read"
        book.note(Incident("log_damaged", count, first=rest[0][0], last=rest[-1][1], detail=detail), now)
    return book


def _copy_tables(damaged: Path, new: sqlite3.Connection, found: Salvaged) -> None:
    """Copy the small tables' rows, as far as they read; of nothing but a WAL, or no database at all, nothing does."""
    found.cut = list(_SMALL_TABLES)
    with suppress(sqlite3.Error), closing(connect_reader(damaged)) as old:
        found.cut = [table for table in _SMALL_TABLES if not _copy_table(old, new, table)]


def _copy_table(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> bool:
    """Copy a table from its beginning up to a row that does not read, then from its end; return whether all of it was.

    A file of an older version may have fewer columns.
    """
    key = "rowid" if table in ("epoch", "ledger") else "1"
    for order in ("ASC", "DESC"):
        try:
            rows = old.execute(f"SELECT * FROM {table} ORDER BY {key} {order}")  # noqa: S608 (names of this file)
            names = ", ".join(column[0] for column in rows.description)
            marks = ", ".join("?" * len(rows.description))
            for row in rows:
                with suppress(sqlite3.IntegrityError):  # not what we wrote
                    new.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", row)  # noqa: S608
        except (sqlite3.Error, UnicodeDecodeError):
            continue
        return order == "ASC"
    return False


def _names_are_whole(new: sqlite3.Connection) -> bool:
    """Return whether the log's name and its epochs were read: without all of them positions cannot be trusted."""
    named = new.execute("SELECT count(*) FROM meta WHERE key = 'log_id'").fetchone()[0]
    count, newest = new.execute("SELECT count(*), max(number) FROM epoch").fetchone()
    return bool(named and count and count == newest)


def _copy_groups(
    groups: Iterator[Found], new: sqlite3.Connection, found: Salvaged, progress: Callable[[], object]
) -> None:
    told_at = time.monotonic()
    at = time.time()  # of a group of which that does not read: as of the one before it
    expected: int | None = None
    for number, group in enumerate(groups, 1):
        if expected is not None and group.first > expected:
            found.lost.append((expected, group.first - 1))
        expected = group.first + group.count
        at = at if group.accepted_at is None else group.accepted_at
        for start, kept in _runs(group, found):
            _insert(new, found, start, kept, at)
        if number % GROUPS_A_TRANSACTION == 0:
            new.execute("COMMIT")
            new.execute("PRAGMA wal_checkpoint(PASSIVE)")
            new.execute("BEGIN IMMEDIATE")
            progress()
        if time.monotonic() - told_at > TELL_EVERY:
            told_at = time.monotonic()
            log.info("log.salvaging", events=found.events, upto=found.last)


def _runs(group: Found, found: Salvaged) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the runs of a group's lines that are whole; what is not is noted as lost."""
    run: list[bytes] = []
    for seq, line in enumerate([*group.lines, None], group.first):
        if line is not None:
            run.append(line)
            continue
        if run:
            yield seq - len(run), run
            run = []
        if seq < group.first + group.count:
            found.lost.append((seq, seq))


def _insert(new: sqlite3.Connection, found: Salvaged, first: int, lines: list[bytes], accepted_at: float) -> None:
    whose = [decode_envelope(line).business_id or GLOBAL for line in lines]
    row = row_of(first, accepted_at, found.size, whose, lines)
    new.execute(INSERT_GROUP, row)
    insert(new, "place", [(business, first) for business in set(whose)])
    found.events += len(lines)
    found.last = first + len(lines) - 1
    found.size += len(row[TEXT])


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges of numbers sorted, and joined where they touch."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


@contextmanager
def on_disk() -> Iterator[None]:
    """Turn the errors of the file system into ours."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(f"{error.filename}: {error.strerror}", full=error.errno == errno.ENOSPC) from error
