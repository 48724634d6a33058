"""A long outage: what waits lies on the disk, not in memory, and goes out in order, in nobody's way."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from tests.faults.harness import Daemon, a_daemon
from tests.faults.oracle import envelope
from tests.faults.scene import SERVER
from tests.redis_servers import Subscriber, eventually, redis_server, subscriber

NUMBER = 7_777_777
TEMPLATE = envelope(0, NUMBER).replace(b"%d" % NUMBER, b"%d")
LOT = 500
ROOM = 50 * 2**20  # bytes, above what it takes idle


def order(number: int) -> bytes:
    return TEMPLATE % (number, number, number)


def memory(daemon: Daemon, kind: str = "VmRSS") -> int:
    """Return what the daemon's process takes, in bytes; `VmHWM` is the most that it ever took."""
    assert daemon.process is not None
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


@define(eq=False)
class InOrder:
    """Takes the place of the list of what was heard: keeps how many orders came, as long as they come in order."""

    orders: int = 0
    news: int = 0
    wrong: list[bytes] = field(factory=list)

    def append(self, text: bytes) -> None:
        if text == order(self.orders):
            self.orders += 1
        elif text == envelope(1, self.news):
            self.news += 1
        else:
            self.wrong.append(text)


@contextmanager
def hearing_in_order(channel: Subscriber) -> Iterator[InOrder]:
    channel.heard = heard = InOrder()  # type: ignore[assignment]
    yield heard


def publish(path: str, count: int) -> None:
    """Hand in so many orders as fast as it goes, and wait for the last acknowledgement."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        answers = connection.makefile("rb")
        reader = threading.Thread(target=lambda: [None for _ in answers], daemon=True)
        reader.start()
        for first in range(0, count, LOT):
            connection.sendall(b"".join(order(number) + b"\n" for number in range(first, min(first + LOT, count))))
        connection.shutdown(socket.SHUT_WR)
        reader.join()  # it ends when all is acknowledged


@define(eq=False)
class Newcomer:
    """Publishes one event after the other and measures how long each waits for its acknowledgement (seconds)."""

    path: str
    waits: list[float] = field(factory=list)
    _stop: threading.Event = field(factory=threading.Event)

    def run(self) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.path)
            while not self._stop.is_set():
                began = time.perf_counter()
                connection.sendall(envelope(1, len(self.waits)) + b"\n")
                assert connection.recv(100).endswith(b"\n")
                self.waits.append(time.perf_counter() - began)
                time.sleep(0.01)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


def outage(tmp_path: Path, count: int) -> dict[str, Any]:
    generous = ("--client-output-buffer-limit", "pubsub", "0", "0", "0")
    with redis_server(SERVER, *generous, start=False) as redis, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start()
        publish(daemon.socket, 1000)  # so that all is loaded that is needed for work
        redis.start()
        with subscriber(redis) as channel, hearing_in_order(channel) as heard:
            eventually(lambda: daemon.status()["waiting"]["count"] == 0, "it is idle")
            time.sleep(1)
            idle = memory(daemon)
            redis.pause()
            heard.orders = 0
            heard.wrong.clear()
            began = time.monotonic()
            publish(daemon.socket, count)
            taken = time.monotonic() - began
            waiting = daemon.status()["waiting"]
            buffered = memory(daemon)
            assert waiting["count"] == count
            newcomer = Newcomer(daemon.socket)
            with newcomer.at_work():
                began = time.monotonic()
                redis.resume()
                eventually(lambda: heard.orders >= count or heard.wrong, "everything is out", patience=600)
                drained = time.monotonic() - began
            eventually(lambda: heard.news >= len(newcomer.waits) or heard.wrong, "the new events too")
            assert heard.wrong == []
            most = memory(daemon, "VmHWM")
    p99 = sorted(newcomer.waits)[len(newcomer.waits) * 99 // 100]
    assert max(buffered, most) - idle < ROOM
    return {
        "buffered": count,
        "bytes": waiting["bytes"],
        "stored_per_s": round(count / taken),
        "drained_per_s": round(count / drained),
        "p99_ack_ms": round(p99 * 1000, 1),
        "idle_mb": idle >> 20,
        "buffered_mb": buffered >> 20,
        "most_mb": most >> 20,
        "lost": 0,
        "doubled": 0,
    }


def test_what_waits_takes_no_memory_and_goes_out_in_order(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell(**outage(tmp_path, 50_000))


@pytest.mark.soak
def test_a_million_that_wait_take_no_memory_and_go_out_in_order(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell(**outage(tmp_path, 1_000_000))
