"""The protocol's bytes: framing, and both roles against each other."""

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncevents import wire

numbers = st.integers(0, wire.MAX_NUMBER)
texts = st.text(st.characters(exclude_categories=["Cs"]))


def reference(stream: bytes, max_frame: int) -> tuple[list[bytes], bool]:
    """What a stream holds, read at leisure: its lines up to one that is too long, and whether there is one."""
    lines = []
    for line in stream.split(b"\n"):
        line = line.removesuffix(b"\r")
        if len(line) > max_frame:
            return lines, True
        if line:
            lines.append(line)
    return lines, False


chunks = st.lists(st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n"])).map(b"".join))


@given(chunks, st.integers(1, 8))
def test_any_chunking_of_a_stream_gives_the_same_lines(pieces: list[bytes], max_frame: int) -> None:
    splitter = wire.LineSplitter(max_frame)
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    lines += splitter.finish()
    assert (lines, splitter.too_large) == reference(b"".join(pieces), max_frame)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_line_of_exactly_max_frame_passes_and_one_byte_more_does_not(ending: bytes) -> None:
    for size in (1, 3):
        splitter = wire.LineSplitter(10)
        fits, larger = b"x" * 10 + ending, b"y" * 11 + ending
        lines = [line for i in range(0, len(fits), size) for line in splitter.feed(fits[i : i + size])]
        assert (lines, splitter.too_large) == ([b"x" * 10], False)
        assert splitter.feed(b"z\n" + larger + b"z\n") == [b"z"]
        assert splitter.too_large
        assert splitter.feed(b"z\n") == splitter.finish() == []


def test_a_line_that_never_ends_is_too_large_at_once_and_not_kept() -> None:
    splitter = wire.LineSplitter(10)
    assert splitter.feed(b"x" * 11) == []
    assert splitter.too_large


def test_a_last_line_needs_no_newline() -> None:
    splitter = wire.LineSplitter()
    assert splitter.feed(b"a\nb\r") == [b"a"]
    assert splitter.finish() == [b"b"]
    assert splitter.finish() == []


@given(texts, numbers, numbers)
def test_a_client_reads_the_welcome_that_a_daemon_writes(server: str, accepted: int, max_frame: int) -> None:
    line = wire.encode_welcome(server, accepted, max_frame)
    assert wire.parse_message(line) == wire.Welcome(server, accepted, max_frame)
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")


@given(numbers)
def test_a_client_reads_the_ack_that_a_daemon_writes(number: int) -> None:
    assert wire.parse_message(wire.encode_ack(number)) == wire.Ack(number)


@given(numbers, st.none() | st.text(), st.text(), st.text())
def test_a_client_reads_the_reject_that_a_daemon_writes(
    number: int, event_id: str | None, code: str, error: str
) -> None:
    line = wire.encode_reject(number, event_id, code, error)
    assert wire.parse_message(line) == wire.Reject(number, event_id, code, error)
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")


@given(st.text(), st.text())
def test_a_client_reads_the_refusal_that_a_daemon_writes(code: str, error: str) -> None:
    assert wire.parse_message(wire.encode_error(code, error)) == wire.Refusal(code, error)


@given(st.uuids(), texts, numbers)
def test_a_daemon_reads_the_hello_that_a_client_writes(producer: uuid.UUID, client: str, acked: int) -> None:
    line = wire.encode_hello(str(producer), client, acked)
    assert wire.is_hello(line)
    assert wire.parse_hello(line) == wire.Hello(str(producer), client, acked)


@pytest.mark.parametrize(
    "line",
    [
        b'{"hello":{}}',
        b' { "hello" : 1}',
        b'{"x":1,"hello":{}}',
        b'{"h\\u0065llo":{}}',
        b'{"\\u0068\\u0065\\u006C\\u006c\\u006F":1}',
        b'{"hello":{"v":1',
    ],
)
def test_a_hello_is_known_however_it_is_spelled(line: bytes) -> None:
    assert wire.is_hello(line)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b'"hello"',
        b'["hello"]',
        b'{"id":"hello","data":{"hello":1}}',
        b'{"id":"\\u0065"}',
        b'{"Hello":{}}',
        b'{"x":"hello"',
        b"[" * 100000 + b'"hello"',
        b'\xff"hello"',
    ],
)
def test_an_envelope_is_no_hello(line: bytes) -> None:
    assert not wire.is_hello(line)


