"""The syncs that are going on, and how fast: what `syncevents watch` knows.

Rule of this file: pure; the clock is passed in. Which syncs there are is told by the events that begin and end them,
their counters by the daemon's sync status.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from attrs import define, evolve, field, frozen

from syncevents.events import EventType
from syncevents.reading.values import Received
from syncevents.telling import clock, counts, printable, span

Key = tuple[int, int | None]  # integration and business

_COUNTERS: Final = ("total_orders", "created_orders", "updated_orders", "rejected_orders")
_WINDOW: Final = 10.0  # seconds over which the rate is taken: long enough to be steady, short enough to show a stop

ENDS: Final = frozenset((EventType.SYNC_COMPLETED, EventType.SYNC_FAILED))
LIFECYCLE: Final = (EventType.SYNC_STARTED, EventType.SYNC_COMPLETED, EventType.SYNC_FAILED)


@frozen
class Run:
    """A sync that is going on.

    Attributes:
        absent: the latest sync status did not have it: its last event is on its way, or was missed in a gap.
        samples: moments and totals of the last seconds, for the rate.
    """

    key: Key
    integration_type: str
    started_at: datetime
    total_orders: int = 0
    created_orders: int = 0
    updated_orders: int = 0
    rejected_orders: int = 0
    stalled: bool = False
    absent: bool = False
    samples: tuple[tuple[float, int], ...] = ()

    @property
    def rate(self) -> float | None:
        """Orders a second of late; None until there is something to compare."""
        if len(self.samples) < 2:
            return None
        (began, before), (ended, total) = self.samples[0], self.samples[-1]
        return max(0.0, (total - before) / (ended - began))

    def updated(self, answer: Mapping[str, Any], now: float) -> "Run":
        """Return it with the counters of a sync status that was asked for at `now`, by a clock that never jumps."""
        state = answer["sync_state"]
        numbers = _numbers(state)
        samples = [sample for sample in self.samples if now - sample[0] <= _WINDOW]
        if not samples or now > samples[-1][0]:
            samples.append((now, numbers.get("total_orders", self.total_orders)))
        return evolve(self, **numbers, absent=False, stalled=answer.get("stalled") is True, samples=tuple(samples))


@define(eq=False)
class Progress:
    """All syncs that are going on, by integration and business."""

    runs: dict[Key, Run] = field(factory=dict)

    def heard(self, event: Received) -> Run | None:
        """Take note of an event that begins or ends a sync; return what it ended, where that was known."""
        key = (event.integration_id, event.business_id)
        if event.type == EventType.SYNC_STARTED:
            self.runs[key] = Run(key, str(event.data.get("integration_type")), event.timestamp)
            return None
        return self.runs.pop(key, None) if event.type in ENDS else None

    def asked(self, key: Key, answer: Mapping[str, Any], now: float) -> None:
        """Take note of a sync status; a sync that is absent for the second time is forgotten."""
        run = self.runs.get(key)
        if run is None or answer.get("business_id") != key[1]:
            return  # asked for a global sync, the daemon tells of the latest one of any business
        if isinstance(answer.get("sync_state"), Mapping):
            self.runs[key] = run.updated(answer, now)
        elif run.absent:
            del self.runs[key]
        else:
            self.runs[key] = evolve(run, absent=True)

    def table(self, now: datetime) -> list[str]:
        """Return the lines of the display, the oldest sync first."""
        rows = [_row(run, now) for run in self._oldest_first()]
        if not rows:
            return ["no sync is going on"]
        return [_HEAD, *rows]

    def lines(self, now: datetime) -> list[str]:
        """Return a line for each sync, each complete in itself."""
        return [_line(run, now) for run in self._oldest_first()]

    def objects(self, now: datetime) -> list[dict[str, Any]]:
        """Return the same for programs."""
        return [run_object(run, "in_progress", now) for run in self._oldest_first()]

    def _oldest_first(self) -> list[Run]:
        return sorted(self.runs.values(), key=lambda run: run.started_at)


_HEAD: Final = (
    f"{'INTEGRATION':>11}  {'BUSINESS':>10}  {'TYPE':<14}{'TOTAL':>9}{'CREATED':>9}{'UPDATED':>9}{'REJECTED':>10}"
    f"{'RATE':>10}{'ELAPSED':>13}"
)


def _row(run: Run, now: datetime) -> str:
    integration, business = run.key
    shop = "-" if business is None else business
    kind = run.integration_type[:13]
    numbers = f"{run.total_orders:>9}{run.created_orders:>9}{run.updated_orders:>9}{run.rejected_orders:>10}"
    stalled = "  STALLED" if run.stalled else ""
    row = f"{integration:>11}  {shop:>10}  {kind:<14}{numbers}{_rate(run):>10}{_elapsed(run, now):>13}{stalled}"
    return printable(row)


def _line(run: Run, now: datetime) -> str:
    stalled = ", STALLED" if run.stalled else ""
    rate = "" if run.rate is None else f", {_rate(run)}"
    text = f"{clock(now)}  {name_of(run)}  {counts(_counters(run))}{rate}, {_elapsed(run, now)}{stalled}"
    return printable(text)


def started_line(event: Received) -> str:
    """Return the line for a sync that began."""
    run = Run((event.integration_id, event.business_id), str(event.data.get("integration_type")), event.timestamp)
    return printable(f"{clock(event.timestamp)}  {name_of(run)}  started")


def ended_line(run: Run, event: Received) -> str:
    """Return the line for a sync that ended, as its last event tells."""
    took = span((event.timestamp - run.started_at).total_seconds())
    how = "failed" if event.type == EventType.SYNC_FAILED else "completed"
    what = str(event.data.get("error")) if how == "failed" else counts(event.data)
    return printable(f"{clock(event.timestamp)}  {name_of(run)}  {how} after {took}: {what}")


def ended_object(run: Run, event: Received) -> dict[str, Any]:
    """Return the same for programs."""
    numbers = _numbers(event.data)
    how = "failed" if event.type == EventType.SYNC_FAILED else "completed"
    error = {"error": str(event.data.get("error"))} if how == "failed" else {}
    return run_object(evolve(run, **numbers, samples=(), stalled=False), how, event.timestamp) | error


def run_object(run: Run, status: str, now: datetime) -> dict[str, Any]:
    """Return a sync as JSON has it."""
    integration, business = run.key
    return {
        "integration_id": integration,
        "business_id": business,
        "integration_type": run.integration_type,
        "status": status,
        "started_at": run.started_at.isoformat(),
        "elapsed": round((now - run.started_at).total_seconds(), 1),
        **_counters(run),
        "rate": None if run.rate is None else round(run.rate, 1),
        "stalled": run.stalled,
    }


def name_of(run: Run) -> str:
    """Return which sync it is."""
    integration, business = run.key
    return f"{integration}/{'-' if business is None else business} {run.integration_type}"


def _numbers(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counters among these fields; what is no number is left out."""
    return {name: value for name in _COUNTERS if isinstance(value := fields.get(name), int)}


def _counters(run: Run) -> dict[str, int]:
    return {name: getattr(run, name) for name in _COUNTERS}


def _rate(run: Run) -> str:
    return "-" if run.rate is None else f"{run.rate:.1f}/s"


def _elapsed(run: Run, now: datetime) -> str:
    return span((now - run.started_at).total_seconds())
