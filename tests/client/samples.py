"""Events for the client's tests."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import syncevents

NOW = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
BOGOTA = timezone(timedelta(hours=-5))


def started(**changes: object) -> syncevents.SyncStarted:
    fields = {
        "integration_id": 13,
        "integration_type": "shopify",
        "params": syncevents.SyncParams(created_at_min=NOW.astimezone(BOGOTA), status="any"),
        "started_at": NOW,
    }
    return syncevents.SyncStarted(**fields | changes)


def order_created(**changes: object) -> syncevents.SyncOrderCreated:
    fields = {
        "order_id": "8f14e45f",
        "order_number": "#1001",
        "external_id": "98765",
        "platform": "shopify",
        "customer_email": "josé@example.org",
        "total_amount": Decimal("12.50"),
        "currency": "COP",
        "status": "paid",
        "created_at": NOW.astimezone(BOGOTA),
        "synced_at": NOW,
    }
    return syncevents.SyncOrderCreated(**fields | changes)


def order_updated(**changes: object) -> syncevents.SyncOrderUpdated:
    fields = {
        "order_id": "8f14e45f",
        "order_number": "#1001",
        "external_id": "98765",
        "platform": "woocommerce",
        "status": "fulfilled",
        "created_at": NOW,
        "updated_at": NOW,
    }
    return syncevents.SyncOrderUpdated(**fields | changes)


def order_rejected(**changes: object) -> syncevents.SyncOrderRejected:
    fields = {
        "order_number": "#1002",
        "external_id": "98766",
        "platform": "shopify",
        "reason": 'no "SKU"\nat all',
        "error": "lookup failed",
        "rejected_at": NOW,
    }
    return syncevents.SyncOrderRejected(**fields | changes)


def completed(**changes: object) -> syncevents.SyncCompleted:
    fields = {
        "integration_id": 13,
        "integration_type": "shopify",
        "total_orders": 10,
        "created_orders": 7,
        "updated_orders": 2,
        "rejected_orders": 1,
        "duration": timedelta(seconds=2, microseconds=500001),
        "completed_at": NOW,
    }
    return syncevents.SyncCompleted(**fields | changes)


def failed(**changes: object) -> syncevents.SyncFailed:
    fields = {"integration_id": 13, "integration_type": "shopify", "error": "token expired", "failed_at": NOW}
    return syncevents.SyncFailed(**fields | changes)


ALL = {
    "started": started,
    "order_created": order_created,
    "order_updated": order_updated,
    "order_rejected": order_rejected,
    "completed": completed,
    "failed": failed,
}
