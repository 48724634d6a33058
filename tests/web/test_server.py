"""No client of HTTP can end the server, hold up its stop, or take from the others."""

from __future__ import annotations

import errno
import os
import resource
import socket
from functools import partial
from pathlib import Path
from typing import Any

import h11
import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from web_site import LIMIT, Site, SiteOpener, event, read_all

from synceventsd.config import Config, HttpConfig, TcpBind, UnixBind
from synceventsd.core.errors import StartupError
from synceventsd.web import connection as connection_module
from synceventsd.web import serve_web
from synceventsd.web import server as server_module
from synceventsd.web.server import serve

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
STREAM = b"GET /integrations/events/sse/42?replay=100000 HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def still_serves(site: Site) -> None:
    async with site.http() as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}


HOSTILE = [
    b"\0" * 1000,
    b"\xff" * 70_000,
    b"GET",
    b"GET / HTTP/1.1\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\r\n" * 5000,
    b"A" * 100_000,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000,
    b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 100,
    GET[:-2] + b"Content-Length: -1\r\n\r\n",
    GET[:-2] + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    GET[:-2] + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    GET + b"\xff\xff\r\n\r\n",
    STREAM + b"\xff" * 200_000,
    GET.replace(b"GET", b"POST")[:-2] + b"Content-Length: 9999999\r\n\r\n" + b"x" * 300_000,
    GET.replace(b"/healthz", b"http://[::1"),
    GET[:-2]
    + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
    GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 500,
]


