"""Reading a whole log and telling what is wrong with it, for `synceventsd log verify`.

Rule of this file: it only tells. Everything is read in short slices; what SQLite can check only in one long transaction
is checked where no daemon runs that it would hold up.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from attrs import define, field, frozen

from synceventsd.core.envelope import decode_envelope
from synceventsd.core.errors import LogDamaged
from synceventsd.core.model import GLOBAL
from synceventsd.eventlog.onlooker import Onlooker
from synceventsd.eventlog.rows import unpacked
from synceventsd.eventlog.stretch import Block, Stretch, beyond, bounds

PLACES_AT_ONCE: Final = 5000  # rows of the index in one look
TOLD_BY_SQLITE: Final = 20  # findings of SQLite's own check; where there are more, the rest says nothing new

# What is read here in slices anyway is left out: reading it all in one transaction would hold up the writer.
_SMALL_TABLES: Final = ("meta", "epoch", "producer", "reject", "sync", "ledger")


@frozen
class Finding:
    """Something that is wrong.

    Attributes:
        what: `damaged`, `missing`, `bytes`, `index`, `marks` or `sqlite`.
        first, last: numbers of the events concerned, where it is about events.
        detail: a few words.
    """

    what: str
    first: int | None
    last: int | None
    detail: str


@define(eq=False)
class Audit:
    """One pass over a log. `findings` is what is wrong, `notes` is what was not looked at, or is known already."""

    onlooker: Onlooker
    progress: Callable[[int, int], object]
    groups: int = field(default=0, init=False)
    events: int = field(default=0, init=False)
    size: int = field(default=0, init=False)
    findings: list[Finding] = field(factory=list, init=False)
    notes: list[str] = field(factory=list, init=False)
    _known: Sequence[tuple[int, int]] = field(default=(), init=False)
    _previous: Block | None = field(default=None, init=False)

    def run(self) -> None:
        """Look at everything that is there when it begins; raises as `Onlooker.look` does."""
        oldest, last = self.onlooker.look(bounds)
        self._known = self.onlooker.look(_ledger_ranges)
        self._find("marks", self.onlooker.look(_wrong_marks))
        after = oldest - 1
        while after < last:
            stretch, index = self.onlooker.look(lambda db, start=after: _with_index(db, start))  # type: ignore[misc]
            self.findings.extend(index)
            after = max(after, self._read(stretch, after))
            self.progress(min(after, last) - oldest + 1, last - oldest + 1)
            if stretch.complete:
                break
        self._read_index()
        self._ask_sqlite()

    # The groups

    def _read(self, stretch: Stretch, after: int) -> int:
        """Take the blocks that follow event `after`; return the number of the last event read."""
        for block in stretch.blocks:
            self._join(block, max(after, stretch.deleted))
            after = block.last
            self.groups += 1
            fault = block.fault or _unreadable(block)
            if fault is not None:
                self._tell("damaged", block.first, block.last, fault)
            else:
                self.events += len(block.lines)
                self.size += block.size
            self._previous = block
        return after

    def _join(self, block: Block, after: int) -> None:
        """Compare a block with what precedes it; retention may have taken that since."""
        if block.first > after + 1:
            first, last = after + 1, block.first - 1
            if any(known_first <= first and last <= known_last for known_first, known_last in self._known):
                self.notes.append(f"events {first} to {last} are missing, as the ledger says")
            else:
                self._tell("missing", first, last, "not in the log, and the ledger does not say why")
        before = self._previous
        if block.first <= after:
            self._tell("missing", block.first, after, "these numbers were given out twice")
        elif before is not None and before.last == block.first - 1 and not before.fault and not block.fault:
            should = before.bytes_before + before.size
            if block.bytes_before != should:
                self._tell("bytes", block.first, block.last, f"bytes_before is {block.bytes_before}, not {should}")

    # The index

    def _read_index(self) -> None:
        """Look for entries that lead to nothing."""
        after = (-1, 0)
        while True:
            rows, wrong = self.onlooker.look(lambda db, start=after: _stray_places(db, start))  # type: ignore[misc]
            for business, first in wrong:
                self._tell("index", first, None, f"an entry of business {business or 'none'} leads to no event of it")
            if len(rows) < PLACES_AT_ONCE:
                return
            after = rows[-1]

    # SQLite's own check

    def _ask_sqlite(self) -> None:
        self.onlooker.look(lambda db: None)
        if self.onlooker.running:
            self.notes.append("the daemon runs: free pages and unused ones are checked only while it is stopped")
            for table in _SMALL_TABLES:
                self._find("sqlite", self.onlooker.look(lambda db, name=table: _integrity(db, name)))  # type: ignore[misc]
        else:
            self._find("sqlite", self.onlooker.look(lambda db: _integrity(db, str(TOLD_BY_SQLITE))))

    def _tell(self, what: str, first: int | None, last: int | None, detail: str) -> None:
        self.findings.append(Finding(what, first, last, detail))

    def _find(self, what: str, details: Sequence[str]) -> None:
        self.findings.extend(Finding(what, None, None, detail) for detail in details)


def _unreadable(block: Block) -> str | None:
    """Return what is wrong with events whose checksum is right."""
    businesses = set()
    for seq, line in enumerate(block.lines, block.first):
        try:
            businesses.add(decode_envelope(line).business_id or GLOBAL)
        except ValueError:
            return f"event {seq} is no envelope"
    if businesses != set(block.businesses):
        return "the list of whose events they are does not match"
    return None


def _with_index(db: sqlite3.Connection, after: int) -> tuple[Stretch, list[Finding]]:
    """Return a stretch, and which of its blocks the index does not lead to."""
    stretch = beyond(db, after)
    found = []
    for block in stretch.blocks:
        for business in set(block.businesses):
            row = db.execute("SELECT 1 FROM place WHERE business = ? AND first = ?", (business, block.first)).fetchone()
            if row is None:
                detail = f"readers of business {business or 'none'} do not find them"
                found.append(Finding("index", block.first, block.last, detail))
    return stretch, found


def _stray_places(
    db: sqlite3.Connection, after: tuple[int, int]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the next entries of the index, and which of them lead to no block with events of their business."""
    rows: list[tuple[int, int]] = db.execute(
        "SELECT business, first FROM place WHERE (business, first) > (?, ?) ORDER BY business, first LIMIT ?",
        (*after, PLACES_AT_ONCE),
    ).fetchall()
    if rows and (rows[0] <= after or rows != sorted(rows)):
        raise LogDamaged("the entries of the index do not rise")
    return rows, [(business, first) for business, first in rows if business not in _businesses(db, first)]


