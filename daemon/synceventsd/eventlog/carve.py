"""The groups that a damaged file holds, found page by page and not by the tree, which may be what is broken.

A row lies on a leaf page and goes on over a chain of pages (sqlite.org/fileformat2.html, section 1.6). Every leaf is
looked at, in the database and in the WAL, and what looks like a row of ours is taken for one when its checksum says so.

Rule of this file: nothing here trusts a byte, and nothing raises because of one.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

from attrs import define, field, frozen

from synceventsd.eventlog.rows import lines_of, remains_of
from synceventsd.eventlog.wal import PAGE, committed

_LEAF: Final = b"\x0d"
_COLUMNS: Final = 9
_LATER_COLUMNS: Final = 2  # sums and totals, which rows of older programs lack
_MOST_LOCAL: Final = PAGE - 35  # bytes of a row that stay on its leaf, when all of it fits; else
_LEAST_LOCAL: Final = (PAGE - 12) * 32 // 255 - 23
_WIDTHS: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # bytes of the integers, by serial type
PROGRESS_LEAVES: Final = 10_000
NUMBER_BITS: Final = 48
FAR: Final = 2**31  # numbers further on than this are broken: the sums of lines know only 32 bits of them
LATEST: Final = 2.0**33  # seconds since 1970: in the year 2242


@frozen
class Found:
    """A group: its lines, None in the place of each that is damaged."""

    first: int
    count: int
    accepted_at: float | None  # None where that cannot be
    lines: Sequence[bytes | None]

    def whole(self) -> int:
        """Return how many lines are whole."""
        return sum(line is not None for line in self.lines)


@define(eq=False)
class _File:
    """A file of pages, some of which the disk may not give; read and not mapped, for that would end the process."""

    _descriptor: int | None
    size: int

    def page(self, at: int) -> bytes:
        if self._descriptor is None:
            return b""
        try:
            return os.pread(self._descriptor, PAGE, at)
        except OSError:
            return b""


@define(eq=False)
class Carving:
    """The pages of a database and its WAL; the WAL's newest one of a number goes before the database's."""

    _db: _File
    _wal: _File
    _wal_pages: list[tuple[int, int]]
    _newest: dict[int, int] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._newest = {page: -at for page, at in self._wal_pages}

    def leaves(self) -> Iterator[int]:
        """Yield where the leaves are, the newest first: a place in the database, or below 0 one in the WAL."""
        for _, at in reversed(self._wal_pages):
            if self._wal.page(at)[:1] == _LEAF:
                yield -at
        for at in range(PAGE, self._db.size, PAGE):
            if self._db.page(at)[:1] == _LEAF:
                yield at

    def cells(self, leaf: int) -> Iterator[tuple[int, int]]:
        """Yield the rows of a leaf: the number it has, and where on the leaf it begins."""
        page = self._at(leaf)
        if len(page) < PAGE:
            return
        for number in range(min(int.from_bytes(page[3:5], "big"), PAGE // 4)):
            start = int.from_bytes(page[8 + 2 * number :][:2], "big")
            if start < PAGE:
                _, after = _varint(page, start)
                first, _ = _varint(page, after)
                if 0 < first < 2**63:  # as SQLite's numbers are
                    yield first, start

    def row(self, leaf: int, start: int) -> list[Any] | None:
        """Return a row's values, as far as its pages go; None where it cannot be one of ours."""
        page = self._at(leaf)
        size, at = _varint(page, start)
        first, at = _varint(page, at)
        local = size
        if size > _MOST_LOCAL:
            local = _LEAST_LOCAL + (size - _LEAST_LOCAL) % (PAGE - 4)
            local = local if local <= _MOST_LOCAL else _LEAST_LOCAL
        parts = [page[at : at + local]]
        if size > local:
            parts += self._chain(int.from_bytes(page[at + local : at + local + 4], "big"), size - local)
        values = _record(b"".join(parts))
        if values is None:
            return None
        values[0] = first
        return values

    def _chain(self, number: int, left: int) -> Iterator[bytes]:
        seen = set()
        while left > 0 and number and number not in seen:
            seen.add(number)
            at = self._newest.get(number, (number - 1) * PAGE)
            page = self._at(at)
            if len(page) < PAGE:
                return
            yield page[4 : 4 + min(left, PAGE - 4)]
            left -= PAGE - 4
            number = int.from_bytes(page[:4], "big")

    def _at(self, place: int) -> bytes:
        return self._wal.page(-place) if place < 0 else self._db.page(place)


def open_carving(path: Path, stack: ExitStack) -> Carving:
    """Open the files of a damaged log for looking through; `stack` closes them."""
    wal = Path(f"{path}-wal")
    frames = [(frame.page, frame.at) for frame in committed(wal)]
    return Carving(_open(path, stack), _open(wal, stack), frames)


