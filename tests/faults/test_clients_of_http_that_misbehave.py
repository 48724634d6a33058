"""Clients of HTTP that send anything, little or nothing, to the real process: nobody else notices, nothing is left."""

from __future__ import annotations

import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from tests.faults.harness import Daemon, a_daemon, envelope, eventually, reading
from tests.faults.measure import FEW_MORE, cpu_seconds, descriptors, rss_mb
from tests.redis_servers import PATIENCE

from syncevents import Publisher

HOST = b"Host: localhost\r\n"
GET = b"GET /status HTTP/1.1\r\n" + HOST + b"\r\n"
STREAM = b"GET /integrations/events/sse/42 HTTP/1.1\r\n" + HOST + b"Last-Event-ID: 7\r\n\r\n"
UPGRADE = (
    b"GET /integrations/events/ws/42 HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CHUNKED = b"POST /status HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"
MASKED = b"\0\0\0\0"
RESET = struct.pack("ii", 1, 0)


def pid_of(daemon: Daemon) -> int:
    assert daemon.process is not None
    return daemon.process.pid


def opened(daemon: Daemon) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", daemon.port))
    client.settimeout(PATIENCE)
    return client


def read_to_the_end(client: socket.socket) -> bytes:
    found = b""
    with suppress(ConnectionResetError):
        while data := client.recv(65536):
            found += data
    return found


@contextmanager
def nothing_left_behind(daemon: Daemon) -> Iterator[None]:
    """Have a reader read meanwhile; in the end it gets an event, and there are no more descriptors than before."""
    with reading(daemon, path="/integrations/events/sse/42") as reader, Publisher(daemon.socket) as publisher:

        def published(number: int) -> None:
            publisher.publish_envelope(envelope(0, number))
            publisher.flush(PATIENCE)
            eventually(lambda: len(reader.seen) == number + 1, "the reader gets the event")

        published(0)
        before, open_before = rss_mb(pid_of(daemon)), descriptors(pid_of(daemon))
        yield
        published(1)
        eventually(lambda: descriptors(pid_of(daemon)) <= open_before + FEW_MORE, "descriptors are given back")
        eventually(lambda: daemon.status()["sse_connections"] == 1, "streams are given back")
        assert rss_mb(pid_of(daemon)) - before < 30
    assert "Traceback" not in daemon.log_text
    assert daemon.stop() == 0


def test_a_request_may_be_cut_anywhere(tmp_path: Path) -> None:
    with a_daemon(tmp_path, "none") as daemon:
        daemon.start()
        with nothing_left_behind(daemon):
            for text in (GET, STREAM, CHUNKED, UPGRADE + b"\x81\x8d" + MASKED + b'{"filter":{}}'):
                for size in range(len(text) + 1):
                    for reset in (False, True):
                        with opened(daemon) as client:
                            client.sendall(text[:size])
                            if reset:
                                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def test_pieces_of_one_byte_make_the_same_request(tmp_path: Path) -> None:
    with a_daemon(tmp_path, "none") as daemon:
        daemon.start()
        with nothing_left_behind(daemon), opened(daemon) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in GET[:-2] + b"Connection: close\r\n\r\n":
                client.sendall(bytes((byte,)))
            assert read_to_the_end(client).startswith(b"HTTP/1.1 200")


@pytest.mark.soak
def test_heads_and_bodies_that_come_too_slowly_keep_nobody_waiting_and_are_cut_off(tmp_path: Path) -> None:
    """A byte now and then does not renew the time for a request's head."""
    with a_daemon(tmp_path, "none") as daemon:
        daemon.start()
        with nothing_left_behind(daemon), ExitStack() as stack:
            heads = [stack.enter_context(opened(daemon)) for _ in range(50)]
            bodies = [stack.enter_context(opened(daemon)) for _ in range(50)]
            for client in heads:
                client.sendall(b"GET /status HTTP/1.1\r\nX-Slow: ")
            for client in bodies:
                client.sendall(b"POST /status HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n")
            waiting, deadline = set(heads) | set(bodies), time.monotonic() + PATIENCE
            while waiting and time.monotonic() < deadline:
                for client in list(waiting):
                    try:
                        client.sendall(b"a")
                    except OSError:
                        waiting.discard(client)
                assert daemon.get("/healthz")[0] == 200
                time.sleep(0.5)
            assert not waiting


FRAMES = {
    "without a mask": b"\x81\x03abc",
    "of no kind": b"\x83\x80" + MASKED,
    "compressed": b"\xc1\x83" + MASKED + b"abc",
    "of bad text": b"\x81\x82" + MASKED + b"\xff\xff",
    "a control frame in pieces": b"\x09\x80" + MASKED,
    "a control frame too long": b"\x89\xfe\x00\x80" + MASKED + b"x" * 128,
    "going on without a beginning": b"\x80\x80" + MASKED,
    "two beginnings": b"\x01\x81" + MASKED + b"a" + b"\x01\x81" + MASKED + b"a",
    "a close of one byte": b"\x88\x81" + MASKED + b"\x03",
    "a close with bad text": b"\x88\x84" + MASKED + b"\x03\xe8\xff\xff",
    "a length with the highest bit": b"\x81\xff\xff" + b"\0" * 7 + MASKED,
    "too large": b"\x81\xff" + (100_000).to_bytes(8, "big") + MASKED + b"a" * 100_000,
    "too large, in small pieces": b"\x01\x81" + MASKED + b"a" + (b"\x00\x81" + MASKED + b"a") * 70_000,
}


def test_frames_that_break_the_rules_of_websocket_end_it_at_once(tmp_path: Path) -> None:
    with a_daemon(tmp_path, "none") as daemon:
        daemon.start()
        with nothing_left_behind(daemon):
            for frame in FRAMES.values():
                with opened(daemon) as client:
                    client.sendall(UPGRADE)
                    assert client.recv(65536).startswith(b"HTTP/1.1 101")
                    with suppress(OSError):  # it had enough before we had sent it all
                        client.sendall(frame)
                    read_to_the_end(client)  # the client does not close, and still gets to the end


def test_a_flood_of_pings_that_are_never_read_and_half_a_close_are_borne(tmp_path: Path) -> None:
    with a_daemon(tmp_path, "none", settings={"SYNCEVENTSD_HTTP_SEND_TIMEOUT": "0.5"}) as daemon:
        daemon.start()
        with nothing_left_behind(daemon), opened(daemon) as flood, opened(daemon) as half:
            # Else the kernel may take five million pongs for a client that reads none: minutes.
            flood.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            flood.sendall(UPGRADE)
            half.sendall(UPGRADE)
            half.recv(65536)
            half.sendall(b"\x88\x82" + MASKED + b"\x03\xe8")
            assert read_to_the_end(half).endswith(b"\x88\x02\x03\xe8")
            with suppress(OSError):
                while True:
                    flood.sendall((b"\x89\x80" + MASKED) * 10_000)


def test_more_connections_than_descriptors_stop_nobody_who_is_in_and_pass(
    tmp_path: Path, tell: Callable[..., None]
) -> None:
    limited = ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh", sys.executable, "-m", "synceventsd")
    with a_daemon(tmp_path, "none", program=limited) as daemon, Publisher(daemon.socket) as publisher:
        daemon.start()
        open_before = descriptors(pid_of(daemon))
        with ExitStack() as stack, reading(daemon) as reader:
            publisher.publish_envelope(envelope(0, 0))
            publisher.flush(PATIENCE)
            for number in range(200):
                client = stack.enter_context(socket.socket(socket.AF_UNIX if number % 2 else socket.AF_INET))
                client.setblocking(False)
                with suppress(BlockingIOError):
                    client.connect(daemon.socket if number % 2 else ("127.0.0.1", daemon.port))
            eventually(lambda: descriptors(pid_of(daemon)) > 60, "none are left")
            used = cpu_seconds(pid_of(daemon))
            for number in range(1, 100):
                publisher.publish_envelope(envelope(0, number))
                time.sleep(0.01)
            publisher.flush(PATIENCE)
            tell(cpu_seconds_in_a_second_without_descriptors=cpu_seconds(pid_of(daemon)) - used)
            eventually(lambda: len(reader.seen) == 100, "the reader that is in has everything")
        publisher.close()
        eventually(daemon.is_ready, "it accepts again")
        eventually(lambda: descriptors(pid_of(daemon)) <= open_before + FEW_MORE, "descriptors are given back")
        assert daemon.log_text.count("Too many open files") < 5
        assert daemon.stop() == 0


@pytest.mark.soak
def test_ten_thousand_clients_that_do_anything_leave_nothing_behind(tmp_path: Path, tell: Callable[..., None]) -> None:
    dice = random.Random(time.time_ns())
    texts = [
        GET,
        STREAM,
        UPGRADE,
        CHUNKED,
        UPGRADE + FRAMES["too large"],
        b"\x16\x03\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    with a_daemon(tmp_path, "none") as daemon:
        daemon.start()
        with nothing_left_behind(daemon):
            before = rss_mb(pid_of(daemon))
            for _ in range(10_000):
                text = dice.choice([*texts, dice.randbytes(500)])
                with opened(daemon) as client, suppress(OSError):
                    client.sendall(text[: dice.randrange(len(text) + 1)] if dice.random() < 0.5 else text)
                    if dice.random() < 0.2:
                        client.settimeout(0.01)
                        client.recv(65536)
                    if dice.random() < 0.5:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            tell(rss_mb={"before": round(before, 1), "after": round(rss_mb(pid_of(daemon)), 1)})
