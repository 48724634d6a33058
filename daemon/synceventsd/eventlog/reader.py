"""The reading side: one read-only connection, called from one thread at a time.

Rule of this file: reads are short, because an open one keeps the WAL from being reset.
"""

from __future__ import annotations

import heapq
import itertools
import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

from attrs import define, field, frozen

from synceventsd.core.errors import LogDamaged, StorageUnavailable
from synceventsd.core.filters import Filter
from synceventsd.core.model import GLOBAL, Group
from synceventsd.core.positions import Epochs
from synceventsd.eventlog.commits import RejectRow
from synceventsd.eventlog.rows import GROUP_COLUMNS, HEAD_COLUMNS, head_of, lines_of, unpacked
from synceventsd.eventlog.schema import connect_reader, is_damage, translated

_GROUP: Final = f"SELECT {GROUP_COLUMNS} FROM event_group WHERE first = ?"  # noqa: S608 (our own text)
_HEAD: Final = f"SELECT {HEAD_COLUMNS} FROM event_group WHERE first = ?"  # noqa: S608
_WHOSE: Final = "SELECT count, businesses FROM event_group WHERE first = ?"  # without the pages that the text is on

# What a group and each of its events cost to read beside the text, as text: else one look at a log of single events, or
# at groups of which each has a single event for the reader, would keep everybody else from reading for seconds.
ROW_BYTES: Final = 2048
EVENT_BYTES: Final = 16

# How much text of the groups that were read last is kept. The pages of a shop ask for the same replay: 2,000 events of
# one among those of eight are 10 MB. Who reads on through everything, as Redis does after an outage, comes back only
# for the rest of what it just read, and must not drive out the others' replays.
REPLAYED_BYTES: Final = 12 * 2**20
PASSED_BYTES: Final = 2 * 2**20


@frozen
class ProducerState:
    """What the log knows of a producer: who opened it, how many lines are dealt with, and what was rejected."""

    uid: int | None
    accepted: int
    rejects: tuple[RejectRow, ...] = ()


@frozen
class Backlog:
    """What lies beyond a number: how much text, and since when the oldest of it waits (seconds since 1970)."""

    size: int
    oldest_at: float | None


@frozen
class Scan:
    """How a look for events went: they begin right after `start`, or it goes on at `down_from` for `wanted` more."""

    start: int | None
    wanted: int
    down_from: int


@define(eq=False)
class Recent:
    """The groups that were read last, by the number of their first event and the business they were read for."""

    max_bytes: int
    _groups: dict[tuple[int, int | None], Group] = field(factory=dict, init=False)
    _bytes: int = field(default=0, init=False)

    def get(self, first: int, business: int | None) -> Group | None:
        """Return a group if it is here."""
        return self._groups.get((first, business))

    def add(self, group: Group, business: int | None) -> None:
        """Keep one more, and let the oldest go."""
        self._groups[group.first, business] = group
        self._bytes += _cost(group)
        while self._bytes > self.max_bytes:
            self._bytes -= _cost(self._groups.pop(next(iter(self._groups))))


