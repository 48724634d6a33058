"""Under trio: the publisher is a block; leaving it waits for the acknowledgements.

The same works under asyncio: `open_publisher` sees which loop runs.
"""

from datetime import UTC, datetime

import trio

import syncevents

INTEGRATION, BUSINESS = 13, 42


async def synchronise(publisher: syncevents.AsyncPublisher, external_id: str) -> None:
    """Stands for the work on one order."""
    await trio.sleep(0.01)
    rejected = syncevents.SyncOrderRejected(
        order_number=f"#{external_id}",
        external_id=external_id,
        platform="woocommerce",
        reason="no line items",
        rejected_at=datetime.now(UTC),
    )
    await publisher.publish_sync_order_rejected(INTEGRATION, BUSINESS, rejected)


async def main() -> None:
    """Synchronise all orders at once."""
    async with syncevents.open_publisher(client="trio-example/1.0") as publisher, trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(synchronise, publisher, str(number))


if __name__ == "__main__":
    trio.run(main)
