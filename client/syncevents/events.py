"""The six events that a synchronisation publishes, as values.

Rule of this file: an instance that exists is valid. Fields have the names of the JSON keys; the optional ones default
to None and are then absent from the JSON. Times are datetimes with a zone. Wrong types raise TypeError, wrong values
ValueError, both naming the field.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import ClassVar, Final

from attrs import Factory, frozen

from syncevents import checks


class EventType:
    """The names of the six event types."""

    SYNC_STARTED: Final = "integration.sync.started"
    SYNC_ORDER_CREATED: Final = "integration.sync.order.created"
    SYNC_ORDER_UPDATED: Final = "integration.sync.order.updated"
    SYNC_ORDER_REJECTED: Final = "integration.sync.order.rejected"
    SYNC_COMPLETED: Final = "integration.sync.completed"
    SYNC_FAILED: Final = "integration.sync.failed"


EVENT_TYPES: Final = (
    EventType.SYNC_STARTED,
    EventType.SYNC_ORDER_CREATED,
    EventType.SYNC_ORDER_UPDATED,
    EventType.SYNC_ORDER_REJECTED,
    EventType.SYNC_COMPLETED,
    EventType.SYNC_FAILED,
)
"""All six, in the order of a synchronisation."""


@frozen(kw_only=True)
class SyncParams:
    """What a synchronisation was asked for; everything is optional."""

    created_at_min: datetime | None = None
    created_at_max: datetime | None = None
    status: str | None = None
    financial_status: str | None = None
    fulfillment_status: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.created_at_min is not None:
            checks.check_time(self, "created_at_min", self.created_at_min)
        if self.created_at_max is not None:
            checks.check_time(self, "created_at_max", self.created_at_max)
        checks.check_optional_text(self, "status", self.status)
        checks.check_optional_text(self, "financial_status", self.financial_status)
        checks.check_optional_text(self, "fulfillment_status", self.fulfillment_status)


@frozen(kw_only=True)
class SyncStarted:
    """A synchronisation of an integration began. `integration_id`: 0 to 2^32-1."""

    event_type: ClassVar[str] = EventType.SYNC_STARTED
    integration_id: int
    integration_type: str
    params: SyncParams = Factory(SyncParams)
    started_at: datetime

    def __attrs_post_init__(self) -> None:
        checks.check_integration_id(self, self.integration_id)
        checks.check_texts(self, ("integration_type",), (self.integration_type,))
        if not isinstance(self.params, SyncParams):
            raise TypeError(f"SyncStarted.params must be SyncParams, not {type(self.params).__name__}")
        checks.check_time(self, "started_at", self.started_at)


@frozen(kw_only=True)
class SyncOrderCreated:
    """An order of the platform was stored as a new one.

    `total_amount` keeps its digits: Decimal("12.50") is written as 12.50.
    """

    event_type: ClassVar[str] = EventType.SYNC_ORDER_CREATED
    order_id: str
    order_number: str
    external_id: str
    platform: str
    customer_email: str | None = None
    total_amount: Decimal | float | None = None
    currency: str | None = None
    status: str
    created_at: datetime
    synced_at: datetime

    def __attrs_post_init__(self) -> None:
        _check_order(self)
        checks.check_time(self, "synced_at", self.synced_at)


@frozen(kw_only=True)
class SyncOrderUpdated:
    """A known order was brought up to date.

    `total_amount` keeps its digits: Decimal("12.50") is written as 12.50.
    """

    event_type: ClassVar[str] = EventType.SYNC_ORDER_UPDATED
    order_id: str
    order_number: str
    external_id: str
    platform: str
    customer_email: str | None = None
    total_amount: Decimal | float | None = None
    currency: str | None = None
    status: str
    created_at: datetime
    updated_at: datetime

    def __attrs_post_init__(self) -> None:
        _check_order(self)
        checks.check_time(self, "updated_at", self.updated_at)


@frozen(kw_only=True)
class SyncOrderRejected:
    """An order of the platform was not taken over; `reason` says why, `error` what went wrong."""

    event_type: ClassVar[str] = EventType.SYNC_ORDER_REJECTED
    order_id: str | None = None
    order_number: str
    external_id: str
    platform: str
    reason: str
    error: str | None = None
    rejected_at: datetime

    def __attrs_post_init__(self) -> None:
        checks.check_texts(
            self,
            ("order_number", "external_id", "platform", "reason"),
            (self.order_number, self.external_id, self.platform, self.reason),
        )
        checks.check_optional_text(self, "order_id", self.order_id)
        checks.check_optional_text(self, "error", self.error)
        checks.check_time(self, "rejected_at", self.rejected_at)


@frozen(kw_only=True)
class SyncCompleted:
    """A synchronisation ended well. Counts are at least 0; `duration` is written in nanoseconds."""

    event_type: ClassVar[str] = EventType.SYNC_COMPLETED
    integration_id: int
    integration_type: str
    total_orders: int
    created_orders: int
    updated_orders: int
    rejected_orders: int
    duration: timedelta
    completed_at: datetime

    def __attrs_post_init__(self) -> None:
        checks.check_integration_id(self, self.integration_id)
        checks.check_texts(self, ("integration_type",), (self.integration_type,))
        checks.check_count(self, "total_orders", self.total_orders)
        checks.check_count(self, "created_orders", self.created_orders)
        checks.check_count(self, "updated_orders", self.updated_orders)
        checks.check_count(self, "rejected_orders", self.rejected_orders)
        checks.check_duration(self, "duration", self.duration)
        checks.check_time(self, "completed_at", self.completed_at)


@frozen(kw_only=True)
class SyncFailed:
    """A synchronisation was given up; `error` says why."""

    event_type: ClassVar[str] = EventType.SYNC_FAILED
    integration_id: int
    integration_type: str
    error: str
    failed_at: datetime

    def __attrs_post_init__(self) -> None:
        checks.check_integration_id(self, self.integration_id)
        checks.check_texts(self, ("integration_type", "error"), (self.integration_type, self.error))
        checks.check_time(self, "failed_at", self.failed_at)


SyncEvent = SyncStarted | SyncOrderCreated | SyncOrderUpdated | SyncOrderRejected | SyncCompleted | SyncFailed

_ORDER_TEXTS = ("order_id", "order_number", "external_id", "platform", "status")


def _check_order(order: SyncOrderCreated | SyncOrderUpdated) -> None:
    checks.check_texts(
        order,
        _ORDER_TEXTS,
        (order.order_id, order.order_number, order.external_id, order.platform, order.status),
    )
    checks.check_optional_text(order, "customer_email", order.customer_email)
    checks.check_optional_text(order, "currency", order.currency)
    if order.total_amount is not None:
        checks.check_amount(order, "total_amount", order.total_amount)
    checks.check_time(order, "created_at", order.created_at)
