"""What the readers of the demo report, and how a line of text tells of it.

Rule of this file: pure. An event is the JSON object as its reader got it: from Redis the envelope, from the stream the
payload, which differ in the name of the type only.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from attrs import frozen

from syncevents.telling import SHORT_NAMES, counts, event_text

Source = Literal["redis", "sse"]


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
    name = f"{SHORT_NAMES.get(seen.event_type, seen.event_type):<15}"
    delay = f"{seen.delay * 1000:4.0f} ms"
    text = event_text(seen.event_type, seen.data)
    return f"{name} {text:<54} {delay}"


def describe_status(status: Mapping[str, Any]) -> str:
    """Tell of an answer of the sync status in one line."""
    running, last = status.get("sync_state"), status.get("last_sync")
    if isinstance(running, dict):
        return f"{'in progress':<15} {counts(running)}"
    if isinstance(last, dict):
        return f"{last.get('status')!s:<15} {counts(last)}"
    return "no sync yet"
