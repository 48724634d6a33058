"""What the two readers and the sync status saw of one sync, and which of it is shown.

Rule of this file: runs in the main thread only; the one place that takes from the inbox. Everything is counted, a
sample is shown. Events of other integrations are shown, as somebody tries something out, and not counted.
"""

import http.client
import time
from collections.abc import Mapping
from queue import Empty
from typing import Any, Final

from syncevents.demo.failure import DemoError
from syncevents.demo.processes import Daemon
from syncevents.demo.readers import Inbox, get_json
from syncevents.demo.screen import Screen
from syncevents.demo.seen import Seen, Source, Trouble, describe, describe_status
from syncevents.demo.tally import View
from syncevents.events import EventType

BUSINESS: Final = 42
INTEGRATION: Final = 13
STREAM_PATH: Final = f"/integrations/events/sse/{BUSINESS}"
STATUS_PATH: Final = f"/integrations/events/sync-status/{INTEGRATION}?business_id={BUSINESS}"

_CHECK_EVERY: Final = 1.0  # seconds between two looks whether the daemon lives
_ENDS: Final = (EventType.SYNC_STARTED, EventType.SYNC_COMPLETED, EventType.SYNC_FAILED)


class Watch:
    """Everybody who watches, in one place."""

    def __init__(self, daemon: Daemon, screen: Screen, inbox: Inbox, sources: tuple[Source, ...]) -> None:
        self.views: dict[Source, View] = {source: View() for source in sources}
        self._daemon = daemon
        self._screen = screen
        self._inbox = inbox
        self._counting = False
        self._missing: dict[str, set[Source]] = {}
        self._checked_at = 0.0

    def begin(self) -> None:
        """Count from zero, for a new sync."""
        self.views = {source: View() for source in self.views}
        self._missing = {event_type: set(self.views) for event_type in _ENDS}
        self._counting = True

    def end(self) -> None:
        """Show whatever comes from now on."""
        self._counting = False

    def follow(self, external_id: str) -> None:
        """Show what everybody sees of this order, and then the sync status."""
        self._missing[external_id] = set(self.views)

    def look_until(self, moment: float) -> None:
        """Take what comes until a moment of the monotonic clock; at least what is there already."""
        while (left := moment - time.monotonic()) > 0:
            try:
                note = self._inbox.get(timeout=left)
            except Empty:
                break
            self._take(note)
        for _ in range(self._inbox.qsize()):  # and not what comes meanwhile, or a flood would stop the sync
            self._take(self._inbox.get_nowait())
        self._check()

    def received(self) -> int:
        """Return how many events came to the reader that is furthest behind."""
        return min(len(view.ids) for view in self.views.values())

    def status(self) -> Mapping[str, Any]:
        """Ask for the sync status."""
        try:
            return get_json(self._daemon.port, STATUS_PATH)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._daemon.check()
            raise DemoError(f"the sync status does not answer: {error}") from None

    def _take(self, note: Seen | Trouble) -> None:
        if isinstance(note, Trouble):
            self._screen.view(note.source, f"! {note.text}")
            return
        if not self._counting or not _is_of_this_sync(note):
            self._screen.view(note.source, describe(note))
            return
        self.views[note.source].add(note)
        key = note.event_type if note.event_type in _ENDS else str(note.data.get("external_id"))
        missing = self._missing.get(key)
        if missing is None or note.source not in missing:
            return
        missing.discard(note.source)
        self._screen.view(note.source, describe(note))
        if not missing:
            del self._missing[key]
            self._screen.view("status", describe_status(self.status()))

    def _check(self) -> None:
        now = time.monotonic()
        if now - self._checked_at > _CHECK_EVERY:
            self._checked_at = now
            self._daemon.check()


def _is_of_this_sync(seen: Seen) -> bool:
    return (seen.event.get("integration_id"), seen.event.get("business_id")) == (INTEGRATION, BUSINESS)