@define(eq=False)
class Reader:
    """One read-only connection."""

    path: Path
    _db: sqlite3.Connection | None = None
    _replayed: Recent = field(factory=lambda: Recent(REPLAYED_BYTES), init=False)
    _passed: Recent = field(factory=lambda: Recent(PASSED_BYTES), init=False)

    def groups(
        self, epochs: Callable[[], Epochs], after: int, max_bytes: int, business: int | None, upto: int
    ) -> tuple[list[Group], bool]:
        """Return the groups that reach beyond event `after`, oldest first, until they make up `max_bytes` of text.

        The first one may begin before `after`. With a business: only the groups with events that it may see. `epochs`
        is asked once a group is read: an epoch may have begun since somebody wanted it. Events up to number `upto` are
        in the log, but for what retention took.

        Returns:
            The groups, and whether there are no more.

        Raises:
            LogDamaged: the very next group does not read, or is not there.
        """
        found: list[Group] = []
        size = 0
        follows = after + 1  # where the next group begins at the latest, if nothing is missing
        with translated(), self._moment(), self._firsts(business, from_=self._group_of(after + 1)) as firsts:
            for first in firsts:
                try:
                    group = self._group(first, epochs, business)
                    if group is None and business is not None:
                        self._insist_deleted(max(first, follows), max(first, follows))
                    if group is not None and business is None and group.first > follows:
                        self._insist_deleted(follows, group.first - 1)
                except LogDamaged as damage:
                    if found:
                        return found, False
                    if damage.last is not None and damage.last <= after:
                        continue  # a broken tree's: it tells of what was not asked for
                    raise
                if group is None or group.last < follows:  # or again: in a broken tree SQLite goes in circles
                    continue
                found.append(group)
                follows = group.last + 1
                size += _cost(group)
                if size >= max_bytes:
                    return found, False
        if business is None and follows <= upto:
            if found:
                return found, False
            self._insist_deleted(follows, upto)
        return found, True

    def _insist_deleted(self, first: int, last: int) -> None:
        """Have no group in the place of these events be retention's doing, which deletes from the oldest on.

        One flipped bit in a page's count of rows hides rows from SQLite, which notices nothing.

        Raises:
            LogDamaged: there are older ones.
        """
        row = self._one("SELECT min(first) FROM event_group", ())
        if row is not None and row[0] is not None and row[0] <= last:
            raise LogDamaged(f"events {first} to {last} are not where they should be", last)

    def _group(self, first: int, epochs: Callable[[], Epochs], business: int | None) -> Group | None:
        recent = self._passed if business is None else self._replayed
        group = recent.get(first, business)
        if group is None:
            group = self._readable(first, lambda: epochs().at(first).epoch, business)
            if group is not None:
                recent.add(group, business)
        return group

    def _readable(self, first: int, epoch: Callable[[], str], business: int | None) -> Group | None:
        """Return a group, or of one what a business may see; None when it is gone.

        Raises:
            LogDamaged: it does not read; where it ends is told, so that what is around it is read all the same.
        """
        try:
            return self._read(first, epoch, business)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            raise LogDamaged(f"the group from event {first} does not read: {error}", self._end_of(first)) from error

    def _read(self, first: int, epoch: Callable[[], str], business: int | None) -> Group | None:
        if business is not None:
            row = self._connection.execute(_HEAD, (first,)).fetchone()
            head = None if row is None else head_of(row)
            if head is not None:
                with self._connection.blobopen("event_group", "lines", first, readonly=True) as text:
                    part = head.part(business, lambda start, size: cast(bytes, text[start : start + size]))
                if part is None:
                    raise self._mismatch(first)
                size = sum(map(len, part.found.values()))
                return Group(first, epoch(), head.accepted_at, part, whose=head.whose, size=size)
        row = self._connection.execute(_GROUP, (first,)).fetchone()
        if row is None:
            return None
        lines = lines_of(row)
        if lines is None:
            raise self._mismatch(first)
        _, count, accepted_at, _, _, packed, _, sums, _ = row
        # Without sums, businesses are under no checksum: the events themselves say whose they are.
        whose = None if sums is None else _whose(packed, count)
        return Group(first, epoch(), accepted_at, lines, whose=whose)

    def _mismatch(self, first: int) -> LogDamaged:
        return LogDamaged(f"checksum of the group from event {first} does not match", self._end_of(first))

    def replay_start(self, filter_: Filter, wanted: int, down_from: int, max_bytes: int) -> Scan:
        """Look backwards from number `down_from` for the newest `wanted` matching events, in `max_bytes` of text.

        Returns:
            Where they begin, or where the next look has to go on and for how many.
        """
        size, reached = 0, down_from + 1
        with translated(), self._moment(), self._firsts(filter_.business_id, down_from=down_from) as firsts:
            for first in firsts:
                if size >= max_bytes:
                    return Scan(None, wanted, reached - 1)
                reached = first
                size += ROW_BYTES
                matching = self._visible(first, filter_.business_id) if filter_.takes_all else None
                if matching is None:
                    group = self._read_or_skip(first, filter_.business_id)
                    if group is None:
                        continue
                    size += _cost(group)
                    seen = group.indexes(filter_.business_id, 0)
                    matching = [index for index in seen if filter_.matches(group.head(index))]
                matching = matching[: bisect_right(matching, down_from - first)]
                if len(matching) >= wanted:
                    return Scan(first + matching[len(matching) - wanted] - 1, 0, 0)
                wanted -= len(matching)
        return Scan(0, 0, 0)

    def _read_or_skip(self, first: int, business: int | None) -> Group | None:
        """Return a group; None where retention was faster, or it does not read: who reads on from here is told."""
        try:
            return self._readable(first, str, business)
        except LogDamaged:
            return None

    def _visible(self, first: int, business: int | None) -> Sequence[int] | None:
        """Return, without reading its text, which events of a group a business may see; None where that is not told.

        No checksum is looked at: what is wrong shows when it is read.
        """
        row = self._connection.execute(_WHOSE, (first,)).fetchone()
        whose = None if row is None else _whose(row[1], row[0])
        if whose is None or business is None:
            return None if whose is None else range(len(whose))
        return [index for index, owner in enumerate(whose) if owner in (business, GLOBAL)]

    def producer(self, producer: str, acked: int) -> ProducerState:
        """Return what is known of a producer, with its rejects above `acked`."""
        row = self._one("SELECT uid, accepted FROM producer WHERE id = ?", (producer,))
        if row is None:
            return ProducerState(None, 0)
        if not all(isinstance(value, int) for value in row):
            raise LogDamaged(f"the producer {producer} does not read")
        rejects = self._all(
            "SELECT producer, line, event_id, code, error FROM reject WHERE producer = ? AND line > ? ORDER BY line",
            (producer, acked),
        )
        return ProducerState(row[0], row[1], tuple(RejectRow(*reject) for reject in rejects))

    def backlog(self, after: int, total_bytes: int) -> Backlog:
        """Return what lies beyond event `after`."""
        row = self._one(
            "SELECT first, bytes_before, accepted_at, count, length(lines) FROM event_group WHERE first <= ?"
            " ORDER BY first DESC LIMIT 1",
            (after + 1,),
        )
        if row is None:
            return Backlog(0, None)
        if tuple(map(type, row)) != (int, int, float, int, int) or row[3] < 1:
            raise LogDamaged(f"the group from event {row[0]} does not read")
        first, before, accepted_at, count, size = row
        if first + count - 1 <= after:
            return Backlog(0, None)
        return Backlog(total_bytes - before - size * (after + 1 - first) // count, accepted_at)

    def syncs(self) -> tuple[int, list[bytes]]:
        """Return the saved sync states, and the number of the event after which they were saved."""
        row = self._one("SELECT value FROM meta WHERE key = 'syncs_upto'", ())
        states = [state for (state,) in self._all("SELECT state FROM sync", ())]
        upto = 0 if row is None else row[0]
        if not isinstance(upto, int) or not all(isinstance(state, bytes) for state in states):
            raise LogDamaged("the sync states do not read")
        return upto, states

    def open(self) -> None:
        """Open the connection, if it is not open.

        Raises:
            StorageUnavailable: the file cannot be opened now.
        """
        if self._db is None:
            with translated():
                self._db = connect_reader(self.path)

    def close(self) -> None:
        """Close the connection; reads raise StorageUnavailable until it is opened again."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StorageUnavailable("the log is being opened again")
        return self._db

    def _end_of(self, first: int) -> int | None:
        """Return the number of a group's last event, which is where the next one begins; None where none does."""
        row = self._one("SELECT min(first) FROM event_group WHERE first > ?", (first,))
        return None if row is None or row[0] is None else int(row[0]) - 1

    def _group_of(self, seq: int) -> int:
        row = self._one("SELECT max(first) FROM event_group WHERE first <= ?", (seq,))
        return seq if row is None or row[0] is None else int(row[0])

    @contextmanager
    def _moment(self) -> Iterator[None]:
        """Have all that is read meanwhile be of one moment: a group's text must not be deleted after its head was read.

        While it lasts the WAL cannot be reset.
        """
        db = self._connection
        db.execute("BEGIN")
        try:
            yield
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")

    @contextmanager
    def _firsts(
        self, business: int | None, *, from_: int | None = None, down_from: int | None = None
    ) -> Iterator[Iterator[int]]:
        """Yield the first numbers of the groups that concern a business, rising or falling, read as they are taken.

        Two indexes are merged here and not by SQLite, which would first collect all that either holds.
        """
        bound, order = ("first >= ?", "ASC") if down_from is None else ("first <= ?", "DESC")
        start = from_ if down_from is None else down_from
        if business is None:
            groups = f"SELECT first FROM event_group WHERE {bound} ORDER BY first {order}"  # noqa: S608 (our own texts)
            cursors = [self._connection.execute(groups, (start,))]
        else:
            places = f"SELECT first FROM place WHERE business = ? AND {bound} ORDER BY first {order}"  # noqa: S608
            cursors = [self._connection.execute(places, (which, start)) for which in (business, GLOBAL)]
        merged = heapq.merge(*cursors, reverse=down_from is not None)
        try:
            yield (first for (first,), _ in itertools.groupby(merged))
        finally:
            merged.close()  # it would close a cursor whenever it is collected
            for cursor in cursors:
                cursor.close()

    def _one(self, sql: str, values: Sequence[object]) -> Any:
        with translated():
            return self._connection.execute(sql, values).fetchone()

    def _all(self, sql: str, values: Sequence[object]) -> list[Any]:
        with translated():
            return self._connection.execute(sql, values).fetchall()


def open_reader(path: Path) -> Reader:
    """Open a read-only connection to the log at `path`."""
    reader = Reader(path)
    reader.open()
    return reader


def _cost(group: Group) -> int:
    return group.size + ROW_BYTES + EVENT_BYTES * len(group.lines)


def _whose(packed: object, count: object) -> Sequence[int] | None:
    """Return each event's business; None for a row that was written when only the different ones were noted.

    Where there were as many as events, both are the same.
    """
    whose = unpacked(packed)
    return whose if whose and len(whose) == count else None
