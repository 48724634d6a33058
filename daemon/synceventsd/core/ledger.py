"""The ledger: what was ever rejected, dropped, skipped or sent again.

Rule of this file: nothing that is written down is lost, and little is kept. What goes on is one entry that grows, and
of many entries the oldest are put together by reason; so the counts by reason hold for ever, the particulars for a
while.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from attrs import define, evolve, field, frozen

# An entry grows until nothing of its kind has happened for so long (seconds): a fault that goes on is one entry.
PAUSE: Final = 600.0

# Well under a megabyte, in memory and on disk. When there are more, the older half of them is put together.
MAX_ENTRIES: Final = 1000
MAX_DETAIL: Final = 300  # characters


@frozen
class Incident:
    """Something to write down.

    Attributes:
        reason: one word.
        count: how many lines, events or other things.
        uid: whose; None where no user is to blame.
        first, last: the events' numbers, where they have some.
        detail: a sentence.
        once: a range that is an entry of its own, and is not written down a second time: a crash may repeat the work.
    """

    reason: str
    count: int
    uid: int | None = None
    first: int | None = None
    last: int | None = None
    detail: str = ""
    once: bool = False


@frozen
class Entry:
    """One entry: from `at` to `until` (seconds since 1970) so many of a kind; `detail` tells of the newest."""

    id: int
    reason: str
    uid: int | None
    at: float
    until: float
    first: int | None
    last: int | None
    count: int
    detail: str


@frozen
class Changes:
    """What is to be saved: entries as they are now, whatever was saved of them before, and the ids of those gone."""

    entries: Sequence[Entry] = ()
    gone: Sequence[int] = ()
    revision: int = 0


@define(eq=False)
class Book:
    """All entries. `revision` grows with each incident, so that who waits knows what has been saved."""

    revision: int = field(default=0, init=False)
    saved_revision: int = field(default=0, init=False)
    totals: Counter[str] = field(factory=Counter, init=False)
    _entries: dict[int, Entry] = field(factory=dict, init=False)
    _newest: dict[tuple[str, int | None], int] = field(factory=dict, init=False)
    _changed: set[int] = field(factory=set, init=False)
    _gone: set[int] = field(factory=set, init=False)
    _next_id: int = field(default=1, init=False)

    def load(self, saved: Iterable[Entry]) -> None:
        """Begin with what was saved, oldest first."""
        for entry in saved:
            self._keep(entry)
            self.totals[entry.reason] += entry.count
        self._changed.clear()

    def note(self, incident: Incident, at: float) -> bool:
        """Write an incident down. Return whether that began a new entry, which is worth a line in the log."""
        if incident.once and any(_same_range(entry, incident) for entry in self._entries.values()):
            return False
        self.revision += 1
        self.totals[incident.reason] += incident.count
        entry = self._entries.get(self._newest.get((incident.reason, incident.uid), 0))
        if entry is not None and abs(at - entry.until) <= PAUSE and _joins(entry, incident):
            self._keep(_grown(entry, incident, at))
            return False
        self._keep(
            Entry(
                self._next_id,
                incident.reason,
                incident.uid,
                at,
                at,
                incident.first,
                incident.last,
                incident.count,
                incident.detail[:MAX_DETAIL],
            )
        )
        if len(self._entries) > MAX_ENTRIES:
            self._put_together(MAX_ENTRIES // 2)
        return True

    def covers(self, reason: str, first: int, last: int | None) -> bool:
        """Return whether an entry tells of all these numbers."""
        return last is not None and any(
            entry.reason == reason
            and entry.first is not None
            and entry.last is not None
            and entry.first <= first <= last <= entry.last
            for entry in self._entries.values()
        )

    def take(self) -> Changes:
        """Return what has to be saved; until `saved` is told of it, it stays to be saved."""
        return Changes([self._entries[key] for key in sorted(self._changed)], sorted(self._gone), self.revision)

    def saved(self, changes: Changes) -> None:
        """Note that these are durable; what has changed again meanwhile is to be saved again."""
        self._changed -= {entry.id for entry in changes.entries if self._entries.get(entry.id) is entry}
        self._gone.difference_update(changes.gone)
        self.saved_revision = max(self.saved_revision, changes.revision)

    @property
    def entries(self) -> list[Entry]:
        """Return all entries, in the order in which they began."""
        return [self._entries[key] for key in sorted(self._entries)]

    @property
    def unsaved(self) -> bool:
        """Return whether anything is to be saved."""
        return bool(self._changed or self._gone)

    def newest(self, most: int) -> list[Entry]:
        """Return the entries that something was added to last, the newest first."""
        return sorted(self._entries.values(), key=lambda entry: (entry.until, entry.id), reverse=True)[:most]

    def _keep(self, entry: Entry) -> None:
        self._entries[entry.id] = entry
        self._newest[entry.reason, entry.uid] = entry.id
        self._changed.add(entry.id)
        self._next_id = max(self._next_id, entry.id + 1)

    def _put_together(self, most: int) -> None:
        """Make one entry for each reason of the `most` oldest entries."""
        oldest = [self._entries[key] for key in islice(sorted(self._entries), most)]
        for entry in oldest:
            del self._entries[entry.id]
            self._changed.discard(entry.id)
            self._gone.add(entry.id)
            if self._newest.get((entry.reason, entry.uid)) == entry.id:
                del self._newest[entry.reason, entry.uid]
        for entry in _by_reason(oldest):
            self._entries[entry.id] = entry  # and not `_keep`: nothing is to be added to it any more
            self._changed.add(entry.id)
            self._gone.discard(entry.id)


def _same_range(entry: Entry, incident: Incident) -> bool:
    mine = (incident.reason, incident.first, incident.last)
    return incident.first is not None and (entry.reason, entry.first, entry.last) == mine


def _joins(entry: Entry, incident: Incident) -> bool:
    """Return whether the incident is more of the same: ranges of numbers have to touch."""
    if incident.once:
        return False
    if entry.first is None or entry.last is None or incident.first is None or incident.last is None:
        return entry.first is None and incident.first is None
    return incident.first <= entry.last + 1 and entry.first <= incident.last + 1


def _grown(entry: Entry, incident: Incident, at: float) -> Entry:
    return evolve(
        entry,
        until=max(entry.until, at),
        first=_least(entry.first, incident.first),
        last=_most(entry.last, incident.last),
        count=entry.count + incident.count,
        detail=incident.detail[:MAX_DETAIL],
    )


def _by_reason(entries: Sequence[Entry]) -> Iterator[Entry]:
    together: dict[str, Entry] = {}
    for entry in entries:
        so_far = together.get(entry.reason)
        together[entry.reason] = (
            entry
            if so_far is None
            else evolve(
                so_far,
                uid=so_far.uid if so_far.uid == entry.uid else None,
                at=min(so_far.at, entry.at),
                until=max(so_far.until, entry.until),
                first=_least(so_far.first, entry.first),
                last=_most(so_far.last, entry.last),
                count=so_far.count + entry.count,
                detail="several older entries, put together",
            )
        )
    yield from together.values()


def _least(one: int | None, other: int | None) -> int | None:
    return min((number for number in (one, other) if number is not None), default=None)


def _most(one: int | None, other: int | None) -> int | None:
    return max((number for number in (one, other) if number is not None), default=None)
