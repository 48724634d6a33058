"""How the log's tools write numbers, times and foreign text for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")


def at(seconds: float | None) -> str:
    """Return a time since 1970 as UTC to the millisecond; "-" for none."""
    if seconds is None:
        return "-"
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (TypeError, ValueError, OverflowError, OSError):  # a row may hold any number
        return "?"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def bytes_of(size: int) -> str:
    """Return a size in bytes, and in a larger unit where that is shorter."""
    amount, unit = float(size), ""
    for larger in _UNITS:
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{size} bytes ({amount:.1f} {unit})" if unit else f"{size} bytes"


def one_word(foreign: str, longest: int = 64) -> str:
    """Return foreign text as one printable word: nothing in it can end a line or speak to a terminal."""
    word = "".join(sign if sign.isprintable() and sign != " " else f"\\u{ord(sign):04x}" for sign in foreign)
    return word if len(word) <= longest else f"{word[:longest]}..."


def events(first: int | None, last: int | None) -> str:
    """Return the name of a range of events."""
    return f"event {first}" if last is None or first == last else f"events {first} to {last}"
