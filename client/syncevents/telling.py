"""How an event is told on a terminal, in one line, and to machines, as JSON.

Rule of this file: pure. What publishers wrote is foreign text: on a line nothing of it can end the line or speak to
the terminal.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from syncevents.events import EventType
from syncevents.reading.values import Gap, Received

SHORT_NAMES: Final[Mapping[str, str]] = {
    EventType.SYNC_STARTED: "sync.started",
    EventType.SYNC_ORDER_CREATED: "order.created",
    EventType.SYNC_ORDER_UPDATED: "order.updated",
    EventType.SYNC_ORDER_REJECTED: "order.rejected",
    EventType.SYNC_COMPLETED: "sync.completed",
    EventType.SYNC_FAILED: "sync.failed",
}


def event_line(event: Received) -> str:
    """Return an event as one line: local time, integration/business, type, and what matters of its data."""
    name = SHORT_NAMES.get(event.type, event.type)
    return printable(
        f"{clock(event.timestamp)}  {place(event):<9} {name:<15} {event_text(event.type, event.data)}"
    ).rstrip()


def gap_line(gap: Gap) -> str:
    """Return a gap as one line."""
    why = _GAPS.get(gap.reason, gap.reason)
    return printable(f"gap: {why}; it goes on with event {gap.resumes_at_seq}")


_GAPS: Final = {
    "retention": "events between are no longer kept",
    "unknown_log": "the position is of another log",
    "log_set_back": "the daemon's log was set back",
    "invalid_id": "the position is none that this daemon gave",
    "damaged": "events between are damaged in the daemon's log",
}


def event_text(event_type: str, data: Mapping[str, Any]) -> str:
    """Return what matters of an event's data, in a few words."""
    if event_type == EventType.SYNC_STARTED:
        return str(data.get("integration_type"))
    if event_type == EventType.SYNC_COMPLETED:
        return counts(data)
    if event_type == EventType.SYNC_FAILED:
        return str(data.get("error", ""))
    if event_type == EventType.SYNC_ORDER_REJECTED:
        return f"{data.get('order_number') or '?':<7} {data.get('reason')}"
    if event_type in SHORT_NAMES:
        amount = f"{data.get('total_amount', '')} {data.get('currency', '')}"
        return f"{data.get('order_number') or '?':<7} {amount:>12}  {data.get('status', '')}"
    return ""


def counts(data: Mapping[str, Any]) -> str:
    """Return the four counters that a sync has, in words."""
    created, updated, rejected = (data.get(f"{kind}_orders", 0) for kind in ("created", "updated", "rejected"))
    total = data.get("total_orders", 0)
    return f"{total} order{'' if total == 1 else 's'}: {created} created, {updated} updated, {rejected} rejected"


def place(event: Received) -> str:
    """Return integration and business, as 13/42; 13/- for a global event."""
    return f"{event.integration_id}/{'-' if event.business_id is None else event.business_id}"


def clock(moment: datetime) -> str:
    """Return a moment in the local zone, to the second."""
    try:
        local = moment.astimezone()
    except (OverflowError, ValueError):  # the first and the last day that there are
        local = moment
    return local.isoformat(" ", "seconds")[:19]


def span(seconds: float) -> str:
    """Return how long something took, for people."""
    whole = max(0, int(seconds))
    if whole < 10:
        return f"{max(0.0, seconds):.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def printable(text: str) -> str:
    """Return foreign text with everything escaped that does not print."""
    return "".join(sign if sign.isprintable() else f"\\u{ord(sign):04x}" for sign in text)


def event_json(event: Received) -> str:
    """Return an event as one line of JSON: the daemon's payload, and `position`."""
    return to_json(
        {
            "id": event.id,
            "type": event.type,
            "integration_id": event.integration_id,
            "business_id": event.business_id,
            "timestamp": event.timestamp.isoformat(),
            "data": event.data,
            "metadata": event.metadata,
            "seq": event.seq,
            "position": event.position,
        }
    )


def gap_json(gap: Gap) -> str:
    """Return a gap as one line of JSON."""
    fields = {"reason": gap.reason, "resumes_at_seq": gap.resumes_at_seq, "position": gap.position}
    return to_json({"gap": fields})


def to_json(value: Any) -> str:
    """Return JSON in one line; a Decimal keeps its digits, which the standard library's encoder cannot do."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(str(key))}:{to_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(to_json, value)) + "]"
    if isinstance(value, Decimal):
        return str(value)
    if value in (float("inf"), float("-inf")):  # what a number beyond all limits was read as
        return "1e999" if value > 0 else "-1e999"
    return json.dumps(value)
