"""The publisher of the module-level functions: one for the process, made when it is first needed.

Rule of this file: a notification must not break a synchronisation, so a full queue drops (and counts, and warns once).
Wrong arguments still raise.
"""

import threading

from syncevents.backlog import Statistics
from syncevents.events import (
    SyncCompleted,
    SyncFailed,
    SyncOrderCreated,
    SyncOrderRejected,
    SyncOrderUpdated,
    SyncStarted,
)
from syncevents.publisher import DEFAULT_TIMEOUT, Publisher

_lock = threading.RLock()
_publisher: Publisher | None = None


def _default() -> Publisher:
    global _publisher
    if _publisher is None:
        with _lock:
            if _publisher is None:
                _publisher = Publisher(overflow="drop")
    return _publisher


def publish_sync_started(integration_id: int, business_id: int | None, data: SyncStarted) -> None:
    """Publish that a synchronisation began; see `Publisher`."""
    _default().publish_sync_started(integration_id, business_id, data)


def publish_sync_order_created(integration_id: int, business_id: int | None, data: SyncOrderCreated) -> None:
    """Publish that an order was created; see `Publisher`."""
    _default().publish_sync_order_created(integration_id, business_id, data)


def publish_sync_order_updated(integration_id: int, business_id: int | None, data: SyncOrderUpdated) -> None:
    """Publish that an order was updated; see `Publisher`."""
    _default().publish_sync_order_updated(integration_id, business_id, data)


def publish_sync_order_rejected(integration_id: int, business_id: int | None, data: SyncOrderRejected) -> None:
    """Publish that an order was not taken over; see `Publisher`."""
    _default().publish_sync_order_rejected(integration_id, business_id, data)


def publish_sync_completed(integration_id: int, business_id: int | None, data: SyncCompleted) -> None:
    """Publish that a synchronisation ended well; see `Publisher`."""
    _default().publish_sync_completed(integration_id, business_id, data)


def publish_sync_failed(integration_id: int, business_id: int | None, data: SyncFailed) -> None:
    """Publish that a synchronisation was given up; see `Publisher`."""
    _default().publish_sync_failed(integration_id, business_id, data)


def flush(timeout: float | None = DEFAULT_TIMEOUT) -> None:
    """Wait until all that the module-level functions published is acknowledged; see `Publisher.flush`."""
    _default().flush(timeout)


def statistics() -> Statistics:
    """Return the counters of the module-level functions' publisher."""
    return _default().statistics()
