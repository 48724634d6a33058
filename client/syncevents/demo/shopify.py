"""Shopify's orders, as the Admin REST API documents them, translated into the events of a synchronisation.

Rule of this file: pure functions. What an order becomes:

- rejected, when it was cancelled, has no line items, or a field is not as documented; the reason says which
- updated, when its `updated_at` is later than its `created_at`
- created, otherwise

`order_id`, our own id, is the UUID (version 5) of the order's global id, so the same order always gets the same one.
"""

import json
import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from attrs import frozen

from syncevents.events import SyncOrderCreated, SyncOrderRejected, SyncOrderUpdated

PLATFORM: Final = "shopify"

_LONGEST_TEXT: Final = 255  # characters; what Shopify itself stores of such a field
_LARGEST_ID: Final = 2**63 - 1
_AMOUNT: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,6})?", re.ASCII)

_UNPAID: Final = {"pending", "authorized", "partially_paid"}
_OVER: Final = {"refunded": "refunded", "voided": "cancelled"}
_FINANCIAL: Final = (*sorted(_UNPAID), "paid", "partially_refunded", *_OVER)
_FULFILLMENT: Final = {
    "fulfilled": "fulfilled",
    "partial": "partially_fulfilled",
    "restocked": "returned",
    "unfulfilled": None,
}

OrderEvent = SyncOrderCreated | SyncOrderUpdated | SyncOrderRejected


class OrdersError(ValueError):
    """The text as a whole holds no list of orders."""


class FieldError(ValueError):
    """One field of an order is not as documented; the text names it."""


@frozen
class Translated:
    """What became of one order; `fault` names the field that is not as documented."""

    event: OrderEvent
    fault: str | None = None


@frozen
class _Order:
    external_id: str
    number: str
    email: str | None
    total: Decimal
    currency: str
    status: str
    created_at: datetime
    updated_at: datetime
    cancelled_at: datetime | None
    cancel_reason: str | None
    has_items: bool


def read_orders(text: bytes) -> list[Any]:
    """Return the orders in `{"orders": [...]}` or `[...]`, not looked at yet; raises `OrdersError`."""
    try:
        value = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise OrdersError(f"is not JSON: {error}") from None
    orders = value.get("orders") if isinstance(value, dict) else value
    if not isinstance(orders, list):
        raise OrdersError('holds no orders: it must be {"orders": [...]} or a list of them')
    return orders


def translate(raw: object, now: datetime) -> Translated:
    """Return the event that an order is published as; `now` is when it was synchronised."""
    try:
        order = _read_order(raw)
    except FieldError as fault:
        return Translated(_rejected(raw, "malformed order", str(fault), now), str(fault))
    if order.cancelled_at is not None:
        why = f"cancelled at {order.cancelled_at.isoformat()}: {order.cancel_reason or 'no reason given'}"
        return Translated(_rejected(raw, "cancelled", why, now))
    if not order.has_items:
        return Translated(_rejected(raw, "no line items", None, now))
    return Translated(_accepted(order, now))


