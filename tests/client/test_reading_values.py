"""What readers make of bytes and texts, and what they refuse to be asked."""

from __future__ import annotations

import json
import math
import pickle
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.events import line

import syncevents
from syncevents.errors import NotUnderstood, Refused
from syncevents.reading.asking import Filter, headers, make_filter, make_request, parse_url, refusal
from syncevents.reading.retrying import Pauses
from syncevents.reading.ssetext import Message, Parser
from syncevents.reading.values import Gap, Note, Received, parse_json, read_sse, read_ws
from synceventsd.core import frames
from synceventsd.core.envelope import KNOWN_TYPES, Stamp
from synceventsd.core.linecheck import read_event
from synceventsd.core.positions import Position

AT = Position("0123456789", 7)


def parse(*chunks: bytes) -> list[Message]:
    parser = Parser()
    return [message for chunk in chunks for message in parser.feed(chunk)]


def cut(text: bytes, places: list[int]) -> list[bytes]:
    """Cut a text at these places, taken modulo its length."""
    ends = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[begin:end] for begin, end in pairwise(ends)]


def expected(text: bytes) -> list[Message]:
    """The HTML standard's algorithm, written down in the simplest way."""
    found, event, data, last_id = [], "", [], ""
    text = text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, _ = text.split(b"\n")
    for raw in lines:
        name, _, value = raw.decode("utf-8", "replace").partition(":")
        value = value[1:] if value[:1] == " " else value
        if not raw:
            if data:
                found.append(Message(event or "message", "\n".join(data), last_id))
            event, data = "", []
        elif name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "id" and "\0" not in value:
            last_id = value
    return found


ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
FIELDS = st.sampled_from([b"data: ", b"data:", b"data", b"event: ", b"id: ", b"id:", b": ", b"", b"retry: 3"])
LINES = st.tuples(FIELDS, st.text("aé€\U0001f600\0: \x0b\x1c\x85\u2028", max_size=4).map(str.encode), ENDS)
STREAMS = st.tuples(
    st.sampled_from([b"", b"\xef\xbb\xbf"]), st.lists(LINES.map(b"".join) | ENDS, max_size=20).map(b"".join)
).map(b"".join)


@given(STREAMS | st.binary(max_size=60), st.lists(st.integers(0, 10**6), max_size=30))
def test_a_stream_reads_the_same_however_it_is_cut(text: bytes, places: list[int]) -> None:
    assert parse(*cut(text, places)) == expected(text)
    assert parse(*(text[index : index + 1] for index in range(len(text)))) == expected(text)


@given(st.integers(0, 200))
def test_what_an_end_cuts_off_does_not_come_out(upto: int) -> None:
    text = frames.sse_event("a", AT, b"{}") * 3
    assert len(parse(text[:upto])) == text[:upto].count(b"\n\n")


def test_a_line_without_an_end_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncevents.reading.ssetext.MAX_LINE", 100)
    with pytest.raises(NotUnderstood, match="more than 100 bytes"):
        parse(b"data: " + b"x" * 95)


def stored(text: bytes) -> bytes:
    """The payload that the daemon gives for an envelope that it accepted."""
    found = read_event(text, KNOWN_TYPES, lambda: Stamp("id", "2026-01-02T03:04:05Z"))
    assert isinstance(found, tuple), found
    return frames.payload(frames.sse_frames("0123456789", [7], [found[1]]))


def both_ways(payload: bytes) -> Received:
    """Read an event as the daemon sends it, over either transport."""
    (message,) = parse(frames.sse_event("a", AT, payload))
    by_sse, by_ws = read_sse(message.event, message.data, message.id), read_ws(frames.ws_event("a", AT, payload))
    assert by_sse == by_ws
    assert isinstance(by_sse, Received)
    return by_sse


def test_an_event_is_the_same_over_both_transports() -> None:
    event = both_ways(stored(line(1, business=None, data={"total_amount": 1.5})))
    at = datetime(2026, 11, 24, 2, 30, 15, 123456, UTC)
    kind = "integration.sync.order.created"
    assert event == Received("event-1", kind, 13, None, at, {"total_amount": Decimal("1.5")}, {}, 7, str(AT))


json_text = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), json_text, max_size=4))
def test_whatever_a_publisher_writes_comes_to_the_reader(data: dict[str, Any]) -> None:
    assert json.loads(json.dumps(both_ways(stored(line(data=data))).data, default=float)) == data


@pytest.mark.parametrize("number", ["9" * 5000, "1e99999999999999999999", "-1.5E-99999999999999999999", "1e400"])
def test_no_number_that_the_daemon_takes_stops_a_reader(number: str) -> None:
    text = line(data={"n": "@"}).replace(b'"@"', number.encode())
    value = both_ways(stored(text)).data["n"]
    assert isinstance(value, Decimal) or value in (math.inf, 0.0)


def test_an_amount_keeps_its_digits() -> None:
    text = line(data={"n": "@"}).replace(b'"@"', b"12.50")
    assert str(both_ways(stored(text)).data["n"]) == "12.50"


