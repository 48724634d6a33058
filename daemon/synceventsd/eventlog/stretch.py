"""Reading a log from end to end without stopping at what is damaged, for tools.

Rule of this file: one call is one short slice of a transaction. What does not read is handed out as a block with its
fault, and the next call goes on behind it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

from attrs import frozen

from synceventsd.eventlog.rows import GROUP_COLUMNS, lines_of, unpacked
from synceventsd.eventlog.schema import is_damage

SLICE_BYTES: Final = 2 * 2**20  # of text in one look: some 10 ms


@frozen
class Block:
    """Consecutive events as they lie in the file.

    Attributes:
        first, last: their numbers.
        accepted_at: seconds since 1970.
        bytes_before: text of all events before them, as the file has it.
        size: bytes of their text.
        businesses: whose events are in it, as the file has it.
        lines: the events; none where there is a fault.
        fault: what is wrong with them, in a few words, or None.
    """

    first: int
    last: int
    accepted_at: float = 0.0
    bytes_before: int = 0
    size: int = 0
    businesses: Sequence[int] = ()
    lines: Sequence[bytes] = ()
    fault: str | None = None


@frozen
class Stretch:
    """What one look brought.

    Attributes:
        blocks: in the order asked for.
        deleted: retention has taken everything up to this number.
        complete: there are no more.
    """

    blocks: Sequence[Block]
    deleted: int
    complete: bool


def beyond(db: sqlite3.Connection, after: int, max_bytes: int = SLICE_BYTES) -> Stretch:
    """Return the blocks that reach beyond event number `after`, oldest first, until they make up so much text."""
    blocks: list[Block] = []
    size = 0
    start = _group_of(db, after + 1)
    deleted = _deleted(db)
    try:
        for row in db.execute(
            f"SELECT {GROUP_COLUMNS} FROM event_group WHERE first >= ? ORDER BY first",  # noqa: S608 (our own text)
            (start,),
        ):
            block = _block(row)
            if block.last <= after:
                continue
            blocks.append(block)
            size += block.size
            if size >= max_bytes:
                return Stretch(blocks, deleted, False)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        if blocks:  # what follows them is met again, at the beginning of the next stretch
            return Stretch(blocks, deleted, False)
        resume = _behind_damage(db, after)
        if resume is None:
            raise
        last = max(after + 1, resume - 1)  # in a broken tree anything may come next: there must be progress
        return Stretch([Block(after + 1, last, fault=f"SQLite: {error}")], deleted, False)
    return Stretch(blocks, deleted, True)


def down_from(db: sqlite3.Connection, start: int, business: int | None, max_bytes: int = SLICE_BYTES) -> Stretch:
    """Return the blocks that begin at or before number `start`, newest first; of a business: those with its events."""
    blocks: list[Block] = []
    size = 0
    for first in _firsts(db, start, business):
        row = db.execute(f"SELECT {GROUP_COLUMNS} FROM event_group WHERE first = ?", (first,)).fetchone()  # noqa: S608
        if row is None:
            continue
        blocks.append(_block(row))
        size += blocks[-1].size
        if size >= max_bytes:
            return Stretch(blocks, _deleted(db), False)
    return Stretch(blocks, _deleted(db), True)


def bounds(db: sqlite3.Connection) -> tuple[int, int]:
    """Return the numbers of the oldest and of the newest event; `last + 1` and `last` when none is kept."""
    deleted = _deleted(db)
    oldest = db.execute("SELECT min(first) FROM event_group").fetchone()[0]
    newest = db.execute("SELECT first + count - 1 FROM event_group ORDER BY first DESC LIMIT 1").fetchone()
    return (deleted + 1, deleted) if newest is None else (int(oldest), int(newest[0]))


def _firsts(db: sqlite3.Connection, start: int, business: int | None) -> Iterator[int]:
    if business is None:
        rows = db.execute("SELECT first FROM event_group WHERE first <= ? ORDER BY first DESC", (start,))
    else:
        rows = db.execute(
            "SELECT first FROM place WHERE business = ? AND first <= ? ORDER BY first DESC", (business, start)
        )
    for (first,) in rows:
        yield first


def _group_of(db: sqlite3.Connection, seq: int) -> int:
    try:
        row = db.execute("SELECT max(first) FROM event_group WHERE first <= ?", (seq,)).fetchone()
    except sqlite3.DatabaseError:  # on a page that does not read: what lies before it was read already
        return seq
    return seq if row[0] is None else int(row[0])


def _deleted(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT value FROM meta WHERE key = 'last_deleted'").fetchone()
    return 0 if row is None else int(row[0])


def _behind_damage(db: sqlite3.Connection, after: int) -> int | None:
    """Return where the first block begins that reads again, when what follows `after` does not; None: nowhere."""
    try:
        following = db.execute("SELECT first FROM event_group WHERE first > ? ORDER BY first LIMIT 2", (after,))
        firsts = [first for (first,) in following]
        if len(firsts) == 2:  # only the text of the first one is out of reach
            return int(firsts[1])
        end = db.execute("SELECT first + count FROM event_group WHERE first > ?", (after,)).fetchone()
        return None if end is None else int(end[0])
    except sqlite3.DatabaseError:
        pass
    resume: int | None = None
    try:  # a page of the index does not read: come from the other end as near to it as can be
        for (first,) in db.execute("SELECT first FROM event_group WHERE first > ? ORDER BY first DESC", (after,)):
            resume = int(first)
    except sqlite3.DatabaseError:
        pass
    return resume


def _block(row: Any) -> Block:
    first, count, accepted_at, before, _, packed, text, *_ = row
    if not (isinstance(count, int) and count > 0 and isinstance(text, bytes) and isinstance(packed, bytes)):
        return Block(first, first + count - 1 if isinstance(count, int) and count > 0 else first, fault="no events")
    lines = lines_of(row)
    fault = "checksum does not match" if lines is None else None
    return Block(first, first + count - 1, accepted_at, before, len(text), unpacked(packed), lines or (), fault)
