"""Publish order-sync events to synceventsd, and read them.

    import syncevents

    syncevents.publish_sync_order_created(13, 42, syncevents.SyncOrderCreated(order_id="...", ...))

The functions of this module publish from anywhere, without set-up, and never wait. `Publisher` gives a program its own
queue, connection and acknowledgements; `open_publisher` does so for trio and asyncio. Arguments: the integration's id,
the business's id or None, and the data. Wrong ones raise TypeError or ValueError at the call.

`watch` (trio) and `iter_events` (synchronous) read what the daemon has stored; they reconnect and resume by themselves.
"""

from syncevents._version import __version__
from syncevents.aio import AsyncPublisher, open_publisher
from syncevents.backlog import Statistics
from syncevents.default import (
    flush,
    publish_sync_completed,
    publish_sync_failed,
    publish_sync_order_created,
    publish_sync_order_rejected,
    publish_sync_order_updated,
    publish_sync_started,
    statistics,
)
from syncevents.errors import NotUnderstood, QueueFull, Refused, Rejected, SyncEventsError
from syncevents.events import (
    EVENT_TYPES,
    EventType,
    SyncCompleted,
    SyncFailed,
    SyncOrderCreated,
    SyncOrderRejected,
    SyncOrderUpdated,
    SyncParams,
    SyncStarted,
)
from syncevents.publisher import Publisher
from syncevents.reading import iter_events, watch
from syncevents.reading.values import Gap, Received
from syncevents.wire import Reject

__all__ = [
    "EVENT_TYPES",
    "AsyncPublisher",
    "EventType",
    "Gap",
    "NotUnderstood",
    "Publisher",
    "QueueFull",
    "Received",
    "Refused",
    "Reject",
    "Rejected",
    "Statistics",
    "SyncCompleted",
    "SyncEventsError",
    "SyncFailed",
    "SyncOrderCreated",
    "SyncOrderRejected",
    "SyncOrderUpdated",
    "SyncParams",
    "SyncStarted",
    "__version__",
    "flush",
    "iter_events",
    "open_publisher",
    "publish_sync_completed",
    "publish_sync_failed",
    "publish_sync_order_created",
    "publish_sync_order_rejected",
    "publish_sync_order_updated",
    "publish_sync_started",
    "statistics",
    "watch",
]
