"""The JSON Schema of the envelope, made from the client's data classes.

    python -m tests.api.envelope_schema > docs/api/envelope.schema.json

Rule of this file: what a field may be is read from the class and from the constants of its checks, never written down
twice. `Envelope` is what the daemon takes; the six events, by type, are what the client library writes.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import attrs

import syncevents
from syncevents.checks import MAX_ID, MAX_INT64
from syncevents.events import EVENT_TYPES

DATA_CLASSES: Final = (
    syncevents.SyncStarted,
    syncevents.SyncOrderCreated,
    syncevents.SyncOrderUpdated,
    syncevents.SyncOrderRejected,
    syncevents.SyncCompleted,
    syncevents.SyncFailed,
)
TIME: Final = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$",
}
BUSINESS: Final = {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_ID}
INTEGRATION: Final = {"type": "integer", "minimum": 0, "maximum": MAX_ID}
KEYS: Final = ("id", "event_type", "integration_id", "business_id", "timestamp", "data", "metadata")


def schema() -> dict[str, Any]:
    """Return the whole schema."""
    definitions: dict[str, Any] = {"Envelope": _envelope()}
    for data_class in DATA_CLASSES:
        definitions[data_class.event_type] = _event(data_class)
        definitions[data_class.__name__] = _object(data_class)
    definitions["SyncParams"] = _object(syncevents.SyncParams)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An event of an order synchronisation",
        "description": (
            "One message of the Redis channel and one line of the publishers' socket, as the client library writes it. "
            "The daemon checks #/$defs/Envelope only, and adds id and timestamp where they are left out; unknown keys "
            "pass through. Keys must not stand twice at the top level, which no schema can say."
        ),
        "oneOf": [{"$ref": f"#/$defs/{event_type}"} for event_type in EVENT_TYPES],
        "$defs": definitions,
    }


def _envelope() -> dict[str, Any]:
    """Return what the daemon checks, for the six types."""
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string", "minLength": 1},
            "event_type": {"enum": list(EVENT_TYPES)},
            "integration_id": INTEGRATION,
            "business_id": BUSINESS,
            "timestamp": TIME,
            "data": {"type": "object"},
            "metadata": {"type": "object"},
        },
        "required": ["event_type", "integration_id", "data"],
        "propertyNames": {"anyOf": [{"enum": list(KEYS)}, {"not": {"pattern": _in_any_case(KEYS)}}]},
    }


def _event(data_class: Any) -> dict[str, Any]:
    envelope = _envelope()
    own = {"event_type": {"const": data_class.event_type}, "data": {"$ref": f"#/$defs/{data_class.__name__}"}}
    needed = ["id", "event_type", "integration_id", "timestamp", "data"]
    return envelope | {"properties": envelope["properties"] | own, "required": needed}


def _object(data_class: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(data_class)
    fields = attrs.fields(data_class)
    return {
        "type": "object",
        "description": " ".join((data_class.__doc__ or "").split()),
        "properties": {field.name: _value(field.name, hints[field.name]) for field in fields},
        # `params` has a default in the class, but is always written.
        "required": [field.name for field in fields if field.default is not None],
    }


def _value(name: str, hint: Any) -> dict[str, Any]:
    kinds = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
    kinds.discard(type(None))  # an optional key is left out, never null
    if kinds == {datetime}:
        return TIME
    if kinds == {str}:
        return {"type": "string"}
    if kinds == {Decimal, float}:
        return {"type": "number", "description": "keeps its decimal digits"}
    if kinds == {timedelta}:
        return {"type": "integer", "minimum": 0, "maximum": MAX_INT64, "description": "nanoseconds"}
    if kinds == {int}:
        return INTEGRATION if name == "integration_id" else {"type": "integer", "minimum": 0, "maximum": MAX_INT64}
    if kinds == {syncevents.SyncParams}:
        return {"$ref": "#/$defs/SyncParams"}
    raise TypeError(f"{name}: no schema for {hint}")


def _in_any_case(names: tuple[str, ...]) -> str:
    """Return a pattern for these names in any case, as Go folds it (the long s is an s there)."""
    folded = {"s": "[sSſ]", "_": "_"}
    spelt = ("".join(folded.get(sign, f"[{sign}{sign.upper()}]") for sign in name) for name in names)
    return f"^({'|'.join(spelt)})$"


def text() -> str:
    """Return the file's text."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
