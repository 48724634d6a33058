"""A plain script: publishes from anywhere, and waits once, at the end, for what it wants to be sure of."""

import sys
from datetime import UTC, datetime
from decimal import Decimal

import syncevents

INTEGRATION, BUSINESS = 13, 42


def orders() -> list[dict[str, str]]:
    """Stands for what the shop's API returns."""
    return [{"id": str(number), "name": f"#{1000 + number}", "total": "12.50"} for number in range(1, 4)]


def main() -> int:
    """Synchronise; the exit status is 1 where an event was not stored."""
    began = datetime.now(UTC)
    started = syncevents.SyncStarted(integration_id=INTEGRATION, integration_type="shopify", started_at=began)
    syncevents.publish_sync_started(INTEGRATION, BUSINESS, started)
    created = 0
    for order in orders():
        created += 1
        syncevents.publish_sync_order_created(
            INTEGRATION,
            BUSINESS,
            syncevents.SyncOrderCreated(
                order_id=f"internal-{order['id']}",
                order_number=order["name"],
                external_id=order["id"],
                platform="shopify",
                status="paid",
                total_amount=Decimal(order["total"]),
                currency="EUR",
                created_at=began,
                synced_at=datetime.now(UTC),
            ),
        )
    completed = syncevents.SyncCompleted(
        integration_id=INTEGRATION,
        integration_type="shopify",
        total_orders=created,
        created_orders=created,
        updated_orders=0,
        rejected_orders=0,
        duration=datetime.now(UTC) - began,
        completed_at=datetime.now(UTC),
    )
    syncevents.publish_sync_completed(INTEGRATION, BUSINESS, completed)
    # A normal exit flushes too, for up to 5 s; this is for a script that wants to know.
    try:
        syncevents.flush(timeout=30)
    except (syncevents.Rejected, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
