"""What is an event and what is not; what leaves is what came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.events import AT, line

from synceventsd.core.envelope import KNOWN_TYPES, Envelope, Fault, Stamp
from synceventsd.core.linecheck import MAX_DEPTH, plain_heads, read_event


def read(text: bytes) -> tuple[bytes, Envelope] | Fault:
    return read_event(text, KNOWN_TYPES, lambda: Stamp("the-added-id", "2026-01-01T00:00:00+00:00"))


def code(text: bytes) -> str:
    found = read(text)
    return found.code if isinstance(found, Fault) else "ok"


def test_a_valid_event_leaves_byte_for_byte_as_it_came() -> None:
    spaced = (
        b' { "event_type" : "integration.sync.failed", "id":"\\u0041", "x":[1, 2.50,1e5], "integration_id": 0 ,\t'
        b'"timestamp":"2026-11-24T02:30:15Z","data": {"a":12345678901234567890.10}, "business_id":null } '
    )
    for text in (line(1), spaced):
        found = read(text)
        assert not isinstance(found, Fault)
        assert found[0] == text


def test_an_id_and_a_timestamp_are_added_where_they_were_left_out() -> None:
    text = b'  {"event_type":"integration.sync.failed","integration_id":7,"data":{"error":"x"}}'
    found = read(text)
    assert not isinstance(found, Fault)
    stored, head = found
    assert json.loads(stored) == json.loads(text) | {"id": "the-added-id", "timestamp": "2026-01-01T00:00:00+00:00"}
    assert (head.id, head.timestamp) == ("the-added-id", "2026-01-01T00:00:00+00:00")
    assert stored.endswith(text.lstrip()[1:])


FAULTY = {
    "not an object": (b"[1]", "invalid_event"),
    "text": (b"hello", "invalid_json"),
    "cut off": (line(1)[:-1], "invalid_json"),
    "two objects": (line(1) + line(2), "invalid_json"),
    "not UTF-8 in the data": (line(1, data={"a": "Q"}).replace(b"Q", b"\xff"), "invalid_json"),
    "not UTF-8 in the id": (line(1).replace(b"event-1", b"\xc3\x28"), "invalid_json"),
    "control character": (line(1, data={"a": "Q"}).replace(b"Q", b"\x01"), "invalid_json"),
    "NaN": (line(1, data={"a": 7}).replace(b":7}", b":NaN}"), "invalid_json"),
    "leading zero": (line(1, data={"a": 7}).replace(b":7}", b":07}"), "invalid_json"),
    "broken behind an invalid field": (b'{"event_type":1,"data":{"a":}}', "invalid_json"),
    "too deep": (line(1).replace(b'"data":{', b'"data":{"d":' + b"[" * 5000 + b"]" * 5000 + b","), "invalid_json"),
    "just too deep": (
        line(1).replace(b'"data":{', b'"data":{"d":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b","),
        "invalid_json",
    ),
    "no type": (line(1).replace(b"event_type", b"event_kind"), "invalid_event"),
    "type is a number": (line(1, event_type=1), "invalid_event"),  # type: ignore[arg-type]
    "empty id": (line(1, id=""), "invalid_event"),
    "id null": (line(1, id=None), "invalid_event"),
    "id is a number": (line(1, id=5), "invalid_event"),
    "integration missing": (line(1).replace(b'"integration_id":13,', b""), "invalid_event"),
    "integration as text": (line(1, integration="13"), "invalid_event"),  # type: ignore[arg-type]
    "integration true": (line(1, integration=True), "invalid_event"),
    "integration a fraction": (line(1, integration=13.0), "invalid_event"),  # type: ignore[arg-type]
    "integration in another form": (
        line(1).replace(b":13,", b":1e9,"),
        "invalid_event",
    ),  # else `plain_heads` were wrong
    "integration negative": (line(1, integration=-1), "invalid_event"),
    "integration too large": (line(1, integration=2**32), "invalid_event"),
    "integration huge": (line(1, integration=10**30), "invalid_event"),
    "business 0": (line(1, business=0), "invalid_event"),
    "business too large": (line(1, business=2**32), "invalid_event"),
    "business as text": (line(1, business="42"), "invalid_event"),  # type: ignore[arg-type]
    "timestamp without offset": (line(1, timestamp="2026-11-24T02:30:15"), "invalid_event"),
    "timestamp a date": (line(1, timestamp="2026-11-24"), "invalid_event"),
    "timestamp of no day": (line(1, timestamp="2026-02-30T02:30:15Z"), "invalid_event"),
    "timestamp with a space": (line(1, timestamp="2026-11-24 02:30:15Z"), "invalid_event"),
    "timestamp in other digits": (line(1, timestamp="٢٠٢٦-11-24T02:30:15Z"), "invalid_event"),
    "timestamp null": (line(1, timestamp=None), "invalid_event"),
    "data missing": (line(1).replace(b'"data"', b'"date"'), "invalid_event"),
    "data an array": (line(1, data=[]), "invalid_event"),
    "data null": (line(1, data=None), "invalid_event"),
    "metadata an array": (line(1, metadata=[]), "invalid_event"),
    "metadata null": (line(1, metadata=None), "invalid_event"),
    "a key twice": (line(1)[:-1] + b',"id":"other"}', "invalid_event"),
    "an unknown key twice": (line(1, x=1)[:-1] + b',"x":2}', "invalid_event"),
    "a key twice, once escaped": (line(1)[:-1] + b',"i\\u0064":"other"}', "invalid_event"),
    "a key in another case": (line(1)[:-1] + b',"Business_ID":43}', "invalid_event"),
    "a key that Go folds": (line(1)[:-1] + b',"bu\xc5\xbfine\xc5\xbf\xc5\xbf_id":43}', "invalid_event"),
    "an unknown type": (line(1, event_type="integration.sync.paused"), "unknown_event_type"),
    "an unknown type, and invalid": (line(1, event_type="integration.sync.paused", integration=-1), "invalid_event"),
}


@pytest.mark.parametrize(("text", "wanted"), FAULTY.values(), ids=FAULTY.keys())
def test_a_faulty_line_is_refused_with_the_contract_s_code(text: bytes, wanted: str) -> None:
    assert code(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        line(1, integration=0),
        line(1, integration=2**32 - 1, business=2**32 - 1),
        line(1, business=1),
        line(1, business=None),
        line(1, business_id=None),
        line(1, timestamp="2026-11-24T02:30:15.123456789-03:00"),
        line(1, timestamp="2024-02-29T23:59:59Z"),
        line(1, metadata={}),
        line(1, newer={"nested": [1]}),
        line(1, data={"deep": json.loads("[" * 200 + "]" * 200)}),
        line(1, data={"many": [{}] * 2000}),
        line(1, data={"long": 1}).replace(b":1}", b":" + b"9" * 5000 + b"}"),
        line(1, id="\u00e9\u4e2d\U0001f600"),
        line(1, event_type="integration.sync.failed").replace(b".sync.", b".\\u0073ync."),
    ],
)
def test_what_the_contract_allows_is_taken(text: bytes) -> None:
    assert code(text) == "ok"


def test_a_fault_names_the_field_and_gives_the_id_back() -> None:
    found = read(line(1, integration=-1))
    assert isinstance(found, Fault)
    assert "integration_id" in found.error
    assert found.event_id == "event-1"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    ["id", "event_type", "integration_id", "business_id", "timestamp", "data", "metadata", "x", "ID", "Data"]
)
values = st.one_of(
    json_values,
    st.sampled_from([*sorted(KNOWN_TYPES), AT, "abc", 13, 42, 0, {}, {"order_id": "1"}, {"a": [1, {"b": None}]}]),
)


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """Draw an envelope that is valid but for some keys: changed, added, doubled, spaced, escaped or not."""
    pairs = [
        ("id", "abc"),
        ("event_type", draw(st.sampled_from(sorted(KNOWN_TYPES)))),
        ("integration_id", 13),
        ("business_id", 42),
        ("timestamp", AT),
        ("data", {"order_id": "1"}),
    ]
    pairs += draw(st.lists(st.tuples(keys, values), max_size=2))
    if draw(st.booleans()):
        pairs.pop(draw(st.integers(0, len(pairs) - 1)))
    separator = draw(st.sampled_from([":", ": ", " :\t"]))
    ascii_only = draw(st.booleans())
    parts = [
        json.dumps(k) + separator + json.dumps(v, ensure_ascii=ascii_only, separators=(",", ":")) for k, v in pairs
    ]
    return ("{" + draw(st.sampled_from([",", ", "])).join(parts) + "}").encode("utf-8", "surrogatepass")


def is_valid(text: bytes) -> bool:
    """Say the same as `read_event` as plainly as possible, from the contract's table."""
    try:
        pairs: Any = json.loads(text.decode(), object_pairs_hook=lambda found: found)
    except ValueError:
        return False
    names = [name for name, _ in pairs]
    known = {"id", "event_type", "integration_id", "business_id", "timestamp", "data", "metadata"}
    if len(set(names)) != len(names) or any(name.lower() in known and name not in known for name in names):
        return False
    event = dict(json.loads(text))
    whole = {name: value for name, value in event.items() if type(value) is int}
    return (
        ("id" not in event or (isinstance(event["id"], str) and event["id"] != ""))
        and event.get("event_type") in list(KNOWN_TYPES)
        and 0 <= whole.get("integration_id", -1) < 2**32
        and (event.get("business_id") is None or 1 <= whole.get("business_id", 0) < 2**32)
        and ("timestamp" not in event or event["timestamp"] == AT)
        and isinstance(event.get("data"), dict)
        and ("metadata" not in event or isinstance(event["metadata"], dict))
    )


