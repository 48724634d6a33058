"""The module-level functions: the methods of one publisher, whose thread and connection begin with the first event.

Rule of this file: a notification must not break a synchronisation, so a full queue drops (and counts, and warns once).
Wrong arguments still raise.
"""

from syncevents.publisher import Publisher

# Made at import and not at the first call, which would need a lock that a fork can find locked.
_publisher = Publisher(overflow="drop")

publish_sync_started = _publisher.publish_sync_started
publish_sync_order_created = _publisher.publish_sync_order_created
publish_sync_order_updated = _publisher.publish_sync_order_updated
publish_sync_order_rejected = _publisher.publish_sync_order_rejected
publish_sync_completed = _publisher.publish_sync_completed
publish_sync_failed = _publisher.publish_sync_failed
flush = _publisher.flush
statistics = _publisher.statistics
