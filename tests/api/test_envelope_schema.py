"""The envelope's schema and the daemon agree: what one takes the other takes, as far as a schema can say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.api import envelope_schema
from tests.client.samples import ALL

from syncevents.envelope import encode_event
from syncevents.events import EVENT_TYPES
from synceventsd.core.envelope import KNOWN_TYPES, Fault, Stamp
from synceventsd.core.linecheck import read_event

API = Path(__file__).parents[2] / "docs/api"
SCHEMA = envelope_schema.schema()
STAMP = Stamp("an id", "2026-01-02T03:04:05Z")
ANY_EVENT = jsonschema_rs.Draft202012Validator(SCHEMA)
TAKEN = jsonschema_rs.Draft202012Validator({"$ref": "#/$defs/Envelope", "$defs": SCHEMA["$defs"]})


def fault(envelope: dict[str, Any]) -> str | None:
    """What the daemon says against it; None: taken."""
    found = read_event(json.dumps(envelope).encode(), KNOWN_TYPES, lambda: STAMP)
    return found.error if isinstance(found, Fault) else None


def real_time(text: object) -> bool:
    """Whether the daemon finds that there is such a time; a pattern lets the 99th of a month through."""
    return fault(sample() | {"timestamp": text}) is None


def sample(kind: str = "order_created") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode_event("an id", 1_800_000_000.0, 13, 42, ALL[kind]()))
    return found


def test_the_file_is_what_the_data_classes_say_now() -> None:
    made = "python -m tests.api.envelope_schema > docs/api/envelope.schema.json"
    assert (API / "envelope.schema.json").read_text() == envelope_schema.text(), made


@pytest.mark.parametrize("kind", ALL)
def test_what_the_client_writes_is_valid_and_each_of_its_keys_is_described(kind: str) -> None:
    envelope = sample(kind)
    ANY_EVENT.validate(envelope)
    data_class = type(ALL[kind]())
    described = SCHEMA["$defs"][data_class.__name__]
    assert set(envelope["data"]) <= set(described["properties"])
    for key in described["required"]:
        lacking = envelope | {"data": {name: value for name, value in envelope["data"].items() if name != key}}
        assert not ANY_EVENT.is_valid(lacking), key


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def valid(definition: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a definition allows, for the part of JSON Schema that ours uses; unknown keys among them."""
    match definition:
        case {"$ref": str(path)}:
            return valid(SCHEMA["$defs"][path.rpartition("/")[2]])
        case {"const": value}:
            return st.just(value)
        case {"type": "object", "properties": properties}:
            needed = {name: valid(properties[name]) for name in definition["required"]}
            others = {name: valid(one) for name, one in properties.items() if name not in needed}
            more = st.dictionaries(
                st.text().filter(lambda name: TAKEN.is_valid(sample() | {name: 0})), ANYTHING, max_size=2
            )
            return st.builds(
                lambda unknown, known: unknown | known, more, st.fixed_dictionaries(needed, optional=others)
            )
        case {"type": "object"}:
            return st.dictionaries(st.text(), ANYTHING, max_size=3)
        case {"type": "string", "pattern": pattern}:
            return st.datetimes().map(lambda at: f"{at.isoformat()}Z") | st.from_regex(pattern, fullmatch=True)
        case {"type": "string"}:
            return st.text(min_size=definition.get("minLength", 0))
        case {"type": "number"}:
            return st.floats(allow_nan=False, allow_infinity=False)
        case {"minimum": low, "maximum": high}:
            numbers = st.integers(low, high)
            return numbers | st.none() if "null" in definition["type"] else numbers
    raise AssertionError(f"no samples of {definition}")


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_the_daemon_takes_what_the_schema_allows(event_type: str) -> None:
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(valid(SCHEMA["$defs"][event_type]))
    def check(envelope: dict[str, Any]) -> None:
        assert ANY_EVENT.is_valid(envelope)
        assert fault(envelope) is None or not real_time(envelope["timestamp"])

    check()


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**32 + 1),
    st.sampled_from([0, 1, 2**32 - 1, 2**32, 0.5, "", "x", "13", [], {}, {"a": 1}]),
    st.sampled_from([*EVENT_TYPES, "integration.sync.stopped"]),
    st.sampled_from(["2026-01-02T03:04:05Z", "2026-01-02t03:04:05z", "2026-01-02 03:04:05Z", "2026-01-02T03:04:05"]),
)
NAMES = st.sampled_from([*envelope_schema.KEYS, "Id", "EVENT_TYPE", "busineſs_id", "Data", "version", "ids", ""])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=2), st.sets(NAMES, max_size=2))
def test_daemon_and_schema_take_and_refuse_the_same(changes: list[tuple[str, Any]], left_out: set[str]) -> None:
    envelope = {name: value for name, value in (sample() | dict(changes)).items() if name not in left_out}
    assert TAKEN.is_valid(envelope) is (fault(envelope) is None), fault(envelope)
