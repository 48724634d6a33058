"""A group as a row of the log, and back.

In a row the text lies by business, the events of one behind each other in their order. So a reader of one business
reads its part of the text only: SQLite finds the page that this begins on through its map of pages, without reading
those before it. A replay of 2,000 among 16,000 events reads 1.2 MB and not 10.

SQLite has no checksums. Rule of this file: nothing of a row is believed before its checksum was looked at, for what
does not match was not written by us. `crc` is that of all but the text. Each line has a sum of its own, which goes over
its number too, so that one flipped bit costs one event and not its whole group.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, Final

from attrs import frozen

from synceventsd.core.lines import Part
from synceventsd.core.model import GLOBAL
from synceventsd.eventlog.lots import MAX_GROUP_EVENTS

try:  # the same sums four times as fast: of an event they took 1.0 us, a tenth of what it takes at all, and take 0.3
    from isal.isal_zlib import crc32
except ImportError:  # no wheel for this machine
    from zlib import crc32

GROUP_COLUMNS: Final = "first, count, accepted_at, bytes_before, crc, businesses, lines, sums, totals"
TEXT: Final = 6  # where in a row with these columns the text is
HEAD_COLUMNS: Final = "first, count, accepted_at, bytes_before, crc, businesses, sums, totals"

_HEAD = struct.Struct("<qqdq")
_MOVED: Final = 2  # places by which a line may have moved, where damage made or took a line end


def row_of(first: int, at: float, before: int, whose: Iterable[int], lines: Sequence[bytes]) -> tuple[Any, ...]:
    """Return a group as a row.

    Args:
        first: number of its first event.
        at: when it was accepted, in seconds since 1970.
        before: how many bytes of text there were before it since the log's beginning, with line ends.
        whose: each event's business, GLOBAL where it has none.
        lines: the events.
    """
    owners = array("I", whose)
    stored = _stored(lines, owners)
    packed = (owners.tobytes(), sums_of(first, lines), array("I", accumulate(map(len, stored))).tobytes())
    crc = _crc_of_head(first, len(lines), at, before, *packed)
    return (first, len(lines), at, before, crc, packed[0], b"\n".join(stored), *packed[1:])


def lines_of(row: Sequence[Any]) -> list[bytes] | None:
    """Return a row's events, in order; None where something is not as it was written.

    Args:
        row: the GROUP_COLUMNS. They may be of any type: a flipped bit changes that too.
    """
    *_, businesses, text, sums, totals = row
    if totals is None:
        return _lines_of_older(row)
    if not _is_right((*row[:TEXT], sums, totals)) or not isinstance(text, bytes):
        return None
    found = text.split(b"\n")
    if len(found) != row[1]:
        return None
    lines = _in_order(found, unpacked(businesses))
    return lines if sums_of(row[0], lines) == sums else None


def _lines_of_older(row: Sequence[Any]) -> list[bytes] | None:
    """Do it for a row whose text lies as it came; without sums it is of the time when only the text was summed up."""
    first, count, accepted_at, before, crc, businesses, text, sums, _ = row
    if not isinstance(text, bytes) or not isinstance(accepted_at, float):
        return None
    if sums is None:
        right = crc == crc32(text)
    elif tuple(map(type, (first, count, before, businesses, sums))) == (int, int, int, bytes, bytes):
        right = crc == crc32(text, _crc_of_head(first, count, accepted_at, before, businesses, sums))
    else:
        right = False
    lines = text.split(b"\n")
    return lines if right and len(lines) == count else None


@frozen
class Head:
    """A row without its text, which says where in the text the events of a business are.

    Attributes:
        whose: each event's business.
    """

    first: int
    accepted_at: float
    whose: Sequence[int]
    _sums: Sequence[int]
    _totals: Sequence[int]

    def part(self, business: int, read: Callable[[int, int], bytes]) -> Part | None:
        """Return what a reader of this business may see; None where that is not as it was written.

        Args:
            business: its id.
            read: returns so many bytes of the text, from a place on.
        """
        found: dict[int, bytes] = {}
        stored = sorted(self.whose)
        for owner in (GLOBAL, business):
            begin, end = bisect_left(stored, owner), bisect_right(stored, owner)
            if begin == end:
                continue
            indexes = _places(self.whose, owner, end - begin)
            start, size = self._start(begin), self._start(end) - 1 - self._start(begin)
            lines = read(start, size).split(b"\n")
            sums = list(map(crc32, lines, [self.first + index for index in indexes]))
            if len(lines) != len(indexes) or sums != [self._sums[index] for index in indexes]:
                return None
            found.update(zip(indexes, lines, strict=True))
        return Part(len(self.whose), found)

    def _start(self, place: int) -> int:
        """Return where the line that lies in some place begins."""
        return self._totals[place - 1] + place if place else 0


def head_of(row: Sequence[Any]) -> Head | None:
    """Return what a row says beside its text; None where it is not as it was written, or of an older form.

    Args:
        row: the HEAD_COLUMNS.
    """
    if not _is_right(row):
        return None
    first, _, accepted_at, _, _, businesses, sums, totals = row
    return Head(first, accepted_at, unpacked(businesses), unpacked(sums), unpacked(totals))


def remains_of(row: Sequence[Any]) -> list[bytes | None]:
    """Return a broken row's events in order, None for each that is not as it was written; nothing where none is.

    The sums say how many there are, but for nonsense: no group has more than MAX_GROUP_EVENTS.
    """
    first, _, _, _, _, businesses, text, sums, totals = row
    if not isinstance(sums, bytes) or not isinstance(text, bytes):
        return []
    wanted = unpacked(sums[: len(sums) // 4 * 4])[:MAX_GROUP_EVENTS]
    whose = unpacked(businesses)
    order = _order(whose) if totals is not None and len(whose) >= len(wanted) else range(len(wanted))
    found: list[bytes | None] = [*text.split(b"\n")]
    kept: list[bytes | None] = [None] * len(wanted)
    for place, index in enumerate(order):
        near = range(max(0, place - _MOVED), min(len(found), place + _MOVED + 1))
        if index < len(wanted):  # the sums may be cut off
            _keep(kept, index, found, near, first, wanted)
    for index in [index for index, line in enumerate(kept) if line is None]:  # where it was broken whose they are
        _keep(kept, index, found, range(min(len(found), 2 * len(wanted))), first, wanted)
    return kept


def _keep(
    kept: list[bytes | None],
    index: int,
    found: list[bytes | None],
    among: Iterable[int],
    first: int,
    wanted: Sequence[int],
) -> None:
    """Move an event from what was found to what is kept, if it is there."""
    for place in among:
        line = found[place]
        if line is not None and crc32(line, first + index) == wanted[index]:
            kept[index], found[place] = line, None
            return


def sums_of(first: int, lines: Sequence[bytes]) -> bytes:
    """Return the CRC-32 of each line and its number, packed; `first` is the number of the first one."""
    return array("I", map(crc32, lines, range(first, first + len(lines)))).tobytes()


def unpacked(column: object) -> array[int]:
    """Return the numbers that a column of a row holds; none where it does not read."""
    numbers = array("I")
    if isinstance(column, bytes) and len(column) % numbers.itemsize == 0:
        numbers.frombytes(column)
    return numbers


def _is_right(head: Sequence[Any]) -> bool:
    """Return whether the HEAD_COLUMNS are as they were written."""
    first, count, accepted_at, before, crc, *packed = head
    if tuple(map(type, head)) != (int, int, float, int, int, bytes, bytes, bytes):
        return False
    return bool(crc == _crc_of_head(first, count, accepted_at, before, *packed))


def _crc_of_head(first: int, count: int, accepted_at: float, bytes_before: int, *packed: bytes) -> int:
    return crc32(b"".join(packed), crc32(_HEAD.pack(first, count, accepted_at, bytes_before)))


def _places(whose: Sequence[int], owner: int, count: int) -> Sequence[int]:
    """Return which events are somebody's; looked for by the sequence itself, five times as fast as one by one.

    Args:
        whose: each event's owner.
        owner: whose events to look for.
        count: how many there are.
    """
    if count == len(whose):
        return range(count)
    found: list[int] = []
    for _ in range(count):
        found.append(whose.index(owner, found[-1] + 1 if found else 0))
    return found


def _order(whose: Sequence[int]) -> Sequence[int]:
    """Return the indexes of events as their text lies in a row."""
    count = len(whose)
    return range(count) if count == 0 or whose.count(whose[0]) == count else sorted(range(count), key=whose.__getitem__)


def _stored(lines: Sequence[bytes], whose: Sequence[int]) -> Sequence[bytes]:
    order = _order(whose)
    return lines if isinstance(order, range) else [lines[index] for index in order]


def _in_order(stored: list[bytes], whose: Sequence[int]) -> list[bytes]:
    """Undo `_stored`."""
    order = _order(whose)
    if isinstance(order, range):
        return stored
    lines = [b""] * len(stored)
    for index, line in zip(order, stored, strict=True):
        lines[index] = line
    return lines
