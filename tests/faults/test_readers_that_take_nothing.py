"""Readers that never read: the others are served, memory stays bounded, and they hold up no stop."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.faults.harness import Daemon, a_daemon, envelope, eventually, reading
from tests.faults.measure import FEW_MORE, cpu_seconds, descriptors, percentile, rss_mb
from tests.redis_servers import BINARIES, CHANNEL, PATIENCE, RedisServer, redis_server

from syncevents import Publisher

SERVER = next(iter(BINARIES))
STREAM = b"GET /integrations/events/sse?replay=100000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
SOCKET = (
    b"GET /integrations/events/ws?replay=100000 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FOR_EVER = "3600"


def fill(daemon: Daemon, events: int = 400) -> None:
    """Store more than the kernel's buffers between the daemon and a reader hold."""
    text = json.dumps(json.loads(envelope(9, 0)) | {"data": {"text": "x" * 20_000}}).encode()
    with Publisher(daemon.socket) as publisher:
        for _ in range(events):
            publisher.publish_envelope(text)
        publisher.flush(PATIENCE)


@contextmanager
def stuck(daemon: Daemon, count: int) -> Iterator[list[socket.socket]]:
    """Connect readers that ask for everything and take nothing, every third one over WebSocket."""
    with ExitStack() as opened:
        readers = []
        for number in range(count):
            reader = opened.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", daemon.port))
            reader.sendall(SOCKET if number % 3 == 2 else STREAM)
            readers.append(reader)
        eventually(lambda: daemon.status()["sse_connections"] >= count, "all are connected")
        yield readers


def wait_quiet(daemon: Daemon) -> None:
    """Wait until the daemon has nothing to do: the readers have filled their buffers."""
    assert daemon.process is not None
    used, before = cpu_seconds(daemon.process.pid), 0.0
    while used - before > 0.05:
        time.sleep(1)
        used, before = cpu_seconds(daemon.process.pid), used


def memory_of(daemon: Daemon) -> float:
    assert daemon.process is not None
    return rss_mb(daemon.process.pid)


def test_readers_that_take_nothing_are_cut_off_and_the_others_served(tmp_path: Path, tell: Callable[..., None]) -> None:
    settings = {"SYNCEVENTSD_HTTP_SEND_TIMEOUT": "2"}
    with a_daemon(tmp_path, "none", settings=settings) as daemon:
        daemon.start()
        assert daemon.process is not None
        fill(daemon)
        before, open_before = memory_of(daemon), descriptors(daemon.process.pid)
        with reading(daemon) as reader, Publisher(daemon.socket) as publisher, stuck(daemon, 100):
            for number in range(200):
                publisher.publish_envelope(envelope(0, number))
            publisher.flush(PATIENCE)
            eventually(lambda: len(reader.seen) == 200, "the reader that reads has everything")
            most = memory_of(daemon)
            eventually(lambda: daemon.status()["sse_connections"] == 1, "the others are cut off")
            tell(readers=100, rss_mb={"before": round(before), "most": round(most)})
            assert most - before < 100
        eventually(
            lambda: descriptors(daemon.process.pid) <= open_before + FEW_MORE, "their descriptors are given back"
        )
        assert daemon.stop() == 0


def test_readers_that_take_nothing_hold_up_no_stop(tmp_path: Path) -> None:
    """With these settings each of them could hold it for an hour."""
    settings = {"SYNCEVENTSD_HTTP_SEND_TIMEOUT": FOR_EVER, "SYNCEVENTSD_SHUTDOWN_GRACE": FOR_EVER}
    with a_daemon(tmp_path, "none", settings=settings) as daemon:
        daemon.start()
        fill(daemon)
        with stuck(daemon, 30):
            wait_quiet(daemon)
            assert daemon.stop() == 0


def latencies(daemon: Daemon, redis: RedisServer, publisher: Publisher, count: int) -> list[float]:
    """Return for each of so many events how many milliseconds it took from the call to the channel's subscriber."""
    found = []
    with redis.client() as client, client.pubsub() as channel:
        channel.subscribe(CHANNEL)
        assert channel.get_message(timeout=PATIENCE)
        for number in range(count):
            start = time.perf_counter()
            publisher.publish_envelope(envelope(0, number))
            assert channel.get_message(timeout=PATIENCE)
            found.append((time.perf_counter() - start) * 1000)
            time.sleep(0.002)
    return found


@pytest.mark.soak
def test_500_readers_that_take_nothing_slow_nobody_down(tmp_path: Path, tell: Callable[..., None]) -> None:
    settings = {"SYNCEVENTSD_HTTP_SEND_TIMEOUT": FOR_EVER}
    with redis_server(SERVER) as redis, a_daemon(tmp_path, redis.url, settings=settings) as daemon:
        daemon.start()
        fill(daemon)
        eventually(lambda: daemon.status()["waiting"]["count"] == 0, "Redis has it")
        before = memory_of(daemon)
        without: list[float] = []
        beside: list[float] = []
        with Publisher(daemon.socket) as publisher:
            for _ in range(4):
                without += latencies(daemon, redis, publisher, 500)
                with stuck(daemon, 500):
                    wait_quiet(daemon)
                    beside += latencies(daemon, redis, publisher, 500)
                    most = memory_of(daemon)
                eventually(lambda: daemon.status()["sse_connections"] == 0, "they are gone")
        with stuck(daemon, 500):
            wait_quiet(daemon)
            start = time.monotonic()
            assert daemon.stop() == 0
            stop_seconds = time.monotonic() - start
        figures = {
            f"p{share}_{name}_ms": percentile(found, share / 100)
            for name, found in (("without", without), ("beside", beside))
            for share in (50, 99)
        }
        rss = {"before": round(before), "most": round(most)}
        tell(readers=500, events=len(beside), **figures, rss_mb=rss, stop_seconds=stop_seconds)
