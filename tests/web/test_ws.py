"""The same stream over WebSocket."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypercorn.protocol.ws_stream import FrameTooLargeError
from hypothesis import given
from hypothesis import strategies as st
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream
from web_site import CREATED, Site, SiteOpener, event, read_all
from wsproto.events import TextMessage

from synceventsd.web.http11 import MessageBuffer
from synceventsd.web.tokens import mint
from synceventsd.web.ws import NewFilter, Refused, read_command

KEY = b"k" * 32
UPGRADE = (
    b"GET /integrations/events/ws/42 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n%b\r\n"
)


@asynccontextmanager
async def socket_of(site: Site, path: str, *headers: tuple[bytes, bytes]) -> AsyncIterator[WebSocketConnection]:
    """A client on a stream of our own: the library leaves its own open when the server closes first."""
    host = f"127.0.0.1:{site.port}"
    async with await trio.open_tcp_stream("127.0.0.1", site.port) as stream, trio.open_nursery() as nursery:
        socket = await wrap_client_stream(nursery, stream, host, path, extra_headers=list(headers))
        async with socket:
            yield socket


async def take(socket: WebSocketConnection, count: int) -> list[dict[str, Any]]:
    return [json.loads(await socket.get_message()) for _ in range(count)]


def code_of(closed: ConnectionClosed) -> int:
    assert closed.reason is not None
    return int(closed.reason.code)


async def refused(site: Site, path: str, *headers: bytes) -> int:
    """The status of an upgrade that is refused, and closed by the server."""
    request = UPGRADE.replace(b"/integrations/events/ws/42", path.encode()) % b"".join(b"%b\r\n" % h for h in headers)
    answer = await site.exchange(request)
    assert b'{"success":false,"message":"' in answer
    return int(answer.split()[1])


async def test_a_socket_gets_replay_then_live_events_and_can_resume(site_of: SiteOpener) -> None:
    async with site_of() as site:
        await site.publish(event(1), event(2, 7), event(3, None))
        async with socket_of(site, "/integrations/events/ws/42") as socket:
            established, first, _ = await take(socket, 3)
            await site.publish(event(4))
            (live,) = await take(socket, 1)
        assert established["event"] == "connection_established"
        assert set(established) == {"event", "id", "message", "connection_id", "timestamp"}
        assert set(first) == {"event", "id", "payload"}
        assert first["event"] == CREATED
        assert first["payload"]["data"] == {"order_id": "o1"}
        assert live["payload"]["seq"] == 4
        async with socket_of(site, f"/integrations/events/ws/42?last_event_id={first['id']}") as socket:
            assert [message["payload"]["seq"] for message in (await take(socket, 3))[1:]] == [3, 4]


async def test_a_socket_that_cannot_go_on_is_told_of_the_gap(site_of: SiteOpener) -> None:
    async with site_of() as site, socket_of(site, "/integrations/events/ws/42?last_event_id=17") as socket:
        gap = (await take(socket, 2))[1]
        assert gap == {"event": "gap", "id": gap["id"], "reason": "invalid_id", "resumes_at_seq": 1}


async def test_a_filter_holds_from_the_next_event_on_and_never_opens_another_business(site_of: SiteOpener) -> None:
    async with site_of(keep_alive=0.02) as site, socket_of(site, "/integrations/events/ws/42") as socket:
        await take(socket, 1)
        await socket.send_message(json.dumps({"filter": {"integration_id": 14, "order_ids": None}}))
        await socket.send_message('{"no": 1}')
        while (await take(socket, 1))[0]["event"] != "error":
            pass  # in order: the filter before it is in force as well
        await site.publish(event(1), event(2, 7, integration_id=14), event(3, integration_id=14))
        while (message := (await take(socket, 1))[0])["event"] == "keep-alive":
            pass
        assert message["payload"]["seq"] == 3


@pytest.mark.parametrize(
    "message",
    [
        "",
        "no",
        "[]",
        "{}",
        '{"filter":null}',
        '{"filter":{"business_id":7}}',
        '{"filter":{"integration_id":"13"}}',
        '{"filter":{"integration_id":-1}}',
        '{"filter":{"integration_id":4294967296}}',
        '{"filter":{"integration_id":1.5}}',
        '{"filter":{"event_types":"a"}}',
        '{"filter":{"event_types":[1]}}',
        '{"filter":{},"x":1}',
        "[" * 20000,
        b"{}",
    ],
    ids=range(15),
)
async def test_a_message_that_is_no_filter_is_told_and_changes_nothing(site_of: SiteOpener, message: str) -> None:
    async with site_of() as site, socket_of(site, "/integrations/events/ws/42?event_types=" + CREATED) as socket:
        await take(socket, 1)
        await socket.send_message(message)
        assert (await take(socket, 1))[0]["event"] == "error"
        await site.publish(event(1, event_type="integration.sync.failed"), event(2))
        assert (await take(socket, 1))[0]["payload"]["seq"] == 2


def test_a_filter_is_read_strictly() -> None:
    text = '{"filter":{"integration_id":13,"event_types":["a"],"order_ids":[]}}'
    assert read_command(text) == NewFilter(13, frozenset({"a"}), frozenset())
    assert read_command('{"filter":{}}') == NewFilter()


@given(st.text() | st.binary())
def test_any_message_is_understood_or_refused(message: str | bytes) -> None:
    assert isinstance(read_command(message), (NewFilter, Refused))


async def test_a_quiet_socket_gets_keep_alives_with_its_position(site_of: SiteOpener) -> None:
    async with site_of(keep_alive=0.02) as site, socket_of(site, "/integrations/events/ws/42") as socket:
        established, quiet = await take(socket, 2)
        assert quiet == {"event": "keep-alive", "id": established["id"]}


async def test_a_socket_that_leaves_gives_its_place_back_also_when_idle_and_after_many_messages(
    site_of: SiteOpener,
) -> None:
    async with site_of() as site:
        async with socket_of(site, "/integrations/events/ws/42") as socket:
            for _ in range(100):
                await socket.send_message('{"filter":{}}')
            assert site.hub.streams == 1
        await site.wait_streams(0)
        connection = await site.connect()
        await connection.send_all(UPGRADE % b"")
        await site.wait_streams(1)
        await connection.aclose()
        await site.wait_streams(0)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/integrations/events/ws/abc", 400),
        ("/integrations/events/ws/42?replay=x", 400),
        ("/integrations/events/ws/42/", 404),
        ("/nowhere", 404),
        ("/integrations/events/sse/42", 400),
    ],
)
async def test_a_refusal_comes_before_the_upgrade(site_of: SiteOpener, path: str, status: int) -> None:
    async with site_of() as site:
        assert await refused(site, path) == status


async def test_one_socket_too_many_is_told_to_come_later(site_of: SiteOpener) -> None:
    async with site_of(max_streams=1) as site, socket_of(site, "/integrations/events/ws/42"):
        assert await refused(site, "/integrations/events/ws/42") == 503


async def test_a_plain_request_for_a_socket_is_a_bad_request(site_of: SiteOpener) -> None:
    async with site_of() as site, site.http() as http:
        answer = await http.get("/integrations/events/ws/42")
        assert (answer.status_code, answer.json()["success"]) == (400, False)


async def test_another_origin_is_refused_and_a_listed_one_is_not(site_of: SiteOpener) -> None:
    async with site_of(cors_origins=("https://shop.example",)) as site:
        path = "/integrations/events/ws/42"
        assert await refused(site, path, b"Origin: https://evil.example") == 403
        async with socket_of(site, path, (b"Origin", b"https://shop.example")) as socket:
            await take(socket, 1)
        own = f"http://127.0.0.1:{site.port}".encode()
        async with socket_of(site, path, (b"Origin", own)) as socket:
            await take(socket, 1)


async def test_a_token_opens_its_business_and_its_end_closes_the_socket(site_of: SiteOpener) -> None:
    now = [1_800_000_000.0]
    async with site_of(secret=KEY, keep_alive=0.02, wall_clock=lambda: now[0]) as site:
        token = b"Bearer " + mint(KEY, [42], 60, now[0]).encode()
        headers = [(b"Authorization", token)]
        assert await refused(site, "/integrations/events/ws/42") == 401
        assert await refused(site, "/integrations/events/ws/7", b"Authorization: " + token) == 403
        assert await refused(site, "/integrations/events/ws", b"Authorization: " + token) == 403
        async with socket_of(site, "/integrations/events/ws/42", *headers) as socket:
            await take(socket, 1)
            now[0] += 61
            with pytest.raises(ConnectionClosed) as info:
                await take(socket, 1000)
        assert code_of(info.value) == 1008


async def test_a_half_closed_socket_has_left(site_of: SiteOpener) -> None:
    async with site_of() as site, await site.connect() as connection:
        await connection.send_all(UPGRADE % b"")
        await site.wait_streams(1)
        await connection.send_eof()
        await site.wait_streams(0)


async def test_closing_the_hub_says_going_away(site_of: SiteOpener) -> None:
    async with site_of() as site, socket_of(site, "/integrations/events/ws/42") as socket:
        await take(socket, 1)
        await site.shut()
        with pytest.raises(ConnectionClosed) as info:
            await take(socket, 1)
        assert code_of(info.value) == 1001


@pytest.mark.parametrize(
    "extra", [b"\x81\x80\0\0\0\0", b"\x88\x80\0\0\0\0", b"x", b"\xff" * 300, b"GET / HTTP/1.1\r\n\r\n", b"\0"]
)
async def test_bytes_right_after_the_upgrade_hurt_nobody(site_of: SiteOpener, extra: bytes) -> None:
    async with site_of() as site, site.stream("/integrations/events/sse/42") as other:
        await other.take(1)
        for _ in range(5):
            async with await site.connect() as connection:
                await connection.send_all(UPGRADE % b"" + extra)
                await read_all(connection)
        await site.publish(event(1))
        await other.take(1)


@pytest.mark.parametrize(
    "frame", [b"\xff\xff\xff", b"\x83\x80\0\0\0\0", b"\x81\x05hello", b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
)
async def test_a_broken_frame_ends_that_socket_only(site_of: SiteOpener, frame: bytes) -> None:
    async with site_of() as site, site.stream("/integrations/events/sse/42") as other:
        await other.take(1)
        async with await site.connect() as connection:
            await connection.send_all(UPGRADE % b"")
            await site.wait_streams(2)
            await connection.send_all(frame)
            await read_all(connection)
        await site.wait_streams(1)
        await site.publish(event(1))
        await other.take(1)


async def test_a_message_without_end_is_cut_off(site_of: SiteOpener) -> None:
    async with site_of() as site:
        async with await site.connect() as connection:
            await connection.send_all(UPGRADE % b"")
            await site.wait_streams(1)
            with pytest.raises(trio.BrokenResourceError):  # noqa: PT012 (which of the sends fails is the kernel's matter)
                while True:
                    await connection.send_all(b"\x01\xfe\xff\xff\0\0\0\0" + b"a" * 65535)
        await site.wait_streams(0)


async def test_compression_is_never_agreed_to(site_of: SiteOpener) -> None:
    async with site_of() as site, await site.connect() as connection:
        await connection.send_all(UPGRADE % b"Sec-WebSocket-Extensions: permessage-deflate\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += await connection.receive_some()
        assert head.startswith(b"HTTP/1.1 101")
        assert not re.search(rb"(?i)sec-websocket-extensions", head)


async def test_a_message_without_an_end_ends_the_socket_and_is_not_kept(site_of: SiteOpener) -> None:
    """The client never agrees to the close, and goes on sending."""
    async with site_of() as site, await site.connect() as client:
        await client.send_all(UPGRADE % b"")
        await client.receive_some()
        await client.send_all(b"\x81\xff" + (2**40).to_bytes(8, "big") + b"\0\0\0\0")

        async def send_for_ever() -> None:
            while True:
                await client.send_all(b"a" * 65536)

        with pytest.raises(trio.BrokenResourceError):
            await send_for_ever()
        await site.wait_streams(0)


def test_what_is_too_large_is_not_kept() -> None:
    buffer = MessageBuffer(10)
    buffer.extend(TextMessage("a" * 10, message_finished=False))
    for _ in range(2):
        with pytest.raises(FrameTooLargeError):
            buffer.extend(TextMessage("b", message_finished=False))
    assert buffer.too_large
    assert buffer.to_message()["text"] == "a" * 10
