"""The envelope: what the daemon must know of an event, read strictly, and never changed.

Rule of this file: a line that comes in leaves as it came, byte for byte; the only thing ever added is an `id` or a
`timestamp` that the client left out. `data` and `metadata` stay raw JSON text.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable
from datetime import datetime
from itertools import accumulate
from typing import Annotated, Final

import msgspec
from attrs import frozen
from msgspec import UNSET, Meta, Raw, UnsetType

from syncevents.events import EVENT_TYPES

U32_MAX: Final = 2**32 - 1

# Readers decode what we pass on with recursive parsers of their own; a Python one stops near 1000 levels, and so would
# ours when it reads the log at another stack depth than it accepted the line at. An order has five.
MAX_DEPTH: Final = 256

# A rejected line's id goes back to the client; a longer one would make a reject as large as a frame.
MAX_ECHOED_ID: Final = 256

KNOWN_TYPES: Final = frozenset(EVENT_TYPES)


# The one code that says nothing of the line: the log has no room for it.
BUFFER_FULL: Final = "buffer_full"


# Of msgspec's own kind, not attrs': made faster and unknown to the garbage collector, which is 0.9 us an event of 9.
class Envelope(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An event's header, decoded; `data` and `metadata` are the client's own bytes."""

    event_type: str
    integration_id: Annotated[int, Meta(ge=0, le=U32_MAX)]
    data: Raw
    id: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    business_id: Annotated[int, Meta(ge=1, le=U32_MAX)] | None = None
    timestamp: str | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET


@frozen
class Fault:
    """Why a line is not stored: the contract's code, a sentence, and the event's id where it could be read."""

    code: str
    error: str
    event_id: str | None = None


@frozen
class Stamp:
    """What is added to an event whose client left it out."""

    event_id: str
    timestamp: str


_decode = msgspec.json.Decoder(Envelope).decode
_encode = msgspec.json.encode
_KEYS: Final = frozenset(("id", "event_type", "integration_id", "business_id", "timestamp", "data", "metadata"))
# Upper-case T and Z, no leap second: the Go reader's time.Parse(time.RFC3339) takes no others and drops the event.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
# The header as nearly every client writes it, up to `data`: each key once, in this order, no white space, no escapes.
_CANONICAL = re.compile(
    rb'\{"id":"[^"\\]++","event_type":"[^"\\]++","integration_id":\d++,(?:"business_id":\d++,)?+'
    rb'"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9}+)?+(?:Z|[+-]\d\d:\d\d)","data":(?=\{)'
)
_BEFORE_METADATA: Final = len(b',"metadata":')
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
# The shortest lines that can be too deep: a level costs two bytes as an array, five as an object ({"":}).
_ARRAYS_DEEP: Final = 2 * MAX_DEPTH
_OBJECTS_DEEP: Final = 5 * MAX_DEPTH
_NOT_BRACKETS = bytes(c for c in range(256) if c not in b"{}[]")
_STEPS = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")  # one deeper, one less deep


def decode_stored(line: bytes) -> Envelope:
    """Decode a line that was accepted before."""
    return _decode(line)


def read_event(line: bytes, types: frozenset[str], stamp: Callable[[], Stamp]) -> tuple[bytes, Envelope] | Fault:
    """Check one line from a client.

    Args:
        line: the line without its end.
        types: the event types that are taken.
        stamp: called only where `id` or `timestamp` is missing.

    Returns:
        The line to store and its envelope, or the fault.
    """
    try:
        head = _decode(line)
    except (ValueError, RecursionError) as error:
        return _explain(line, error)
    # The way of nearly all lines; what it does not vouch for is looked at closely below.
    plain = not _may_be_deep(line) and (line.isascii() or _utf8_fault(line) is None)
    if plain and head.event_type in types and _is_canonical(line, head):
        return line, head
    fault = _fault_of(line, head, types)
    if fault is not None:
        return fault
    if head.id is UNSET or head.timestamp is UNSET:
        line = _with_stamp(line, head, stamp())
        head = _decode(line)
    return line, head


def _is_canonical(line: bytes, head: Envelope) -> bool:
    """Return whether header and `metadata` stand as in `_CANONICAL`, with a valid time, and nothing else beside them.

    There is no room for a second or a foreign key then. This spares nearly every line the search for duplicate keys,
    which costs more than all the rest (7 us), and all checks of the header's form (2 us, against 1 us for this).
    """
    match = _CANONICAL.match(line)
    if match is None:
        return False
    end = match.end() + len(memoryview(head.data))
    if head.metadata is not UNSET:
        end += _BEFORE_METADATA
        if line[end] != 0x7B:  # {
            return False
        end += len(memoryview(head.metadata))
    return end + 1 == len(line) and _is_datetime(head.timestamp)


