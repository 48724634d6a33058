"""Clients that do anything at all, many at once: nobody is hurt, no fault is logged, nothing is left behind."""

from __future__ import annotations

import random
import socket

import pytest
import trio
from web_site import Site, SiteOpener, event

HOST = b"Host: localhost\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
STREAM = b"GET /integrations/events/sse/42?replay=5000 HTTP/1.1\r\n" + HOST + b"\r\n"
SOCKET = (
    b"GET /integrations/events/ws/42 HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PARTS = [
    GET,
    STREAM,
    STREAM,
    SOCKET,
    SOCKET,
    b"junk\r\n\r\n",
    b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n" + b"x" * 50_000,
    b"HEAD /status HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    b"\x81\x80\0\0\0\0",
    b"\x88\x80\0\0\0\0",
    b"\x89\x80\0\0\0\0",
    b'\x81\x8d\0\0\0\0{"filter":{}}',
    b"\xff\x00",
]
RESET = b"\1\0\0\0\0\0\0\0"


async def misbehave(site: Site, chance: random.Random) -> None:
    """Send some valid and some broken pieces, read now and then, and leave in one of several ways."""
    async with await trio.open_tcp_stream("127.0.0.1", site.port) as client:
        try:
            for _ in range(chance.randint(1, 5)):
                data = chance.choice(PARTS) if chance.random() < 0.9 else chance.randbytes(chance.randint(1, 3000))
                cut = chance.randint(0, len(data)) if chance.random() < 0.3 else len(data)
                await client.send_all(data[:cut])
                await client.send_all(data[cut:])
                with trio.move_on_after(chance.random() * 0.02):
                    await client.receive_some(chance.choice([1, 1000, 65536]))
            if chance.random() < 0.3:
                await client.send_eof()
            with trio.move_on_after(chance.random() * 0.03):
                while await client.receive_some():
                    pass
            if chance.random() < 0.4:
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        except trio.BrokenResourceError:
            pass  # the server had enough


@pytest.mark.parametrize("seed", range(3))
async def test_clients_that_do_anything_hurt_nobody_and_leave_nothing(
    site_of: SiteOpener, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    # Only clients that are still there may use up the grace, and in the end none is.
    async with site_of(keep_alive=0.01, send_timeout=0.2, grace=3600.0) as site:
        await site.publish(*(event(number, data={"text": "x" * 500}) for number in range(2000)))

        async def one_after_the_other(chance: random.Random) -> None:
            for _ in range(15):
                await misbehave(site, chance)

        async with site.stream("/integrations/events/sse/42") as witness:
            await witness.take(2001)
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(one_after_the_other, random.Random(seed * 1000 + number))
            await site.publish(event(0))
            assert (await witness.take(1))[0].data["seq"] == 2001
        await site.wait_streams(0)
        await site.shut()
    assert "Traceback" not in capsys.readouterr().out


async def test_a_reset_behind_a_pipelined_request_ends_the_connection(site_of: SiteOpener) -> None:
    async with site_of(keep_alive=0.01, grace=3600.0) as site:
        for first in (STREAM, GET):
            async with await trio.open_tcp_stream("127.0.0.1", site.port) as client:
                await client.send_all(first + STREAM + b"junk" * 1000)
                await client.receive_some()
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await site.wait_streams(0)
        await site.shut()