@pytest.mark.parametrize("request_bytes", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("ending", ["close", "reset", "half"])
async def test_hostile_bytes_hurt_nobody_else(site_of: SiteOpener, request_bytes: bytes, ending: str) -> None:
    async with site_of() as site, site.stream("/integrations/events/sse/42") as other:
        await other.take(1)
        for _ in range(3):
            client = await site.connect()
            try:
                await client.send_all(request_bytes)
                if ending == "half":
                    await client.send_eof()
                    await read_all(client)
            except trio.BrokenResourceError:
                pass  # the server had enough of it before we had
            if ending == "reset":
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # type: ignore[attr-defined]
            await client.aclose()
        await site.publish(event(1))
        await other.take(1)
        await still_serves(site)


async def test_a_half_closed_client_gets_its_answer(site_of: SiteOpener) -> None:
    async with site_of() as site, await site.connect() as client:
        await client.send_all(GET)
        await client.send_eof()
        assert (await read_all(client)).endswith(b'{"status":"ok"}')


async def test_a_half_closed_reader_of_a_stream_has_left(site_of: SiteOpener) -> None:
    async with site_of() as site, site.stream("/integrations/events/sse/42") as reader:
        await reader.stream.send_eof()  # type: ignore[attr-defined]
        await site.wait_streams(0)


async def test_pipelined_requests_are_answered_in_order(site_of: SiteOpener) -> None:
    async with site_of() as site, await site.connect() as client:
        await client.send_all(GET * 3 + GET[:-2] + b"Connection: close\r\n\r\n")
        assert (await read_all(client)).count(b'{"status":"ok"}') == 4


async def read_live(site: Site, version: bytes) -> bytes:
    """Open a stream; return all that comes until an event that was published while it waited, and a second one."""
    await site.publish(event(1))
    async with await site.connect() as client:
        await client.send_all(STREAM.replace(b"HTTP/1.1", b"HTTP/" + version))
        found = b""
        for number in (1, 2, 3):
            while b'"seq":%d}\n\n' % number not in found:
                found += await client.receive_some()
            await wait_all_tasks_blocked()
            await site.publish(event(number + 1))
        site.hub.close()
        return found + await read_all(client)


async def test_an_http_1_0_client_can_read_a_stream(site_of: SiteOpener) -> None:
    async with site_of() as site:
        head, _, body = (await read_live(site, b"1.0")).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert b"\r\n" not in body
        assert body.count(b"\nevent: integration") >= 3


async def test_an_http_client_of_a_later_minor_version_gets_http_1_1(site_of: SiteOpener) -> None:
    async with site_of() as site:
        answer = await read_live(site, b"1.2")
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(answer)
        while not isinstance(found := reader.next_event(), h11.EndOfMessage):
            assert found is not h11.NEED_DATA


async def test_the_offer_of_http2_is_not_taken(site_of: SiteOpener) -> None:
    async with site_of() as site:
        asked = (
            GET[:-2] + b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
        )
        assert (await site.exchange(asked)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("started", [b"", b"GET /healthz HTTP/1.1\r\nHost: lo", GET])
async def test_a_connection_without_a_complete_request_is_closed_after_a_while(
    site_of: SiteOpener, monkeypatch: pytest.MonkeyPatch, started: bytes
) -> None:
    monkeypatch.setattr(connection_module, "HEAD_TIMEOUT", 0.05)
    async with site_of() as site, site.stream("/integrations/events/sse/42") as reader:
        async with await site.connect() as client:
            await client.send_all(started)
            await read_all(client)
        await site.publish(event(1))
        assert len(await reader.take(2)) == 2  # a stream waits for no request


async def test_a_byte_now_and_then_does_not_renew_the_time_for_a_head(
    site_of: SiteOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "HEAD_TIMEOUT", 0.2)
    async with site_of() as site, await site.connect() as client:
        await client.send_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ")

        async def trickle() -> None:
            while True:
                await client.send_all(b"a")
                await trio.sleep(0.02)

        with pytest.raises(trio.BrokenResourceError):
            await trickle()


async def fill(site: Site, size: int = 16_000_000) -> None:
    """More than the buffers of two sockets hold."""
    text = "x" * 200_000
    await site.publish(*(event(number, data={"text": text}) for number in range(size // len(text))))


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_reader_that_takes_nothing_is_cut_off(site_of: SiteOpener, tmp_path: Path, kind: str) -> None:
    bind = {"bind": UnixBind(tmp_path / "http")} if kind == "unix" else {}
    async with site_of(send_timeout=0.2, **bind) as site:
        await fill(site)
        async with await site.connect() as client:
            await client.send_all(STREAM)
            await site.wait_streams(1)
            await site.wait_streams(0)


async def test_a_reader_that_takes_a_little_now_and_then_is_not_cut_off(site_of: SiteOpener) -> None:
    async with site_of(send_timeout=0.3) as site:
        await fill(site)
        async with await site.connect() as client:
            await client.send_all(STREAM)
            for _ in range(10):
                await trio.sleep(0.1)
                for _ in range(4):
                    assert await client.receive_some(65536)
            assert site.hub.streams == 1


async def test_the_stop_waits_for_no_reader_beyond_the_grace(site_of: SiteOpener) -> None:
    async with site_of(grace=0.3) as site:
        await fill(site)
        clients = [await site.connect() for _ in range(5)]
        for client in clients:
            await client.send_all(STREAM)
        await site.wait_streams(5)
        idle = [await site.connect() for _ in range(5)]
        await idle[0].send_all(GET)
        await idle[1].send_all(b"GET /")
        with trio.fail_after(LIMIT / 2):
            await site.shut()
        for client in clients + idle:
            await client.aclose()


async def test_the_stop_of_clients_that_close_takes_no_grace(site_of: SiteOpener) -> None:
    async with site_of(grace=3600.0) as site:
        async with await site.connect() as idle, await site.connect() as kept, await site.connect() as client:
            await kept.send_all(GET)
            assert await kept.receive_some()
            await client.send_all(STREAM)
            await site.wait_streams(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(site.shut)
                for stream in (idle, kept, client):
                    await read_all(stream)
                    await stream.aclose()
        assert site.hub.streams == 0


async def test_after_the_stop_nobody_is_accepted(site_of: SiteOpener) -> None:
    async with site_of() as site:
        await site.shut()
        with pytest.raises(OSError, match="all attempts to connect"):
            await site.connect()


async def test_descriptors_running_out_are_survived(site_of: SiteOpener) -> None:
    async with site_of() as site:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        clients: list[socket.socket] = [socket.socket() for _ in range(20)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 4, hard))
        try:
            for client in clients:
                client.setblocking(False)
                assert client.connect_ex(("127.0.0.1", site.port)) in (0, errno.EINPROGRESS)
            await trio.sleep(0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for client in clients:
                client.close()
        await still_serves(site)


async def test_connections_beyond_the_limit_are_closed_and_the_others_are_served(
    site_of: SiteOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "SPARE_CONNECTIONS", 1)
    async with site_of(max_streams=1) as site, site.stream("/integrations/events/sse/42") as reader:
        async with await site.connect() as second:
            await second.send_all(GET)
            assert await second.receive_some()
            assert await site.exchange(b"") == b""
            await site.publish(event(1))
            assert len(await reader.take(2)) == 2
        await still_serves(site)


async def test_an_app_that_fails_gives_a_500_and_a_log_line_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise RuntimeError("a fault of ours")

    stop = trio.Event()
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            config = HttpConfig(bind=TcpBind("127.0.0.1", 0))
            (address,) = await nursery.start(partial(serve, app, config, stop=stop, grace=5.0, on_refused=print))
            for path, expected in ((b"/", b"HTTP/1.1 500"), (b"/late", b"HTTP/1.1 200"), (b"/", b"HTTP/1.1 500")):
                async with await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2])) as client:
                    await client.send_all(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    answer = await read_all(client)
                    assert answer.startswith(expected)
                    assert not answer.endswith(b"0\r\n\r\n")
            stop.set()
    assert "a fault of ours" in capsys.readouterr().out


async def test_the_peer_of_a_unix_socket_is_known() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"]["peercred"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    near, far = socket.socketpair()
    near.close()
    far.close()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0synceventsd-test-{os.getpid()}")
    name, stop = listener.getsockname(), trio.Event()
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, app, HttpConfig(), [listener], stop=stop, grace=5.0, on_refused=print))
            client = trio.SocketStream(trio.socket.socket(socket.AF_UNIX))
            async with client:
                await client.socket.connect(name)
                await client.send_all(GET)
                await client.receive_some()
            stop.set()
    assert seen == [(os.getpid(), os.getuid(), os.getgid())]


async def bound(bind: TcpBind | UnixBind, handed: list[socket.socket] | None = None) -> list[str]:
    """Where a server with that setting listens; it is stopped again."""
    stop = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nobody asks")

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            found: list[str] = await nursery.start(
                partial(serve, app, HttpConfig(bind=bind), handed, stop=stop, grace=1.0, on_refused=print)
            )
            if isinstance(bind, UnixBind):
                assert bind.path.stat().st_mode & 0o777 == 0o660
            await wait_all_tasks_blocked()
            stop.set()
    return found


async def refusal(bind: TcpBind | UnixBind) -> str:
    with pytest.raises(StartupError) as info:
        await serve(None, HttpConfig(bind=bind), stop=trio.Event(), grace=1.0, on_refused=print)  # type: ignore[arg-type]
    return str(info.value)


async def test_a_unix_socket_is_made_for_owner_and_group_replaced_when_dead_and_removed_at_the_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "http"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert await bound(UnixBind(path)) == [f"unix:{path}"]
    assert not path.exists()


async def test_a_unix_path_that_is_taken_is_left_alone_and_told(tmp_path: Path) -> None:
    path = tmp_path / "http"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        assert "http.bind" in await refusal(UnixBind(path))
    path.unlink()
    path.write_text("precious")
    assert "http.bind" in await refusal(UnixBind(path))
    assert path.read_text() == "precious"


async def test_an_address_that_cannot_be_used_is_told_with_its_setting_and_a_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = TcpBind("127.0.0.1", taken.getsockname()[1])
        assert (await refusal(bind)).startswith(f"http.bind = {bind}: Address already in use; ")
    assert "192.0.2.1" in await refusal(TcpBind("192.0.2.1", 8787))
    assert "http.bind" in await refusal(TcpBind("no-such-host.invalid", 8787))


async def test_a_name_with_several_addresses_gets_one_port_for_all() -> None:
    ports = {address.rpartition(":")[2] for address in await bound(TcpBind("localhost", 0))}
    assert len(ports) == 1


async def test_a_socket_from_systemd_is_used_as_it_is() -> None:
    with socket.socket() as handed:
        handed.bind(("127.0.0.1", 0))
        handed.listen()
        port = handed.getsockname()[1]
        assert await bound(TcpBind("127.0.0.1", 1), [handed]) == [f"http://127.0.0.1:{port}"]


async def test_a_socket_from_systemd_that_others_can_reach_needs_a_key() -> None:
    nothing: Any = None
    with socket.socket() as handed:
        handed.bind(("0.0.0.0", 0))
        with pytest.raises(StartupError, match=r"http\.token_secret_file = none"):
            await serve_web(Config(), nothing, nothing, nothing, None, [handed], trio.Event())


async def test_a_restart_on_the_same_port_does_not_wait_for_old_connections(site_of: SiteOpener) -> None:
    async with site_of() as site:
        async with site.stream("/integrations/events/sse/42"):
            await site.shut()
        port = site.port
    async with site_of(bind=TcpBind("127.0.0.1", port)) as site:
        await still_serves(site)
