"""What a reader gets: events, and gaps where some are missing.

Rule of this file: pure. What the daemon sent is structured here, once and strictly; keys that are not known are
ignored, so that an older reader understands a newer daemon. `data` and `metadata` were written by publishers: they may
hold anything that JSON can, and nothing in them stops a reader.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, DecimalException
from typing import Any, Final, TypeVar

from attrs import frozen

from syncevents.errors import NotUnderstood

NO_EVENTS: Final = frozenset(("connection_established", "keep-alive", "gap", "error"))
"""The names of a stream's messages that carry no event."""

_T = TypeVar("_T")


@frozen
class Received:
    """An event, as the daemon stored it.

    Attributes:
        id: the event's own, as its publisher chose it.
        type: for example `integration.sync.order.created`; see `syncevents.EventType`.
        integration_id: 0 to 2^32-1.
        business_id: 1 to 2^32-1; None for a global event.
        timestamp: when it was published, by the publisher's clock; it has a zone.
        data: the event's own fields; numbers with a fraction are Decimal, and keep their digits.
        metadata: empty when the publisher gave none.
        seq: the event's number in the daemon's log.
        position: for `last_event_id`, to go on right after this event.
    """

    id: str
    type: str
    integration_id: int
    business_id: int | None
    timestamp: datetime
    data: Mapping[str, Any]
    metadata: Mapping[str, Any]
    seq: int
    position: str


@frozen
class Gap:
    """Here events may be missing that were meant for this reader.

    Attributes:
        reason: `retention` (they are no longer kept), `unknown_log`, `log_set_back` (a backup was restored),
            `invalid_id` (the position is none of this daemon's) or `damaged`; more may come.
        resumes_at_seq: the stream goes on with events from this number on.
        position: for `last_event_id`, to go on right after the gap.
    """

    reason: str
    resumes_at_seq: int
    position: str


@frozen
class Note:
    """A message that tells nothing but where the reader is; `trouble` is what the daemon complains of."""

    position: str
    trouble: str = ""


def read_sse(event: str, data: str, position: str) -> Received | Gap | Note:
    """Structure a message of the event stream. Raises NotUnderstood."""
    if event == "keep-alive":
        return Note(position)
    return _read(event, parse_json(data), position)


def read_ws(text: str | bytes) -> Received | Gap | Note:
    """Structure a WebSocket message. Raises NotUnderstood."""
    message = parse_json(text)
    name, position = _get(message, "event", str), _get(message, "id", str)
    return _read(name, message if name in NO_EVENTS else _get(message, "payload", dict), position)


def parse_json(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object in a text; numbers with a fraction become Decimal. Raises NotUnderstood."""
    try:
        value = json.loads(text, parse_float=_fraction, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise NotUnderstood(f"not JSON: {error}: {text[:100]!r}") from None
    if not isinstance(value, dict):
        raise NotUnderstood(f"not an object: {text[:100]!r}")
    return value


def _read(name: str, fields: dict[str, Any], position: str) -> Received | Gap | Note:
    if name == "gap":
        return Gap(_get(fields, "reason", str), _get(fields, "resumes_at_seq", int), position)
    if name == "error":
        return Note(position, _get(fields, "message", str))
    if name in NO_EVENTS:
        return Note(position)
    business = fields.get("business_id")
    return Received(
        _get(fields, "id", str),
        _get(fields, "type", str),
        _get(fields, "integration_id", int),
        None if business is None else _get(fields, "business_id", int),
        _time(_get(fields, "timestamp", str)),
        _get(fields, "data", dict),
        _get(fields, "metadata", dict),
        _get(fields, "seq", int),
        position,
    )


def _get(fields: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
    value = fields.get(key)
    if type(value) is not kind:
        raise NotUnderstood(f"{key} must be of type {kind.__name__}, but is {value!r:.100}")
    return value


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise NotUnderstood(f"timestamp is no time: {text[:100]!r}") from None
    if moment.tzinfo is None:
        raise NotUnderstood(f"timestamp has no zone: {text[:100]!r}")
    return moment


def _fraction(text: str) -> Decimal | float:
    try:
        return Decimal(text)
    except DecimalException:  # an exponent beyond all limits; as every other reader of JSON has it
        return float(text)


def _whole(text: str) -> int | Decimal:
    try:
        return int(text)
    except ValueError:  # thousands of digits, more than Python converts
        return Decimal(text)
