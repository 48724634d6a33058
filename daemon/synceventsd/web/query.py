"""Reading paths and queries, strictly: what is malformed is refused and named, never ignored or guessed.

A value counts as given only where it says something: an empty list (`event_types=`) or an empty `last_event_id=` is
absent, as the browser page sends what its form holds. An empty number is malformed: `business_id=` taken for absent
would turn one business's stream into everybody's. Unknown parameters are ignored; a known one may be given once, but
`last_event_id` is never a fault: what cannot be an id of ours is answered with a gap.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl

from attrs import frozen

from synceventsd.core.filters import Filter

U32_MAX: Final = 2**32 - 1

DEFAULT_REPLAY: Final = 2000  # of a business; the contract's number

# More than any log holds; a larger number means "everything" as well.
MAX_REPLAY: Final = 10_000_000

# Fields of a query; a head of 16 KiB has room for thousands, and nobody means them.
MAX_FIELDS: Final = 100

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_KNOWN: Final = ("business_id", "integration_id", "event_types", "order_ids", "replay", "last_event_id")


class MalformedError(Exception):
    """The request cannot be understood; the message names the parameter and what is allowed."""


@frozen
class StreamQuery:
    """What a reader asks for.

    Attributes:
        filter: which events.
        last_event_id: where it was; None on a first visit.
        replay: how many recent events it wants first, on a first visit.
    """

    filter: Filter
    last_event_id: str | None
    replay: int


def stream_query(raw: bytes, path_business: str | None, header_id: str | None) -> StreamQuery:
    """Read what a stream's request asks for.

    Args:
        raw: the query, as it came.
        path_business: the business in the path, or None on the path without one.
        header_id: the header `Last-Event-ID`; it goes before the query's `last_event_id`.

    Raises:
        MalformedError: naming what is wrong.
    """
    given = _parameters(raw)
    business = _business(given, path_business)
    filter_ = Filter(
        business_id=business,
        integration_id=_optional(given, "integration_id", 0, U32_MAX),
        event_types=_names(given.get("event_types", "")),
        order_ids=_names(given.get("order_ids", "")),
    )
    replay = _optional(given, "replay", 0, None)
    if replay is None:
        replay = 0 if business is None else DEFAULT_REPLAY
    # Whatever stands there is an id, of ours or not, and never a fault; the header goes first.
    last_event_id = header_id or given.get("last_event_id") or None
    return StreamQuery(filter_, last_event_id, min(replay, MAX_REPLAY))


def status_query(raw: bytes, path_integration: str) -> tuple[int, int | None]:
    """Return the integration and the business (None: whichever) that a sync status is asked for.

    Raises:
        MalformedError: naming what is wrong.
    """
    given = _parameters(raw)
    return number("integration_id", path_integration, 0, U32_MAX), _optional(given, "business_id", 1, U32_MAX)


def number(name: str, text: str, low: int, high: int | None) -> int:
    """Return a decimal number without sign or leading zeros, in the digits 0 to 9.

    Raises:
        MalformedError: it is another text, or out of range.
    """
    value = int(text) if _NUMBER.fullmatch(text) else -1
    if value < low or (high is not None and value > high):
        allowed = f"a number from {low}" if high is None else f"a number from {low} to {high}"
        raise MalformedError(f"{name} must be {allowed}, not {text[:40]!r}")
    return value


def _parameters(raw: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="replace", max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise MalformedError(f"the query is not URL-encoded, or has more than {MAX_FIELDS} fields") from error
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in _KNOWN:
            continue
        if name == "last_event_id":
            given.setdefault(name, value)
            continue
        if "\ufffd" in value:  # what was no UTF-8 has become this; no name or number of ours has it
            raise MalformedError(f"{name} is not URL-encoded UTF-8")
        if name in given:
            raise MalformedError(f"{name} is given more than once; lists are comma-separated")
        given[name] = value
    return given


def _business(given: dict[str, str], path_business: str | None) -> int | None:
    in_query = _optional(given, "business_id", 1, U32_MAX)
    if path_business is None:
        return in_query
    in_path = number("business_id", path_business, 1, U32_MAX)
    if in_query is not None and in_query != in_path:
        raise MalformedError(f"business_id in the query ({in_query}) is not the one in the path ({in_path})")
    return in_path


def _optional(given: dict[str, str], name: str, low: int, high: int | None) -> int | None:
    return None if name not in given else number(name, given[name], low, high)


def _names(text: str) -> frozenset[str] | None:
    if not text:
        return None
    return frozenset(name for part in text.split(",") if (name := part.strip()))
