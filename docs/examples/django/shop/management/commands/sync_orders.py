"""`manage.py sync_orders INTEGRATION BUSINESS`: a synchronisation, told from its start to its end."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from decimal import Decimal

from django.core.management.base import BaseCommand

import syncevents
from shop.models import Order


class Command(BaseCommand):
    """Fetch orders and save them; `shop.signals` tells of each."""

    help = "Synchronise the orders of an integration."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Two ids."""
        parser.add_argument("integration", type=int)
        parser.add_argument("business", type=int)

    def handle(self, *, integration: int, business: int, **_: object) -> None:
        """Do it, and say how it ended, also when it failed."""
        began = datetime.now(UTC)
        started = syncevents.SyncStarted(integration_id=integration, integration_type="shopify", started_at=began)
        syncevents.publish_sync_started(integration, business, started)
        try:
            count = self._synchronise(integration, business)
        except Exception as error:
            failed = syncevents.SyncFailed(
                integration_id=integration, integration_type="shopify", error=str(error), failed_at=datetime.now(UTC)
            )
            syncevents.publish_sync_failed(integration, business, failed)
            raise
        completed = syncevents.SyncCompleted(
            integration_id=integration,
            integration_type="shopify",
            total_orders=count,
            created_orders=count,
            updated_orders=0,
            rejected_orders=0,
            duration=datetime.now(UTC) - began,
            completed_at=datetime.now(UTC),
        )
        syncevents.publish_sync_completed(integration, business, completed)

    def _synchronise(self, integration: int, business: int) -> int:
        """Stands for what the shop's API returns."""
        for number in (1, 2):
            Order.objects.create(
                integration_id=integration,
                business_id=business,
                external_id=str(number),
                number=f"#{number}",
                status="paid",
                total=Decimal("12.50"),
            )
        return 2