GOOD = {"v": 1, "producer": "5F3A1C9E-0000-4000-8000-00000000000A", "client": "x", "acked": 3}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"v": 2}, "unsupported_version"),
        ({"v": 0}, "unsupported_version"),
        ({"v": True}, "bad_hello"),
        ({"v": 1.0}, "bad_hello"),
        ({"v": "1"}, "bad_hello"),
        ({"v": None}, "bad_hello"),
        ({"producer": "me"}, "bad_hello"),
        ({"producer": ""}, "bad_hello"),
        ({"producer": 7}, "bad_hello"),
        ({"producer": "{5f3a1c9e-0000-4000-8000-00000000000a}"}, "bad_hello"),
        ({"producer": "5f3a1c9e-0000-4000-8000-00000000000a\n"}, "bad_hello"),
        ({"client": None}, "bad_hello"),
        ({"client": "\ud800"}, "bad_hello"),
        ({"acked": -1}, "bad_hello"),
        ({"acked": True}, "bad_hello"),
        ({"acked": 1.0}, "bad_hello"),
        ({"acked": 2**63}, "bad_hello"),
    ],
)
def test_a_bad_hello_is_refused_with_its_code(changes: dict, code: str) -> None:
    with pytest.raises(wire.BadHello) as caught:
        wire.parse_hello(json.dumps({"hello": GOOD | changes}).encode())
    assert caught.value.code == code
    assert caught.value.message


@pytest.mark.parametrize("line", [b'{"hello":1}', b'{"hello":[]}', b'{"hello":{}}', b'{"hello":{"v":1', b"[]", b""])
def test_a_broken_hello_is_refused(line: bytes) -> None:
    with pytest.raises(wire.BadHello) as caught:
        wire.parse_hello(line)
    assert caught.value.code == "bad_hello"


def test_a_hello_may_leave_out_client_and_acked_and_hold_more_than_we_know() -> None:
    line = json.dumps({"hello": {"v": 1, "producer": GOOD["producer"], "colour": "red"}, "more": 1}).encode()
    assert wire.parse_hello(line) == wire.Hello("5f3a1c9e-0000-4000-8000-00000000000a", "", 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["ack", "reject", "welcome", "v", "code"]), inner),
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_the_daemon_says_is_a_message_or_a_protocol_error(line: bytes) -> None:
    try:
        message = wire.parse_message(line)
    except wire.ProtocolError:
        return
    assert isinstance(message, wire.Welcome | wire.Ack | wire.Reject | wire.Refusal)


@given(st.binary() | json_values.map(lambda value: json.dumps({"hello": value}).encode()))
def test_whatever_a_client_says_is_a_hello_or_a_bad_one(line: bytes) -> None:
    assert wire.is_hello(line) in (True, False)
    try:
        hello = wire.parse_hello(line)
    except wire.BadHello:
        return
    assert isinstance(hello, wire.Hello)


@given(st.integers(1, wire.MAX_NUMBER))
def test_an_operator_s_request_is_read_as_it_was_written(seq: int) -> None:
    line = wire.encode_retry_from(seq).rstrip(b"\n")
    assert wire.is_admin(line)
    assert not wire.is_hello(line)
    assert wire.parse_admin(line) == wire.AdminRequest(seq)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["v", "retry_from", "admin"]) | st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["admin", "id", "event_type", "data"]), _VALUES))
def test_only_an_object_with_no_other_key_is_an_operator_s_request_and_it_is_read_or_refused(value: Any) -> None:
    line = json.dumps(value).encode()
    assert wire.is_admin(line) == (list(value) == ["admin"] and isinstance(value["admin"], dict))
    if not wire.is_admin(line):
        return
    try:
        request = wire.parse_admin(line)
    except wire.BadAdminRequest as error:
        code = error.code
    else:
        code = ""
    assert code in ("", "bad_admin", "unsupported_version")
    if not code:
        assert value == {"admin": {"v": 1, "retry_from": request.retry_from}}


@given(st.binary(max_size=200))
def test_no_bytes_whatever_break_the_look_for_a_request(data: bytes) -> None:
    for line in (data, b'{"admin":{' + data):
        if wire.is_admin(line):
            assert isinstance(json.loads(line)["admin"], dict)