def test_messages_that_are_no_events_tell_where_the_reader_is() -> None:
    gap = frames.Message("gap", AT, {"reason": "retention", "resumes_at_seq": 9, "later": 1})
    assert read_ws(frames.ws_message(gap)) == Gap("retention", 9, str(AT))
    (message,) = parse(frames.sse_message(gap))
    assert read_sse(message.event, message.data, message.id) == Gap("retention", 9, str(AT))
    (ping,) = parse(frames.sse_keep_alive(AT))
    assert read_sse(ping.event, ping.data, ping.id) == Note(str(AT))
    for name in ("keep-alive", "connection_established"):
        assert read_ws(frames.ws_message(frames.Message(name, AT, {}))) == Note(str(AT))
    assert read_ws(frames.ws_message(frames.Message("error", AT, {"message": "no"}))) == Note(str(AT), "no")


PAYLOAD = json.loads(stored(line()))


@pytest.mark.parametrize(
    "changes",
    [
        {"id": 1},
        {"integration_id": "13"},
        {"integration_id": True},
        {"business_id": 1.0},
        {"timestamp": "2026-01-02T03:04:05"},
        {"timestamp": "now"},
        {"data": []},
        {"metadata": None},
        {"seq": None},
    ],
)
def test_an_event_of_another_form_is_not_guessed_at(changes: dict[str, Any]) -> None:
    with pytest.raises(NotUnderstood, match=next(iter(changes))):
        read_sse("a", json.dumps(PAYLOAD | changes), "x")


def test_keys_that_are_not_known_are_ignored() -> None:
    assert read_sse("a", json.dumps(PAYLOAD | {"later": 1}), "x") == read_sse("a", json.dumps(PAYLOAD), "x")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 10**6, "7"])
def test_what_is_no_object_is_not_understood(text: str) -> None:
    with pytest.raises(NotUnderstood):
        parse_json(text)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"business_id": 0}, ValueError, "business_id must be 1 to 4294967295, not 0"),
        ({"business_id": "42"}, TypeError, "business_id must be an int or None"),
        ({"business_id": True}, TypeError, "business_id must be an int or None"),
        ({"integration_id": -1}, ValueError, "integration_id must be 0 to"),
        ({"replay": -1}, ValueError, "replay must be 0 to"),
        ({"event_types": "a"}, TypeError, "event_types must be a list of strings"),
        ({"event_types": []}, ValueError, "event_types must not be empty"),
        ({"order_ids": ["a,b"]}, ValueError, "order_ids must hold strings without commas"),
        ({"order_ids": [" a"]}, ValueError, "order_ids must hold strings without commas"),
        ({"order_ids": [7]}, TypeError, "order_ids must hold strings"),
        ({"order_ids": ["\ud800"]}, ValueError, "order_ids must hold strings that UTF-8 can hold"),
        ({"last_event_id": 7}, TypeError, "last_event_id must be a str"),
        ({"timeout": 0}, ValueError, "timeout must be above 0"),
        ({"url": "ftp://here"}, ValueError, "url must be http://"),
        ({"url": "http://"}, ValueError, "url must be http://"),
        ({"url": "http://a:b@here"}, ValueError, "url must be http://"),
        ({"url": "unix:here"}, ValueError, "url must be unix:/path"),
        ({"url": "http://here:99999"}, ValueError, "Port out of range"),
        ({"url": "http://a..b"}, ValueError, "a host that there can be"),
        ({"token": "a b"}, ValueError, "token must be one word"),
        ({"token": 7}, TypeError, "token must be a str, a function or None"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_sent(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    for reader in (syncevents.iter_events, syncevents.watch):
        with pytest.raises(error, match=words):
            reader(**arguments)


def test_a_token_that_no_header_can_hold_is_refused() -> None:
    for token in ("", "a b", "a\r\nHost: b", "é"):
        with pytest.raises(ValueError, match="token must be one word"):
            headers(token)


def test_the_request_carries_base_path_filter_and_position() -> None:
    filter_ = make_filter(13, ["a", "b"], ["#1 & 2"])
    request = make_request("http://here:8080/api/v1/", 42, filter_, 5, None)
    query = "integration_id=13&event_types=a%2Cb&order_ids=%231+%26+2"
    assert request.target("sse") == f"/api/v1/integrations/events/sse/42?{query}&replay=5"
    assert request.after("x-1", Filter()).target("ws") == "/api/v1/integrations/events/ws/42?last_event_id=x-1"
    assert make_request("http://here", None, Filter(), None, None).target("ws") == "/integrations/events/ws"


def test_an_address_is_shown_as_it_was_given() -> None:
    for url in ("http://here", "http://here:8787/api/v1", "http://[::1]:8787", "unix:/run/http.sock"):
        assert str(parse_url(url)) == url


def test_what_repeating_does_not_mend_is_an_error_and_all_else_is_tried_again() -> None:
    address = parse_url("http://here")
    for status in (301, 400, 401, 403, 404, 421, 431):
        answer = refusal(status, b'{"success":false,"message":"why"}', address)
        assert isinstance(answer, Refused)
        assert (answer.status, str(answer)) == (status, f"http://here answered {status}: why")
        copy = pickle.loads(pickle.dumps(answer))
        assert (copy.status, str(copy)) == (status, str(answer))
    for status in (408, 425, 429, 500, 502, 503):
        assert isinstance(refusal(status, b"<html>", address), str)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 100))
def test_pauses_grow_to_a_limit_and_a_connection_that_lasted_begins_anew(dice: float, failures: int) -> None:
    pauses = Pauses()
    waited = [pauses.after(0.0, dice) for _ in range(failures)]
    assert waited == sorted(waited)
    assert 0.05 <= waited[0] <= 0.1
    assert max(waited) <= 5.0
    assert pauses.after(60.0, dice) == waited[0]
