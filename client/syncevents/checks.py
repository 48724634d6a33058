"""What a field of an event may hold; everything else is a TypeError or ValueError that names the field.

Rule of this file: whatever passes here can be encoded, because encoding happens later, in the sender's thread.
The functions are on the path of every publish call: the common case comes first, and faults are sorted out last.
"""

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

MAX_ID: Final = 2**32 - 1
"""The largest `integration_id` and `business_id`."""

MAX_INT64: Final = 2**63 - 1
"""The largest count and duration: readers keep them in 64 bits."""

_MAX_AMOUNT_EXPONENT: Final = 307  # readers keep amounts in doubles
_MINUTE: Final = timedelta(minutes=1)


def check_texts(event: object, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
    """Check that all `values`, the fields `names` of `event`, are strings that UTF-8 can hold."""
    # One join and one test for all of them: a quarter of the time of a loop.
    try:
        joined = "".join(values)
    except TypeError:
        joined = None
    if joined is None or not joined.isascii():
        for name, value in zip(names, values, strict=True):
            _check_text(_label(event, name), value)


def check_optional_text(event: object, name: str, value: Any) -> None:
    """Check one field that is a string or None."""
    if value is not None and not (type(value) is str and value.isascii()):
        _check_text(_label(event, name), value)


def check_time(event: object, name: str, value: Any) -> None:
    """Check one field that is a datetime with a zone."""
    if not isinstance(value, datetime):
        raise TypeError(f"{_label(event, name)} must be a datetime, not {_kind(value)}")
    if value.tzinfo is not UTC:
        _check_zone(_label(event, name), value)


def check_count(event: object, name: str, value: Any) -> None:
    """Check one field that is an integer of at least 0."""
    if type(value) is not int or not 0 <= value <= MAX_INT64:
        check_range(_label(event, name), value, 0, MAX_INT64)


def check_amount(event: object, name: str, value: Any) -> None:
    """Check one field that is a finite Decimal, float or int."""
    label = _label(event, name)
    if isinstance(value, bool) or not isinstance(value, Decimal | float | int):
        raise TypeError(f"{label} must be a Decimal, a float, an int or None, not {_kind(value)}")
    if isinstance(value, Decimal):
        fits = value.is_finite() and (value.adjusted() <= _MAX_AMOUNT_EXPONENT or not value)
    elif isinstance(value, float):
        fits = math.isfinite(value)
    else:
        fits = abs(value) < 10**_MAX_AMOUNT_EXPONENT
    if not fits:
        raise ValueError(
            f"{label} must be finite and below 1e307, not {value if not isinstance(value, int) else 'more'}"
        )


def check_duration(event: object, name: str, value: Any) -> None:
    """Check one field that is a timedelta of at least 0."""
    label = _label(event, name)
    if not isinstance(value, timedelta):
        raise TypeError(f"{label} must be a timedelta, not {_kind(value)}")
    if not 0 <= nanoseconds(value) <= MAX_INT64:
        raise ValueError(f"{label} must be at least 0 and below 292 years, not {value}")


def check_integration_id(event: object | None, value: Any) -> None:
    """Check an `integration_id`: an integer from 0 to 2^32-1."""
    if type(value) is not int or not 0 <= value <= MAX_ID:
        check_range("integration_id" if event is None else _label(event, "integration_id"), value, 0, MAX_ID)


def check_business_id(value: Any) -> None:
    """Check a `business_id`: an integer from 1 to 2^32-1, or None for an event of no business."""
    if value is not None and (type(value) is not int or not 1 <= value <= MAX_ID):
        check_range("business_id", value, 1, MAX_ID)


def check_range(label: str, value: Any, lowest: int, highest: int) -> None:
    """Check that `value` is an integer, no bool, from `lowest` to `highest`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{label} must be an int, not {_kind(value)}")
    if not lowest <= value <= highest:
        raise ValueError(f"{label} must be from {lowest} to {highest}, not {_shorten(value)}")


def nanoseconds(value: timedelta) -> int:
    """Return a duration as Go counts it, without the rounding of total_seconds."""
    return (value.days * 86400 + value.seconds) * 1_000_000_000 + value.microseconds * 1000


def _check_text(label: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{label} must be a str, not {_kind(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{label} holds a lone surrogate at index {error.start}: not encodable in UTF-8") from None


def _check_zone(label: str, value: datetime) -> None:
    offset = value.utcoffset()
    if offset is None:
        raise ValueError(f"{label} must have a time zone, for example datetime.now(timezone.utc)")
    if offset % _MINUTE:
        # RFC 3339 has no seconds in an offset; such a time is written in UTC, where that exists.
        try:
            value.astimezone(UTC)
        except OverflowError:
            raise ValueError(f"{label} is out of range in UTC: {value}") from None


def _label(event: object, name: str) -> str:
    return f"{type(event).__name__}.{name}"


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _shorten(value: int) -> str:
    # The text of a huge integer costs quadratic time, and Python refuses it from 4300 digits on.
    return str(value) if value.bit_length() < 200 else "one with more than 60 digits"