def _fault_of(line: bytes, head: Envelope, types: frozenset[str]) -> Fault | None:
    # msgspec steps over `data` and `metadata` without looking at their UTF-8.
    fault = _utf8_fault(line)
    if fault is not None:
        return fault
    if _may_be_deep(line) and _too_deep(line):
        return Fault("invalid_json", f"the line nests deeper than {MAX_DEPTH} levels")
    event_id = echo(head.id)
    if bytes(memoryview(head.data)[:1]) != b"{":
        return Fault("invalid_event", "data must be an object", event_id)
    if head.metadata is not UNSET and bytes(memoryview(head.metadata)[:1]) != b"{":
        return Fault("invalid_event", "metadata must be an object, or be left out", event_id)
    if head.timestamp is not UNSET and not _is_rfc3339(head.timestamp):
        shown = head.timestamp[:64]
        return Fault("invalid_event", f"timestamp is not RFC 3339 with an offset: {shown!r}", event_id)
    fault = _key_fault(line, event_id)
    if fault is None and head.event_type not in types:
        return Fault("unknown_event_type", f"event_type {head.event_type[:64]!r} is not known here", event_id)
    return fault


def _utf8_fault(line: bytes) -> Fault | None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return Fault("invalid_json", f"the line is not UTF-8: byte {error.start} is 0x{line[error.start]:02x}")
    return None


def _may_be_deep(line: bytes) -> bool:
    """Return an upper bound, for next to nothing; the real count is only for long lines with many brackets."""
    if len(line) < _ARRAYS_DEEP or (len(line) < _OBJECTS_DEEP and 0x5B not in line):  # 0x5B: [
        return False
    return line.count(b"{") + line.count(b"[") > MAX_DEPTH


def _key_fault(line: bytes, event_id: str | None) -> Fault | None:
    keys = [key for key, _ in _pairs(line)]
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return Fault("invalid_event", f"the key {key[:64]!r} stands twice at the top level", event_id)
        seen.add(key)
        # Go's decoder takes "Event_Type" for "event_type", folding like this; a Python reader does not.
        folded = key.casefold()
        if folded in _KEYS and key not in _KEYS:
            return Fault("invalid_event", f"the key {key[:64]!r} differs from {folded!r} only in case", event_id)
    return None


def _pairs(line: bytes) -> list[tuple[str, object]]:
    # Numbers are not built: Python refuses integers of more than 4300 digits, JSON does not.
    found: object = json.loads(line, object_pairs_hook=list, parse_int=str, parse_float=str)
    return found if isinstance(found, list) else []


def _is_rfc3339(text: str) -> bool:
    return _RFC3339.fullmatch(text) is not None and _is_datetime(text)


def _is_datetime(text: str | UnsetType) -> bool:
    """Return whether a text of that form names a time that there is: no 30th of February, no 25th hour."""
    if text is UNSET:
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _too_deep(line: bytes) -> bool:
    # In one pass over the brackets: to take away the innermost pairs again and again cost 0.2 s for one line at worst.
    steps = array("b", _STRING.sub(b"", line).translate(_STEPS, _NOT_BRACKETS))
    return max(accumulate(steps), default=0) > MAX_DEPTH


def _with_stamp(line: bytes, head: Envelope, stamp: Stamp) -> bytes:
    added = b""
    if head.id is UNSET:
        added += b'"id":' + _encode(stamp.event_id) + b","
    if head.timestamp is UNSET:
        added += b'"timestamp":' + _encode(stamp.timestamp) + b","
    start = line.index(b"{") + 1
    return line[:start] + added + line[start:]


def echo(event_id: str | UnsetType) -> str | None:
    """Return an event's id as it goes back to the client: one that is too long does not."""
    return event_id if event_id is not UNSET and len(event_id) <= MAX_ECHOED_ID else None


def _explain(line: bytes, error: Exception) -> Fault:
    if isinstance(error, RecursionError):
        return Fault("invalid_json", f"the line nests deeper than {MAX_DEPTH} levels")
    if isinstance(error, msgspec.ValidationError):
        # The line may still be broken further on: the decoder stops at the first fault it meets.
        event_id = None
        try:
            found = msgspec.json.decode(line)
        except (ValueError, RecursionError) as worse:
            return Fault("invalid_json", f"not JSON: {_sentence(worse)}")
        if isinstance(found, dict) and isinstance(found.get("id"), str):
            event_id = echo(found["id"])
        return Fault("invalid_event", _sentence(error), event_id)
    return Fault("invalid_json", f"not JSON: {_sentence(error)}")


def _sentence(error: Exception) -> str:
    return str(error)[:300]
