"""The description of channel, streams and sockets: it holds together, and what really goes through them fits it.

AsyncAPI's own schema is in no package that these tests could use; what it asks of the parts used here is checked.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import trio
import yaml
from tests.events import line
from tests.faults.harness import PATIENCE, Daemon, a_daemon, eventually
from tests.redis_servers import BINARIES, CHANNEL, redis_server, subscriber
from tests.shell.test_daemon import talk
from trio_websocket import open_websocket_url

from synceventsd.core.positions import GapReason

API = Path(__file__).parents[2] / "docs/api"
DESCRIPTION: dict[str, Any] = yaml.safe_load((API / "asyncapi.yaml").read_text())
ENVELOPE: dict[str, Any] = json.loads((API / "envelope.schema.json").read_text())
PRODUCER = "6f1c8f0e-1f7c-4d3e-9a57-0f4b3f6d2a11"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, list[bytes]]]:
    """A daemon with some events, and what Redis carried of them."""
    with (
        redis_server(next(iter(BINARIES))) as server,
        subscriber(server) as channel,
        a_daemon(tmp_path_factory.mktemp("d"), server.url, settings={"SYNCEVENTSD_HTTP_KEEP_ALIVE": "0.2"}) as one,
    ):
        one.start()
        talk(one.socket, line(1), line(2, business=None, metadata={"traceparent": "00-1-2-01"}))
        eventually(lambda: len(channel.heard) == 2, "it went out")
        yield one, channel.heard


def resolved(reference: str) -> Any:
    file, _, path = reference.partition("#/")
    found: Any = ENVELOPE if file else DESCRIPTION
    for part in path.split("/"):
        found = found[part]
    return found


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def validator(message: str) -> Any:
    """What judges a message; the description's schemas and the envelope's are put where its references look."""
    payload = json.dumps(DESCRIPTION["components"]["messages"][message]["payload"])
    payload = payload.replace("envelope.schema.json#/$defs/", "#/components/schemas/")
    schemas = DESCRIPTION["components"]["schemas"] | {"Envelope": ENVELOPE["$defs"]["Envelope"]}
    return jsonschema_rs.Draft202012Validator(json.loads(payload) | {"components": {"schemas": schemas}})


def fits(message: str, found: object) -> None:
    validator(message).validate(found)


def test_every_reference_leads_somewhere() -> None:
    found = list(references(DESCRIPTION))
    assert len(found) > 40
    for reference in found:
        assert isinstance(resolved(reference), dict), reference


def test_channels_operations_and_messages_belong_together() -> None:
    assert DESCRIPTION["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(DESCRIPTION["info"])
    for name, channel in DESCRIPTION["channels"].items():
        named = {part[1:-1] for part in channel["address"].split("/") if part.startswith("{")}
        assert set(channel.get("parameters", {})) == named, name
        assert channel["messages"]
        assert all(one["$ref"].startswith("#/servers/") for one in channel["servers"])
    used = set()
    for name, operation in DESCRIPTION["operations"].items():
        assert operation["action"] in ("send", "receive"), name
        used.add(operation["channel"]["$ref"])
        for message in operation.get("messages", []):
            assert message["$ref"].startswith(f"{operation['channel']['$ref']}/messages/"), name
    assert used == {f"#/channels/{name}" for name in DESCRIPTION["channels"]}
    for name in DESCRIPTION["components"]["messages"]:
        validator(name)  # raises where its schema is none


def test_names_and_reasons_are_those_of_the_program() -> None:
    assert DESCRIPTION["channels"]["redis"]["address"] == CHANNEL
    reasons = DESCRIPTION["components"]["schemas"]["Gap"]["properties"]["reason"]["enum"]
    assert set(reasons) == {reason.value for reason in GapReason}


def test_what_redis_carries_fits(daemon: tuple[Daemon, list[bytes]]) -> None:
    for text in daemon[1]:
        fits("Envelope", json.loads(text))


def test_every_message_of_an_event_stream_fits(daemon: tuple[Daemon, list[bytes]]) -> None:
    seen = set()
    for target, headers in (("?replay=5", {}), ("/42", {"Last-Event-ID": "not ours"})):
        connection = http.client.HTTPConnection("127.0.0.1", daemon[0].port, timeout=PATIENCE)
        with closing(connection):
            connection.request("GET", f"/integrations/events/sse{target}", headers=headers)
            with connection.getresponse() as answer:
                for frame in frames(answer):
                    name = frame["event"]
                    seen.add(name)
                    assert frame["id"]
                    if name == "keep-alive":
                        fits("SseKeepAlive", frame["data"])
                        break
                    found = json.loads(frame["data"])
                    kind = {"connection_established": "SseConnectionEstablished", "gap": "SseGap"}.get(name, "SseEvent")
                    fits(kind, found)
                    assert kind != "SseEvent" or found["type"] == name
    assert seen == {"connection_established", "gap", "integration.sync.order.created", "keep-alive"}


def frames(answer: http.client.HTTPResponse) -> Iterator[dict[str, str]]:
    text = b""
    while True:
        text += answer.read1()
        *whole, text = text.split(b"\n\n")
        for frame in whole:
            if not frame.startswith(b"retry:"):
                yield dict(row.split(": ", 1) for row in frame.decode().split("\n"))


async def test_every_message_of_a_websocket_fits(daemon: tuple[Daemon, list[bytes]]) -> None:
    kinds = {"connection_established": "WsConnectionEstablished", "gap": "WsGap", "keep-alive": "WsKeepAlive"}
    kinds |= {"error": "WsError"}
    url = f"ws://127.0.0.1:{daemon[0].port}/integrations/events/ws/42?replay=5&last_event_id=not-ours"
    command = {"filter": {"integration_id": 13, "event_types": None, "order_ids": ["order-1"]}}
    fits("WsFilter", command)
    seen = set()
    with trio.fail_after(PATIENCE):
        async with open_websocket_url(url) as connection:
            await connection.send_message(json.dumps(command))
            await connection.send_message("not understood")
            while len(seen) < 5:
                found = json.loads(await connection.get_message())
                seen.add(found["event"])
                fits(kinds.get(found["event"], "WsEvent"), found)
    assert seen == {*kinds, "integration.sync.order.created"}


def test_every_message_of_the_publishers_socket_fits(daemon: tuple[Daemon, list[bytes]]) -> None:
    hello = {"hello": {"v": 1, "producer": PRODUCER, "client": "test/1", "acked": 0}}
    fits("Hello", hello)
    welcome, *told = talk(daemon[0].socket, json.dumps(hello).encode(), line(9), b"rubbish")
    fits("Welcome", welcome)
    rejects = [message for message in told if "reject" in message]
    assert len(rejects) == 1
    for message in told:
        fits("Reject" if "reject" in message else "Ack", message)
    (error,) = talk(daemon[0].socket, b'{"hello":{"v":9,"producer":"x"}}')
    fits("Error", error)


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("SseEvent", {"id": "x"}),
        ("SseGap", {"reason": "because", "resumes_at_seq": 1}),
        ("WsFilter", {"filter": {"business_id": 7}}),
        ("Ack", {"ack": 0}),
        ("Reject", {"reject": 1, "id": None, "code": "frame_too_large", "error": ""}),
        ("Envelope", {"id": None, "event_type": "integration.sync.failed", "integration_id": 1, "data": {}}),
    ],
)
def test_what_is_no_such_message_does_not_fit(message: str, wrong: object) -> None:
    assert not validator(message).is_valid(wrong)