def _businesses(db: sqlite3.Connection, first: int) -> Sequence[int]:
    row = db.execute("SELECT businesses FROM event_group WHERE first = ?", (first,)).fetchone()
    return () if row is None else unpacked(row[0])


def _ledger_ranges(db: sqlite3.Connection) -> list[tuple[int, int]]:
    return db.execute(
        "SELECT first, last FROM ledger WHERE reason = 'log_damaged' AND first IS NOT NULL AND last IS NOT NULL"
    ).fetchall()


def _wrong_marks(db: sqlite3.Connection) -> list[str]:
    """Return what of the numbers kept beside the events cannot be."""
    return list(_wrong(dict(db.execute("SELECT key, value FROM meta")), bounds(db)[1], db))


def _wrong(meta: dict[str, object], last: int, db: sqlite3.Connection) -> Iterator[str]:
    if not meta.get("log_id"):
        yield "the log has no id"
    for name in ("forwarded", "syncs_upto", "last_deleted"):
        value = meta.get(name, 0)
        if not isinstance(value, int) or not 0 <= value <= last:
            yield f"{name} is {value!r}, the newest event is {last}"
    firsts = [first for (first,) in db.execute("SELECT first FROM epoch ORDER BY number")]
    if not firsts or firsts != sorted(firsts) or firsts[-1] > last + 1:
        yield "the epochs do not rise up to the newest event"


def _integrity(db: sqlite3.Connection, what: str) -> list[str]:
    found = [str(text) for (text,) in db.execute(f"PRAGMA integrity_check({what})")]
    return [] if found == ["ok"] else found
