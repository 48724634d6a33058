"""The link to Redis: both ways to send decide alike, nothing is half done, and failures are told without secrets."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tests.redis_log import until
from tests.redis_servers import BINARIES, CHANNEL, RedisServer, each_server, free_port, redis_server, subscriber

from synceventsd.config import RedisConfig
from synceventsd.core.cursor import Answer, Batch, Send, Verdict, decide
from synceventsd.core.errors import RedisUnavailable
from synceventsd.core.positions import Position
from synceventsd.redis_sink import Link, open_link

EPOCH, OTHER = "aaaaaaaaaa", "bbbbbbbbbb"
KEY = "synceventsd:cursor:{log}"
SECRET = "s3cr3t-in-no-message"


@pytest.fixture(params=each_server())
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(request.param) as server:
        yield server


@pytest.fixture(params=["scripts", "transactions"])
def way(request: pytest.FixtureRequest, server: RedisServer) -> str:
    if request.param == "transactions":
        server.run("ACL", "SETUSER", "default", "-eval", "-evalsha")
    return str(request.param)


def link_to(url: str, **more: Any) -> Any:
    return open_link(RedisConfig(url=url, **({"timeout": 10.0} | more)), "log", trio.CapacityLimiter(1))


def batch(first: int, *lines: bytes, known: int = 1000) -> Batch:
    return Batch(EPOCH, known, first, lines)


async def refused(link: Link, wanted: Batch) -> RedisUnavailable:
    with pytest.raises(RedisUnavailable) as caught:
        await link.deliver(wanted)
    return caught.value


async def no_link(url: str, **more: Any) -> RedisUnavailable:
    with pytest.raises(RedisUnavailable) as caught:
        async with link_to(url, **more) as link:
            await link.read_cursor()
    assert SECRET not in str(caught.value)
    return caught.value


CURSORS = [None, "", "x", EPOCH, f"{EPOCH}-", f"{EPOCH}-0", f"{EPOCH}-3", f"{EPOCH}-5", f"{EPOCH}-9", f"{OTHER}-5"]


@pytest.mark.parametrize("raw", CURSORS)
async def test_scripts_and_transactions_decide_as_written_down_in_core(
    server: RedisServer, way: str, raw: str | None
) -> None:
    with subscriber(server) as listener:
        async with link_to(server.url) as link:
            for first in (1, 4, 6, 8):
                for count in (0, 1, 3):
                    for known in (0, 5, 20):
                        wanted = batch(first, *(b"%d" % (first + n) for n in range(count)), known=known)
                        server.run("DEL", KEY) if raw is None else server.run("SET", KEY, raw)
                        listener.heard.clear()
                        found = await link.deliver(wanted)
                        server.run("PUBLISH", CHANNEL, "end")
                        await until(lambda: listener.heard[-1:] == [b"end"])
                        decision = decide(None if raw is None else raw.encode(), wanted)
                        if isinstance(decision, Send):
                            assert found == Answer(Verdict.DONE, wanted.last)
                            assert listener.heard[:-1] == list(wanted.lines[decision.skip :])
                            assert server.run("GET", KEY) == f"{EPOCH}-{wanted.last}".encode()
                        else:
                            assert found == decision
                            assert listener.heard == [b"end"]
                            assert server.run("GET", KEY) == (None if raw is None else raw.encode())


async def test_a_claim_takes_only_the_cursor_that_was_read(server: RedisServer, way: str) -> None:
    async with link_to(server.url) as link:
        for held in (None, b"", b"rubbish", f"{OTHER}-7".encode(), f"{EPOCH}-9".encode()):
            server.run("DEL", KEY) if held is None else server.run("SET", KEY, held)
            for expected in (b"-", b"=", b"something else", f"{EPOCH}-8".encode()):
                found = await link.claim(expected, Position(EPOCH, 4))
                assert found.verdict is Verdict.MOVED
                assert server.run("GET", KEY) == held
            assert await link.read_cursor() == held
            assert (await link.claim(held, Position(EPOCH, 4))) == Answer(Verdict.DONE, 4)
            assert server.run("GET", KEY) == f"{EPOCH}-4".encode()


async def test_payloads_of_any_bytes_and_numbers_up_to_two_to_the_fifty_third_survive(
    server: RedisServer, way: str
) -> None:
    lines = [b"", b"\x00\xff\r\n", "ü€".encode(), b"%s %d", b"x" * 300_000]
    first = 2**53 - 10
    with subscriber(server) as listener:
        async with link_to(server.url) as link:
            await link.claim(None, Position(EPOCH, first - 1))
            answer = await link.deliver(batch(first, *lines, known=first))
            assert answer == Answer(Verdict.DONE, first + 4)
            assert server.run("GET", KEY) == f"{EPOCH}-{first + 4}".encode()
            await until(lambda: len(listener.heard) >= len(lines))
    assert listener.heard == lines


async def test_a_channel_that_is_forbidden_leaves_the_cursor_at_what_is_out(server: RedisServer, way: str) -> None:
    server.run("SET", KEY, f"{EPOCH}-3")
    server.run("ACL", "SETUSER", "default", "resetchannels", "&other")
    async with link_to(server.url) as link:
        error = await refused(link, batch(4, b"4", b"5"))
    assert error.reason == "noperm"
    assert server.run("GET", KEY) == f"{EPOCH}-3".encode()


async def test_a_key_of_another_type_is_told_with_the_remedy(server: RedisServer, way: str) -> None:
    server.run("LPUSH", KEY, "x")
    async with link_to(server.url) as link:
        error = await refused(link, batch(1, SECRET.encode()))
    assert (error.reason, "delete that key" in str(error)) == ("wrongtype", True)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (("-publish",), "noperm"),
        (("-get",), "noperm"),
        (("resetkeys",), "noperm"),
        (("-eval", "-evalsha", "-multi"), "noperm"),
        (("-eval", "-evalsha", "-exec"), "noperm"),
        (("-eval", "-evalsha", "-watch"), "noperm"),
    ],
)
async def test_what_is_not_permitted_is_told_and_publishes_nothing(
    server: RedisServer, rules: tuple[str, ...], told: str
) -> None:
    server.run("SET", KEY, f"{EPOCH}-0")
    server.run("ACL", "SETUSER", "bridge", "on", f">{SECRET}", "~*", "&*", "+@all", *rules)
    with subscriber(server) as listener:
        async with link_to(server.url.replace("//", f"//bridge:{SECRET}@")) as link:
            error = await refused(link, batch(1, b"payload-of-one", b"payload-of-two"))
        server.run("PUBLISH", CHANNEL, "end")
        await until(lambda: listener.heard)
    assert listener.heard == [b"end"]
    assert server.run("GET", KEY) == f"{EPOCH}-0".encode()
    assert error.reason == told
    assert not any(text in str(error) for text in (SECRET, "payload"))


async def test_a_server_whose_script_commands_are_renamed_away_gets_transactions() -> None:
    name = next(iter(BINARIES), None)
    if name is None:
        pytest.skip("no server")
    with redis_server(name, "--rename-command", "EVALSHA", "", "--rename-command", "EVAL", "") as server:
        async with link_to(server.url) as link:
            await link.claim(None, Position(EPOCH, 0))
            assert await link.deliver(batch(1, b"one")) == Answer(Verdict.DONE, 1)


async def test_tcp_and_a_numbered_database_work(server: RedisServer) -> None:
    with redis_server(next(iter(BINARIES)), tcp=True) as reached:
        async with link_to(reached.url.replace("/0", "/3")) as link:
            await link.claim(None, Position(EPOCH, 5))
        assert reached.run("GET", KEY) is None
        assert reached.client(db=3).get(KEY) == f"{EPOCH}-5".encode()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"redis://:{SECRET}@127.0.0.1:1/0", "refused"),
        (f"unix://user:{SECRET}@/nowhere/redis.sock", "refused"),
        (f"redis://:{SECRET}@nowhere.invalid/0", "dns"),
        (f"redis://:{SECRET}@{'x' * 64}.invalid/0", "dns"),
        (f"rediss://:{SECRET}@127.0.0.1:1/0?ssl_ca_certs=/nowhere", "refused"),
    ],
)
async def test_what_cannot_be_reached_is_told_without_the_password(url: str, reason: str) -> None:
    error = await no_link(url)
    assert error.reason == reason
    assert "***" in str(error)


async def test_a_database_that_does_not_exist_is_told(server: RedisServer) -> None:
    error = await no_link(server.url + "?db=9999")
    assert (error.reason, "no such database" in str(error)) == ("other", True)


@pytest.mark.parametrize("fault", ["missing", "empty"])
async def test_a_password_file_that_cannot_be_used_is_told(tmp_path: Path, fault: str) -> None:
    file = tmp_path / "password"
    if fault == "empty":
        file.touch()
    error = await no_link("redis://127.0.0.1:1/0", password_file=file)
    assert (error.reason, "redis.password_file" in str(error)) == ("auth", True)


async def test_a_password_where_none_is_set_is_told(server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(SECRET)
    with redis_server(next(iter(BINARIES))) as other:
        error = await no_link(other.url, password_file=tmp_path / "password")
    assert error.reason == "auth"


async def test_too_many_clients_are_told(server: RedisServer) -> None:
    with server.client() as client:  # of one connection; one that was closed just now may still count
        client.config_set("maxclients", 1)
        error = await no_link(server.url)
    # Redis says why and closes; whether its words or the end come first is the system's affair.
    assert error.reason in {"maxclients", "closed"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "protocol"),
        (b"", "closed"),
        (b"-MOVED 3999 127.0.0.1:6381\r\n", "cluster"),
        (b"-CLUSTERDOWN The cluster is down\r\n", "cluster"),
        (b"-BUSY Redis is busy running a script.\r\n", "busy"),
        (b"-MASTERDOWN Link with MASTER is down\r\n", "readonly"),
        (b"-ERR unknown command `GET`, with args beginning with: `s3cr3t-in-no-message`\r\n", "other"),
        (b"-WHATEVER happened\r\n", "other"),
    ],
)
async def test_every_answer_becomes_a_reason(answer: bytes, reason: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                with suppress(OSError):
                    peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert (await no_link(f"unix://{tmp_path}/s")).reason == reason
        thread.join()


async def test_a_server_that_does_not_speak_tls_is_told_as_that() -> None:
    with redis_server(next(iter(BINARIES)), tcp=True) as server:
        error = await no_link(server.url.replace("redis://", "rediss://"), timeout=0.5)
    assert error.reason in {"tls", "closed", "timeout"}


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that speaks TLS, with a certificate of its own making in `certificate`."""
    if "redis-system" not in BINARIES or shutil.which("openssl") is None:
        pytest.skip("no server with TLS here")
    made = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key", "-out", tmp_path / "certificate"]
    subprocess.run(["openssl", "req", "-x509", *made], check=True, capture_output=True)
    files = [f"--tls-{name}-file" for name in ("cert", "key", "ca-cert")]
    port = free_port()
    options = [files[0], tmp_path / "certificate", files[1], tmp_path / "key", files[2], tmp_path / "certificate"]
    try:
        with redis_server(
            "redis-system", *map(str, options), "--tls-port", str(port), "--tls-auth-clients", "no"
        ) as server:
            server.port = port
            yield server
    except ChildProcessError:
        pytest.skip("this server was built without TLS")