@given(objects())
@example(line(1)[:-1] + b',"id":"event-1"}')
def test_the_check_says_what_a_plain_one_says(text: bytes) -> None:
    if "\\ud" in text.decode("utf-8", "surrogatepass"):
        return  # lone surrogates: refused, where Python's decoder takes them
    assert (code(text) == "ok") == is_valid(text)


@given(st.lists(objects() | st.integers(1, 20).map(line), min_size=1, max_size=4))
@example([line(1)[:-1] + b',"id":"event-1"}', line(2)])
@example([line(1).replace(b":13,", b":-0,"), line(2)])
@example([line(1).replace(b'"id":"event-1",', b""), line(2).replace(b'{"id"', b'{        "id"')])
@example([line(1, data=[]), line(2)])
@example([line(1, metadata=[]), line(2)])
@example([line(1, timestamp="2026-02-30T00:00:00Z"), line(2)])
@example([line(1, timestamp="2026-11-24 00:00:00Z"), line(2)])
@example([line(1, data={"a": "Q"}).replace(b"Q", b"\xff"), line(2)])
@example([line(1, event_type="integration.sync.paused"), line(2)])
@example([line(1).replace(b'"data":{', b'"data":{"d":' + b"[" * 256 + b"]" * 256 + b","), line(2)])
def test_lines_that_are_vouched_for_together_are_events_each_by_itself(texts: list[bytes]) -> None:
    heads = plain_heads(texts, KNOWN_TYPES)
    if heads is not None:
        assert list(zip(texts, heads, strict=True)) == [read(text) for text in texts]
    assert (heads is not None) == all(plain_heads((text,), KNOWN_TYPES) is not None for text in texts)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"business": None},
        {"metadata": {"external_order_id": "5"}},
        {"timestamp": "2026-11-24T02:30:15Z"},
        {"timestamp": "2026-11-24T02:30:15.1+01:00"},
    ],
)
def test_what_clients_write_is_vouched_for_many_at_a_time(more: dict[str, Any]) -> None:
    text = line(1, data={"customer": "Q", "items": [{"sku": "x" * 600}]}, **more).replace(b"Q", "Zoë".encode())
    assert plain_heads([text, line(2), text], KNOWN_TYPES) is not None


@given(st.binary(max_size=300))
def test_no_bytes_make_the_check_fail_otherwise_than_by_a_fault(text: bytes) -> None:
    assert code(text) in {"invalid_json", "invalid_event", "unknown_event_type"}