def _open(path: Path, stack: ExitStack) -> _File:
    if not path.exists():
        return _File(None, 0)
    file = stack.enter_context(path.open("rb", buffering=0))
    return _File(file.fileno(), path.stat().st_size)


def carve(path: Path, beyond: int, progress: Callable[[], object]) -> Iterator[Found]:
    """Yield the groups of a damaged log, by rising number.

    Args:
        path: the database; its WAL is looked through too.
        beyond: groups that begin at or before this number were deleted, and only their remains are there.
        progress: called now and then.
    """
    with ExitStack() as stack:
        carving = open_carving(path, stack)
        index = stack.enter_context(closing(sqlite3.connect("", isolation_level=None)))  # a file that nobody sees
        index.execute("CREATE TABLE found (first INTEGER, rank INTEGER, leaf INTEGER, start INTEGER)")
        index.execute("BEGIN")
        for rank, leaf in enumerate(carving.leaves()):
            rows = [(first, rank, leaf, start) for first, start in carving.cells(leaf)]
            index.executemany("INSERT INTO found VALUES (?, ?, ?, ?)", rows)
            if rank % PROGRESS_LEAVES == 0:
                progress()
        index.execute("CREATE INDEX found_first ON found (first, rank)")
        expected: int | None = None
        numbers = index.execute("SELECT DISTINCT first FROM found WHERE first > ? ORDER BY first", (beyond,))
        for (first,) in numbers:
            if expected is not None and first > expected:
                for found in _displaced(carving, index, expected, first):
                    yield found
                    expected = found.first + found.count
            if expected is None or first >= expected:
                far = expected is not None and first - expected >= FAR
                best = _best(first, _rows_of(carving, index, first), whole=far)
                if best is not None:
                    yield best
                    expected = first + best.count
        if expected is not None:
            yield from _displaced(carving, index, expected, expected + 2**32)


def _rows_of(carving: Carving, index: sqlite3.Connection, first: int) -> Iterator[list[Any]]:
    places = index.execute("SELECT leaf, start FROM found WHERE first = ? ORDER BY rank", (first,)).fetchall()
    for leaf, start in places:
        row = carving.row(leaf, start)
        if row is not None:
            yield row


def _displaced(carving: Carving, index: sqlite3.Connection, expected: int, end: int) -> Iterator[Found]:
    """Yield the groups that fill a gap and lie under a number in which one bit is wrong."""
    while expected < end:
        near = (expected ^ 1 << bit for bit in range(NUMBER_BITS))
        rows = ([expected, *row[1:]] for number in near for row in _rows_of(carving, index, number))
        whole = next((Found(expected, len(lines), row[2], lines) for row in rows if (lines := lines_of(row))), None)
        if whole is None:
            return
        yield whole
        expected += whole.count


def _best(first: int, rows: Iterator[list[Any]], *, whole: bool) -> Found | None:
    """Return the group that several copies of one row show: a whole one, or else, unless `whole`, the least damaged."""
    tried = []
    for row in rows:
        lines = lines_of(row)
        if lines is not None:
            return Found(first, len(lines), row[2], lines)
        remains = [] if whole else remains_of(row)
        at = row[2] if isinstance(row[2], float) and 1.0 <= row[2] <= LATEST else None
        tried.append(Found(first, len(remains), at, remains))
    best = max(tried, key=Found.whole, default=None)
    return best if best is not None and best.whole() else None


def _varint(text: bytes, at: int) -> tuple[int, int]:
    """Return a number in SQLite's variable length, and where it ends; 0 where the text ends too early."""
    value = 0
    for place in range(at, min(at + 8, len(text))):
        value = value << 7 | text[place] & 0x7F
        if text[place] < 0x80:
            return value, place + 1
    return (value << 8 | text[at + 8], at + 9) if at + 8 < len(text) else (0, len(text))


def _record(text: bytes) -> list[Any] | None:
    """Return the values of a record with as many columns as a group has; blobs may be cut off."""
    head, at = _varint(text, 0)
    types = []
    while at < min(head, len(text)):
        kind, at = _varint(text, at)
        types.append(kind)
    if not _COLUMNS - _LATER_COLUMNS <= len(types) <= _COLUMNS:
        return None
    types += [0] * (_COLUMNS - len(types))
    values: list[Any] = []
    for kind in types:
        value, at = _value(text, at, kind)
        values.append(value)
    if isinstance(values[2], int):  # SQLite stores a whole REAL as an integer
        values[2] = float(values[2])
    return values


def _value(text: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (8, 9):
        return kind - 8, at
    if kind == 7:
        return (struct.unpack_from(">d", text, at)[0] if at + 8 <= len(text) else None), at + 8
    if kind in _WIDTHS:
        return int.from_bytes(text[at : at + _WIDTHS[kind]], "big", signed=True), at + _WIDTHS[kind]
    if kind >= 12 and kind % 2 == 0:
        return text[at : at + (kind - 12) // 2], at + (kind - 12) // 2
    return None, at
