"""Celery with prefork workers: each child is a publisher of its own, and flushes before it ends.

    celery -A celery_prefork worker --pool prefork

Celery's children end without Python's own exit, so the flush there is asked for: when a child is shut down, and after
each task that wants to be sure. A task that was acknowledged to the broker is not run again for a lost notification.
"""

import os
from datetime import UTC, datetime

from celery import Celery
from celery.signals import worker_process_shutdown

import syncevents

app = Celery("shop", broker=os.environ.get("BROKER_URL", "redis://127.0.0.1:6379/1"))
if folder := os.environ.get("BROKER_FOLDER"):  # a broker of plain files, for trying it out
    app.conf.broker_url = "filesystem://"
    app.conf.broker_transport_options = {"data_folder_in": folder, "data_folder_out": folder}


@app.task
def sync_order(integration_id: int, business_id: int, external_id: str) -> None:
    """Synchronise one order."""
    updated = syncevents.SyncOrderUpdated(
        order_id=f"internal-{external_id}",
        order_number=f"#{external_id}",
        external_id=external_id,
        platform="shopify",
        status="fulfilled",
        created_at=datetime.now(UTC),
        updated_at=datetime.now(UTC),
    )
    syncevents.publish_sync_order_updated(integration_id, business_id, updated)


@worker_process_shutdown.connect
def flush(**_: object) -> None:
    """Wait for what this child has published, but not for ever."""
    syncevents.flush(timeout=30)
