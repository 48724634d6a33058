"""The JSON envelope of an event, as the Redis subscribers and the browser code know it.

Rule of this file: values that `events` has checked become one line of compact UTF-8 JSON, keys in the order of the
contract, optional ones absent when unset. Written by hand because the json module cannot write a Decimal digit by
digit, and takes twice as long.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from json.encoder import encode_basestring as quote
from typing import Any

from syncevents.checks import nanoseconds
from syncevents.events import (
    EventType,
    SyncCompleted,
    SyncEvent,
    SyncFailed,
    SyncOrderCreated,
    SyncOrderRejected,
    SyncOrderUpdated,
    SyncParams,
    SyncStarted,
)


def encode_event(
    event_id: str, timestamp: float, integration_id: int, business_id: int | None, data: SyncEvent
) -> bytes:
    """Return the envelope as one line without its newline. `timestamp` is in seconds since 1970."""
    body, metadata = _WRITERS[data.event_type](data)
    business = "" if business_id is None else f'"business_id":{business_id:d},'
    second = int(timestamp // 1)
    at = f"{_second(second)}.{int((timestamp - second) * 1e6):06d}+00:00"
    return (
        f'{{"id":"{event_id}","event_type":"{data.event_type}","integration_id":{integration_id:d},{business}'
        f'"timestamp":"{at}","data":{{{body}}},"metadata":{{{metadata}}}}}'
    ).encode()


class EventIds:
    """Random UUIDs (version 4), a fifth of the time of uuid.uuid4: the system is asked for many at once.

    For one thread of one process: a forked child with the same stock would give the same ids.
    """

    def __init__(self) -> None:
        self._stock = ""
        self._used = 0

    def new(self) -> str:
        """Return an id that nobody has had."""
        at = self._used
        if at == len(self._stock):
            self._stock, at = os.urandom(16 * 64).hex(), 0
        self._used = at + 32
        digits = self._stock[at : at + 32]
        variant = "89ab"[int(digits[16], 16) & 3]
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


@lru_cache(maxsize=8)
def _second(second: int) -> str:
    """Write a second since 1970 without its zone; events come many to a second."""
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


def format_time(value: datetime) -> str:
    """Write a time as RFC 3339, in its own zone unless that one's offset has seconds."""
    text = value.isoformat()
    return text if text[-6] in "+-" else value.astimezone(UTC).isoformat()


def format_amount(value: Decimal | float) -> str:
    """Write a JSON number with the digits that `value` has."""
    if isinstance(value, Decimal):
        return str(value)
    # The repr of the plain types: subclasses such as enums and numpy's have their own.
    return float.__repr__(value) if isinstance(value, float) else int.__repr__(value)


def _started(event: SyncStarted) -> tuple[str, str]:
    kind = f'"integration_type":{quote(event.integration_type)}'
    body = (
        f'"integration_id":{event.integration_id:d},{kind},"params":{{{_params(event.params)}}},'
        f'"started_at":"{format_time(event.started_at)}"'
    )
    return body, kind


def _params(params: SyncParams) -> str:
    times = {"created_at_min": params.created_at_min, "created_at_max": params.created_at_max}
    texts = {
        "status": params.status,
        "financial_status": params.financial_status,
        "fulfillment_status": params.fulfillment_status,
    }
    parts = [f'"{key}":"{format_time(time)}"' for key, time in times.items() if time is not None]
    parts += [f'"{key}":{quote(text)}' for key, text in texts.items() if text is not None]
    return ",".join(parts)


def _order_created(event: SyncOrderCreated) -> tuple[str, str]:
    return _order(event, f'"synced_at":"{format_time(event.synced_at)}"')


def _order_updated(event: SyncOrderUpdated) -> tuple[str, str]:
    return _order(event, f'"updated_at":"{format_time(event.updated_at)}"')


def _order(event: SyncOrderCreated | SyncOrderUpdated, last: str) -> tuple[str, str]:
    names = (
        f'"order_id":{quote(event.order_id)},"order_number":{quote(event.order_number)},'
        f'"external_id":{quote(event.external_id)},"platform":{quote(event.platform)}'
    )
    state = f'"status":{quote(event.status)},"created_at":"{format_time(event.created_at)}"'
    email = "" if event.customer_email is None else f',"customer_email":{quote(event.customer_email)}'
    amount = "" if event.total_amount is None else f',"total_amount":{format_amount(event.total_amount)}'
    currency = "" if event.currency is None else f',"currency":{quote(event.currency)}'
    return f"{names}{email}{amount}{currency},{state},{last}", f"{names},{state}"


def _order_rejected(event: SyncOrderRejected) -> tuple[str, str]:
    order_id = "" if event.order_id is None else f'"order_id":{quote(event.order_id)},'
    error = "" if event.error is None else f',"error":{quote(event.error)}'
    both = (
        f'{order_id}"order_number":{quote(event.order_number)},"external_id":{quote(event.external_id)},'
        f'"platform":{quote(event.platform)},"reason":{quote(event.reason)}{error}'
    )
    return f'{both},"rejected_at":"{format_time(event.rejected_at)}"', both


def _completed(event: SyncCompleted) -> tuple[str, str]:
    both = (
        f'"integration_type":{quote(event.integration_type)},"total_orders":{event.total_orders:d},'
        f'"created_orders":{event.created_orders:d},"updated_orders":{event.updated_orders:d},'
        f'"rejected_orders":{event.rejected_orders:d}'
    )
    body = (
        f'"integration_id":{event.integration_id:d},{both},"duration":{nanoseconds(event.duration)},'
        f'"completed_at":"{format_time(event.completed_at)}"'
    )
    return body, both


def _failed(event: SyncFailed) -> tuple[str, str]:
    both = f'"integration_type":{quote(event.integration_type)},"error":{quote(event.error)}'
    return f'"integration_id":{event.integration_id:d},{both},"failed_at":"{format_time(event.failed_at)}"', both


_WRITERS: dict[str, Callable[[Any], tuple[str, str]]] = {
    EventType.SYNC_STARTED: _started,
    EventType.SYNC_ORDER_CREATED: _order_created,
    EventType.SYNC_ORDER_UPDATED: _order_updated,
    EventType.SYNC_ORDER_REJECTED: _order_rejected,
    EventType.SYNC_COMPLETED: _completed,
    EventType.SYNC_FAILED: _failed,
}
