"""An event for each order that is saved.

On commit and not at once: who hears of an order must find it in the database, and one that was rolled back never was.
The module-level functions neither wait nor fail because of a daemon that is down.
"""

from functools import partial

from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import receiver

import syncevents
from shop.models import Order


@receiver(post_save, sender=Order)
def publish(instance: Order, created: bool, **_: object) -> None:
    """Publish when the transaction is through."""
    transaction.on_commit(partial(_publish, instance, created))


def _publish(order: Order, created: bool) -> None:
    facts = {
        "order_id": str(order.pk),
        "order_number": order.number,
        "external_id": order.external_id,
        "platform": "shopify",
        "status": order.status,
        "total_amount": order.total,
        "created_at": order.created_at,
    }
    if created:
        data = syncevents.SyncOrderCreated(**facts, synced_at=order.updated_at)
        syncevents.publish_sync_order_created(order.integration_id, order.business_id, data)
    else:
        changed = syncevents.SyncOrderUpdated(**facts, updated_at=order.updated_at)
        syncevents.publish_sync_order_updated(order.integration_id, order.business_id, changed)
