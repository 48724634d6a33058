"""The counts at the end, and whether all who watched the sync saw the same.

Rule of this file: pure. Rows stand for what somebody published, received or says; a cell that does not apply is None.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Final

from attrs import define, field, frozen

from syncevents.demo.seen import Seen
from syncevents.events import EventType

_COLUMNS: Final = ("events", "orders", "created", "updated", "rejected")
_COUNTED: Final = (EventType.SYNC_ORDER_CREATED, EventType.SYNC_ORDER_UPDATED, EventType.SYNC_ORDER_REJECTED)


@frozen
class Row:
    """One line of the summary; `delay` is the median in seconds, `note` stands where there are no counts."""

    name: str
    events: int | None = None
    orders: int | None = None
    created: int | None = None
    updated: int | None = None
    rejected: int | None = None
    delay: float | None = None
    note: str = ""


@define(eq=False)
class View:
    """What one reader got so far, in its order."""

    ids: list[str] = field(factory=list)
    delays: list[float] = field(factory=list)
    types: Counter[str] = field(factory=Counter)

    def add(self, seen: Seen) -> None:
        """Count one event."""
        self.ids.append(str(seen.event.get("id")))
        self.delays.append(seen.delay)
        self.types[seen.event_type] += 1

    def row(self, name: str) -> Row:
        """Return the line of the summary."""
        delay = median(self.delays) if self.delays else None
        return type_row(name, self.types, delay)


def type_row(name: str, types: Mapping[str, int], delay: float | None = None) -> Row:
    """Return the line for so many events of each type."""
    created, updated, rejected = (types.get(event_type, 0) for event_type in _COUNTED)
    orders = created + updated + rejected
    return Row(name, sum(types.values()), orders, created, updated, rejected, delay)


def status_row(name: str, counters: object) -> Row:
    """Return the line for a `sync_state` or `last_sync`; one without counts where there is none."""
    if not isinstance(counters, dict):
        return Row(name, note="says nothing of this sync")
    number: Any = counters.get
    return Row(
        name,
        orders=number("total_orders"),
        created=number("created_orders"),
        updated=number("updated_orders"),
        rejected=number("rejected_orders"),
    )


def differences(rows: Sequence[Row], views: Mapping[str, View]) -> list[str]:
    """Return what disagrees, in words; the first row is what the others are measured by."""
    measure, *others = rows
    found = [
        f"{row.name}: {getattr(row, column)} {column}, but {getattr(measure, column)} were {measure.name}"
        for row in others
        for column in _COLUMNS
        if getattr(row, column) not in (None, getattr(measure, column))
    ]
    found += [f"{row.name}: {row.note}" for row in others if row.note]
    for name, view in views.items():
        twice = len(view.ids) - len(set(view.ids))
        if twice:
            found.append(f"{name}: {twice} events came twice")
    if not found and len({tuple(view.ids) for view in views.values()}) > 1:
        found.append(f"{' and '.join(views)}: not the same events in the same order")
    return found


def table(rows: Iterable[Row]) -> list[str]:
    """Return the lines of the summary."""
    head = f"{'':<24}" + "".join(f"{column:>10}" for column in _COLUMNS) + f"{'median delay':>15}"
    return [head, *(_line(row) for row in rows)]


def _line(row: Row) -> str:
    if row.note:
        return f"{row.name:<24}    {row.note}"
    cells = "".join(f"{'' if value is None else value:>10}" for value in (getattr(row, name) for name in _COLUMNS))
    delay = "" if row.delay is None else f"{row.delay * 1000:.1f} ms"
    return f"{row.name:<24}{cells}{delay:>15}".rstrip()