async def test_tls_works_and_a_hung_server_can_be_cancelled_there_too(tls_server: RedisServer, tmp_path: Path) -> None:
    url = tls_server.url.replace("redis://", "rediss://") + f"?ssl_ca_certs={tmp_path}/certificate"
    async with link_to(url, timeout=3600.0) as link:
        await link.claim(None, Position(EPOCH, 0))
        assert await link.deliver(batch(1, b"one", b"x" * 200_000)) == Answer(Verdict.DONE, 2)
        tls_server.pause()
        with trio.move_on_after(0.1) as scope:
            await link.deliver(batch(3, b"three"))
        assert scope.cancelled_caught
        tls_server.resume()
    async with link_to(url) as link:
        raw = await link.read_cursor()
        assert raw in (f"{EPOCH}-2".encode(), f"{EPOCH}-3".encode())
        tls_server.run("CLIENT", "KILL", "TYPE", "normal")
        await link.wait_stirring()


async def test_a_certificate_that_nobody_vouches_for_is_told(tls_server: RedisServer) -> None:
    error = await no_link(tls_server.url.replace("redis://", "rediss://"))
    assert (error.reason, "ssl_ca_certs" in str(error)) == ("tls", True)


async def test_a_server_that_never_answers_is_a_timeout_also_on_a_unix_socket_with_a_full_queue(
    tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        waiting.connect(str(tmp_path / "s"))
        assert (await no_link(f"unix://{tmp_path}/s", timeout=0.1)).reason == "timeout"


async def test_a_cancelled_call_comes_back_though_redis_hangs(server: RedisServer) -> None:
    async with link_to(server.url, timeout=3600.0) as link:
        await link.claim(None, Position(EPOCH, 0))
        server.pause()
        with trio.move_on_after(0.1) as scope:
            await link.deliver(batch(1, b"one"))
        assert scope.cancelled_caught
        server.resume()
        with pytest.raises(RedisUnavailable):
            await link.deliver(batch(1, b"one"))


async def test_a_connection_that_redis_closes_stirs(server: RedisServer) -> None:
    async with link_to(server.url) as link:
        await link.read_cursor()
        server.run("CLIENT", "KILL", "TYPE", "normal")
        await link.wait_stirring()
        with pytest.raises(RedisUnavailable) as caught:
            await link.read_cursor()
    assert caught.value.reason == "closed"


class Peer:
    """Something at Redis' place that does only what the event loop tells it to: were that held up, nothing would."""

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.setblocking(False)
        self._accepted: list[socket.socket] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *self._accepted):
            sock.close()

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.wait_readable(self._listener)
        sock, _ = self._listener.accept()
        self._accepted.append(sock)
        return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with Peer(tmp_path / "s") as peer:
        yield peer