def order_id(external_id: str) -> str:
    """Return our own id of an order."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"gid://shopify/Order/{external_id}"))


def _accepted(order: _Order, now: datetime) -> SyncOrderCreated | SyncOrderUpdated:
    same: dict[str, Any] = {
        "order_id": order_id(order.external_id),
        "order_number": order.number,
        "external_id": order.external_id,
        "platform": PLATFORM,
        "customer_email": order.email,
        "total_amount": order.total,
        "currency": order.currency,
        "status": order.status,
        "created_at": order.created_at,
    }
    if order.updated_at > order.created_at:
        return SyncOrderUpdated(**same, updated_at=order.updated_at)
    return SyncOrderCreated(**same, synced_at=now)


def _rejected(raw: object, reason: str, error: str | None, now: datetime) -> SyncOrderRejected:
    """Say which order it was, as far as that can be read."""
    fields: Mapping[str, Any] = raw if isinstance(raw, dict) else {}
    external_id = _shown(fields.get("id"))
    return SyncOrderRejected(
        order_id=order_id(external_id) if external_id else None,
        order_number=_shown(fields.get("name")) or _shown(fields.get("order_number")),
        external_id=external_id,
        platform=PLATFORM,
        reason=reason,
        error=error,
        rejected_at=now,
    )


def _read_order(raw: object) -> _Order:
    if not isinstance(raw, dict):
        raise FieldError(f"must be an object, but is {_quoted(raw)}")
    return _Order(
        external_id=_id(raw),
        number=_number(raw),
        email=_email(raw),
        total=_amount(raw, "total_price"),
        currency=_currency(raw),
        status=_status(raw),
        created_at=_time(raw, "created_at"),
        updated_at=_time(raw, "updated_at"),
        cancelled_at=None if raw.get("cancelled_at") is None else _time(raw, "cancelled_at"),
        cancel_reason=_optional_text(raw, "cancel_reason"),
        has_items=bool(_items(raw)),
    )


def _id(raw: dict[str, Any]) -> str:
    value = raw.get("id")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LARGEST_ID:
        raise _wrong("id", value, "an integer above 0")
    return str(value)


def _number(raw: dict[str, Any]) -> str:
    name, number = _optional_text(raw, "name"), raw.get("order_number")
    if name:
        return name
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= _LARGEST_ID:
        raise _wrong("order_number", number, "an integer above 0, where there is no name")
    return f"#{number}"


def _email(raw: dict[str, Any]) -> str | None:
    customer = raw.get("customer")
    if customer is not None and not isinstance(customer, dict):
        raise _wrong("customer", customer, "an object or null")
    return _optional_text(raw, "email") or (_optional_text(customer, "email", "customer.email") if customer else None)


def _amount(raw: dict[str, Any], field: str) -> Decimal:
    value = raw.get(field)
    text = str(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _AMOUNT.fullmatch(text):
        raise _wrong(field, value, 'an amount such as "199.65"')
    return Decimal(text)


def _currency(raw: dict[str, Any]) -> str:
    value = raw.get("currency")
    if not isinstance(value, str) or not re.fullmatch("[A-Z]{3}", value):
        raise _wrong("currency", value, 'three capital letters such as "EUR"')
    return value


def _status(raw: dict[str, Any]) -> str:
    """One word for where the order stands: what came of its money, else of its parcels, else whether it is paid."""
    financial, fulfillment = raw.get("financial_status"), raw.get("fulfillment_status")
    if not isinstance(financial, str) or financial not in _FINANCIAL:
        raise _wrong("financial_status", financial, f"one of {', '.join(_FINANCIAL)}")
    if fulfillment is not None and (not isinstance(fulfillment, str) or fulfillment not in _FULFILLMENT):
        raise _wrong("fulfillment_status", fulfillment, f"null or one of {', '.join(_FULFILLMENT)}")
    shipped = None if fulfillment is None else _FULFILLMENT[fulfillment]
    return _OVER.get(financial) or shipped or ("pending" if financial in _UNPAID else "paid")


def _time(raw: dict[str, Any], field: str) -> datetime:
    value = raw.get(field)
    allowed = 'a time with its zone such as "2025-03-03T08:12:11+01:00"'
    try:
        time = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise _wrong(field, value, allowed) from None
    if time.utcoffset() is None:
        raise _wrong(field, value, allowed)
    return time


def _items(raw: dict[str, Any]) -> list[Any]:
    value = raw.get("line_items")
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _wrong("line_items", value, "a list of objects")
    return value


def _optional_text(raw: dict[str, Any], key: str, field: str | None = None) -> str | None:
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or _printable(value) != value:
        raise _wrong(field or key, value, f"null or a text of at most {_LONGEST_TEXT} printable characters")
    return value


def _wrong(field: str, value: object, allowed: str) -> FieldError:
    return FieldError(f"{field} must be {allowed}, but is {'missing' if value is None else _quoted(value)}")


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:60] if not isinstance(value, str) else repr(value[:60])


def _shown(value: object) -> str:
    """A name or number from an order that is not as documented, in a form that can be published."""
    return _printable(str(value))[:_LONGEST_TEXT] if isinstance(value, int | str) else ""


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
