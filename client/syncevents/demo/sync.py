"""One synchronisation: the orders are published at a pace, and then all who watched are compared.

Rule of this file: it publishes as any integration would, with the client library and nothing else.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from attrs import frozen

from syncevents._version import __version__
from syncevents.demo.processes import Daemon
from syncevents.demo.screen import Screen
from syncevents.demo.shopify import PLATFORM, OrderEvent, Translated, translate
from syncevents.demo.tally import Row, differences, status_row, table, type_row
from syncevents.demo.watch import BUSINESS, INTEGRATION, Watch
from syncevents.errors import Rejected
from syncevents.events import (
    EventType,
    SyncCompleted,
    SyncOrderCreated,
    SyncOrderUpdated,
    SyncParams,
    SyncStarted,
)
from syncevents.publisher import Publisher

_PATIENCE: Final = 10.0  # seconds without progress until what is missing counts as lost
_STEP: Final = 0.05  # seconds between two looks


@frozen
class Plan:
    """What is synchronised: the orders of a file, `rate` of them a second."""

    file: str
    orders: Sequence[Any]
    rate: float


def synchronise(plan: Plan, daemon: Daemon, watch: Watch, screen: Screen) -> bool:
    """Publish all orders, and print the summary; return whether all agree."""
    publisher = Publisher(daemon.socket, client=f"syncevents-demo/{__version__}")
    try:
        return _Sync(plan, publisher, watch, screen).run()
    finally:
        with suppress(Rejected, TimeoutError):  # the summary has told of both
            publisher.close(timeout=0)


class _Sync:
    """A sync that is going on."""

    def __init__(self, plan: Plan, publisher: Publisher, watch: Watch, screen: Screen) -> None:
        self._plan = plan
        self._publisher = publisher
        self._watch = watch
        self._screen = screen
        self._types: Counter[str] = Counter()
        self._began = time.monotonic()
        self._sampled_at = float("-inf")
        self._sampled_types: set[str] = set()

    def run(self) -> bool:
        self._watch.begin()
        self._start()
        for index, raw in enumerate(self._plan.orders):
            self._look_until(self._began + (index + 1) / self._plan.rate)
            self._publish_order(index, translate(raw, datetime.now(UTC)))
        self._wait("acknowledgements", lambda: self._publisher.statistics().acked)
        running = status_row("sync status, running", self._watch.status().get("sync_state"))
        self._complete()
        self._wait("acknowledgements", lambda: self._publisher.statistics().acked)
        self._wait("readers", self._watch.received)
        self._screen.end_progress()
        self._watch.end()
        return self._summarise(running)

    def _look_until(self, moment: float) -> None:
        """Watch until then, at least once."""
        while True:
            self._watch.look_until(min(moment, time.monotonic() + _STEP))
            self._screen.progress(self._progress())
            if time.monotonic() >= moment:
                return

    def _start(self) -> None:
        started = SyncStarted(
            integration_id=INTEGRATION,
            integration_type=PLATFORM,
            params=SyncParams(status="any"),
            started_at=datetime.now(UTC),
        )
        self._publisher.publish_sync_started(INTEGRATION, BUSINESS, started)
        self._types[EventType.SYNC_STARTED] += 1

    def _publish_order(self, index: int, translated: Translated) -> None:
        event = translated.event
        if translated.fault is not None:
            self._screen.error(f"{self._plan.file}: orders[{index}]: {translated.fault}")
        now = time.monotonic()
        if event.event_type not in self._sampled_types or now - self._sampled_at >= self._screen.sample_every:
            self._sampled_types.add(event.event_type)
            self._sampled_at = now
            self._watch.follow(event.external_id)
        while not self._publisher.wait_for_room(_STEP):
            self._watch.look_until(now)
        self._publish(event)
        self._types[event.event_type] += 1

    def _publish(self, event: OrderEvent) -> None:
        if isinstance(event, SyncOrderCreated):
            self._publisher.publish_sync_order_created(INTEGRATION, BUSINESS, event)
        elif isinstance(event, SyncOrderUpdated):
            self._publisher.publish_sync_order_updated(INTEGRATION, BUSINESS, event)
        else:
            self._publisher.publish_sync_order_rejected(INTEGRATION, BUSINESS, event)

    def _complete(self) -> None:
        counted = type_row("", self._types)
        completed = SyncCompleted(
            integration_id=INTEGRATION,
            integration_type=PLATFORM,
            total_orders=counted.orders or 0,
            created_orders=counted.created or 0,
            updated_orders=counted.updated or 0,
            rejected_orders=counted.rejected or 0,
            duration=timedelta(seconds=time.monotonic() - self._began),
            completed_at=datetime.now(UTC),
        )
        self._publisher.publish_sync_completed(INTEGRATION, BUSINESS, completed)
        self._types[EventType.SYNC_COMPLETED] += 1

    def _wait(self, what: str, count: Callable[[], int]) -> None:
        """Watch until so many events as were published are counted, or their number no longer grows."""
        wanted, before, moved_at = self._types.total(), -1, time.monotonic()
        while (now_there := count()) < wanted:
            now = time.monotonic()
            if now_there > before:
                before, moved_at = now_there, now
            if now - moved_at > _PATIENCE:
                return
            self._screen.progress(f"{self._progress()}   waiting for {what}: {now_there} of {wanted}")
            self._watch.look_until(now + _STEP)
        self._watch.look_until(0)

    def _progress(self) -> str:
        published = type_row("", self._types).orders or 0
        elapsed = time.monotonic() - self._began
        seen = "   ".join(f"{source} {len(view.ids)}" for source, view in self._watch.views.items())
        pace = published / elapsed if elapsed else 0.0
        return f"{published} of {len(self._plan.orders)} orders   {pace:.1f} a second   {elapsed:.0f} s   {seen}"

    def _summarise(self, running: Row) -> bool:
        statistics = self._publisher.statistics()
        views = {
            f"{source} reader" if source == "sse" else f"{source} subscriber": view
            for source, view in self._watch.views.items()
        }
        rows = [
            type_row("published", self._types),
            Row("acknowledged", events=statistics.acked - statistics.rejected),
            *(view.row(name) for name, view in views.items()),
            running,
            status_row("sync status, last sync", self._watch.status().get("last_sync")),
        ]
        self._screen.line()
        for line in table(rows):
            self._screen.line(line)
        found = differences(rows, views)
        self._screen.line()
        for difference in found:
            self._screen.line(f"DIFFERENT  {difference}")
        if not found:
            self._screen.heading("all agree")
        return not found
