"""The event that all benchmarks send: an order.created envelope as the client library writes it, some 600 bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

MARK: Final = b'"event_type"'  # once in every event, and nowhere else: what listeners count
EVENT_TYPE: Final = "integration.sync.order.created"


def line(number: int, business: int = 42, integration: int = 13) -> bytes:
    """Return event `number`, without a newline; events of numbers below 10^9 are equally long."""
    at = "2026-11-24T02:30:15.123456+00:00"
    order = {
        "order_id": f"6f1c8f0e-{number:012d}",
        "order_number": f"#{number:09d}",
        "external_id": f"55510{number:09d}",
        "platform": "shopify",
        "status": "paid",
        "created_at": at,
    }
    envelope = {
        "id": f"0b6e5a3c-7d1f-4c7e-9a53-{number:012d}",
        "event_type": EVENT_TYPE,
        "integration_id": integration,
        "business_id": business,
        "timestamp": at,
        "data": order | {"total_amount": 12.5, "currency": "EUR", "synced_at": at},
        "metadata": order,
    }
    return json.dumps(envelope, separators=(",", ":")).encode()


def blocks(count: int, first: int = 1, size: int = 1 << 18, businesses: Sequence[int] = (42,)) -> list[bytes]:
    """Return `count` lines, joined into blocks of about `size` bytes, so that sending them costs the sender nothing."""
    templates = [_template(business) for business in businesses]
    per_block = max(1, size // len(line(0)))
    numbers = range(first, first + count)
    return [
        b"".join([templates[number % len(templates)] % {b"n": number} for number in numbers[start : start + per_block]])
        for start in range(0, count, per_block)
    ]


def _template(business: int) -> bytes:
    sample = line(0, business).replace(b"000000000000", b"%(n)012d").replace(b"#000000000", b"#%(n)09d")
    return sample.replace(b"55510000000000", b"55510%(n)09d") + b"\n"