async def test_a_reply_in_pieces_holds_up_nobody(peer: Peer) -> None:
    async def answer(link: Link) -> None:
        found.append(await link.read_cursor())

    found: list[bytes | None] = []
    async with link_to(peer.url, timeout=3600.0) as link, trio.open_nursery() as nursery:
        stream = await peer.accept()
        nursery.start_soon(answer, link)
        await stream.receive_some()
        for piece in (b"$1", b"0\r", b"\n01234", b"56789", b"\r"):
            await stream.send_all(piece)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not found
        await stream.send_all(b"\n")
    assert found == [b"0123456789"]


async def test_a_batch_that_nobody_takes_holds_up_nobody_and_is_given_up_in_time(peer: Peer) -> None:
    async with link_to(peer.url, timeout=0.1) as link:
        stream = await peer.accept()
        error = await refused(link, batch(1, b"x" * 2**23))
        assert error.reason == "timeout"
        sent = 0
        with trio.move_on_after(0.1):
            while data := await stream.receive_some(2**20):
                sent += len(data)
    assert 0 < sent < 2**23


async def test_what_takes_long_but_gets_on_is_not_given_up(peer: Peer) -> None:
    """The time limit is on Redis' silence, not on a batch."""

    async def take(stream: trio.SocketStream) -> None:
        left = size
        while left > 0:
            await trio.sleep(0.1)
            left -= len(await stream.receive_some(2**20))  # 208 KiB at most: what a Unix socket holds
        for piece in (b"*2\r\n", b"$4\r\ndone\r\n", b":1\r\n"):
            await trio.sleep(0.1)
            await stream.send_all(piece)

    size = 2**22
    async with link_to(peer.url, timeout=1.5) as link, trio.open_nursery() as nursery:
        nursery.start_soon(take, await peer.accept())
        assert await link.deliver(batch(1, b"x" * size)) == Answer(Verdict.DONE, 1)
