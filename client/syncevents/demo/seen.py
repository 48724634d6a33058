"""What the readers of the demo report, and how a line of text tells of it.

Rule of this file: pure. An event is the JSON object as its reader got it: from Redis the envelope, from the stream the
payload, which differ in the name of the type only.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from attrs import frozen

from syncevents.events import EventType

Source = Literal["redis", "sse"]

SHORT_NAMES: Final = {
    EventType.SYNC_STARTED: "sync.started",
    EventType.SYNC_ORDER_CREATED: "order.created",
    EventType.SYNC_ORDER_UPDATED: "order.updated",
    EventType.SYNC_ORDER_REJECTED: "order.rejected",
    EventType.SYNC_COMPLETED: "sync.completed",
    EventType.SYNC_FAILED: "sync.failed",
}


@frozen
class Seen:
    """One event, as one reader got it; `at` is when, in seconds since 1970."""

    source: Source
    event: Mapping[str, Any]
    at: float

    @property
    def event_type(self) -> str:
        """The name of the type."""
        return str(self.event.get("event_type") or self.event.get("type"))

    @property
    def data(self) -> Mapping[str, Any]:
        """The event's own fields."""
        data = self.event.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def delay(self) -> float:
        """Seconds from the publish call until it was here; both clocks are this machine's."""
        published = datetime.fromisoformat(str(self.event.get("timestamp")))
        return max(0.0, self.at - published.timestamp())


@frozen
class Trouble:
    """A reader had to begin again, or had to give up."""

    source: Source
    text: str


def describe(seen: Seen) -> str:
    """Tell of an event in one line."""
    data = seen.data
    name = f"{SHORT_NAMES.get(seen.event_type, seen.event_type):<15}"
    delay = f"{seen.delay * 1000:4.0f} ms"
    if seen.event_type == EventType.SYNC_STARTED:
        text = str(data.get("integration_type"))
    elif seen.event_type == EventType.SYNC_COMPLETED:
        text = counts(data)
    elif seen.event_type == EventType.SYNC_ORDER_REJECTED:
        text = f"{data.get('order_number') or '?':<7} {data.get('reason')}"
    elif seen.event_type in SHORT_NAMES:
        amount = f"{data.get('total_amount', '')} {data.get('currency', '')}"
        text = f"{data.get('order_number') or '?':<7} {amount:>12}  {data.get('status', '')}"
    else:
        text = ""
    return f"{name} {text:<54} {delay}"


def counts(data: Mapping[str, Any]) -> str:
    """Tell of the four counters that a sync has."""
    created, updated, rejected = (data.get(f"{kind}_orders", 0) for kind in ("created", "updated", "rejected"))
    total = data.get("total_orders", 0)
    return f"{total} order{'' if total == 1 else 's'}: {created} created, {updated} updated, {rejected} rejected"


def describe_status(status: Mapping[str, Any]) -> str:
    """Tell of an answer of the sync status in one line."""
    running, last = status.get("sync_state"), status.get("last_sync")
    if isinstance(running, dict):
        return f"{'in progress':<15} {counts(running)}"
    if isinstance(last, dict):
        return f"{last.get('status')!s:<15} {counts(last)}"
    return "no sync yet"
