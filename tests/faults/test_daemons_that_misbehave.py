"""The client before a daemon that breaks the rules: no caller hangs, nothing grows, nothing is taken for stored."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from attrs import define, field
from tests.faults.harness import envelope
from tests.faults.measure import descriptors, rss_mb
from tests.redis_servers import eventually

from syncevents import Publisher, sender, wire
from syncevents.errors import Rejected

Treatment = Callable[[socket.socket], None]
WELCOME = wire.encode_welcome("bad/1", 0, wire.MAX_FRAME)


@contextmanager
def bad_daemon(path: Path, treatment: Treatment) -> Iterator[list[int]]:
    """Treat one connection after the other, until the end of the block; yield how many there were, as a list."""
    connections: list[int] = []
    ended = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(0.05)

        def serve() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                connections.append(1)
                connection.settimeout(0.3)
                with connection, suppress(OSError):
                    treatment(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield connections
        finally:
            ended.set()
            thread.join()


def after_the_welcome(answer: bytes) -> Treatment:
    """Welcome, take what comes, say this, and wait until the client has had enough."""

    def treatment(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(WELCOME)
        connection.recv(65536)
        connection.sendall(answer)
        while connection.recv(65536):
            pass

    return treatment


def silent(connection: socket.socket) -> None:
    """Take everything and say nothing."""
    while connection.recv(65536):
        pass


def endless(connection: socket.socket) -> None:
    """Say one line that never ends."""
    for _ in range(200):
        connection.sendall(b"a" * 65536)


def reject_for_ever(connection: socket.socket) -> None:
    """Reject the first line again and again, at length."""
    connection.recv(65536)
    connection.sendall(WELCOME)
    connection.recv(65536)
    for _ in range(200):
        connection.sendall(wire.encode_reject(1, None, "invalid_event", "x" * 60_000))


BAD = {
    "a welcome that never comes": silent,
    "a line that never ends": endless,
    "rejects without an end": reject_for_ever,
    "an ack of what was not sent": after_the_welcome(wire.encode_ack(10**9)),
    "an ack of the largest number": after_the_welcome(wire.encode_ack(wire.MAX_NUMBER)),
    "an ack of nothing": after_the_welcome(wire.encode_ack(0) * 10_000),
    "a reject of what was not sent": after_the_welcome(wire.encode_reject(7, None, "x", "y")),
    "a second welcome": after_the_welcome(WELCOME),
    "no JSON": after_the_welcome(b"\xff\xfe\0{]\n"),
    "no message": after_the_welcome(b'{"hello":"you"}\n[]\n1\n'),
    "a number that is none": after_the_welcome(b'{"ack":1e999}\n{"ack":' + b"1" * 5000 + b"}\n"),
    "deep nesting": after_the_welcome(b"[" * 100_000 + b"\n"),
    "a welcome of more than was sent": lambda connection: connection.sendall(wire.encode_welcome("bad/1", 99, 262144)),
    "a frame of no bytes": lambda connection: connection.sendall(wire.encode_welcome("bad/1", 0, 0)),
    "an end at once": lambda _: None,
}


@pytest.mark.parametrize("kind", BAD)
def test_no_caller_hangs_and_nothing_is_taken_for_stored(tmp_path: Path, kind: str) -> None:
    with bad_daemon(tmp_path / "s", BAD[kind]) as connections:
        before, open_before = rss_mb(os.getpid()), descriptors(os.getpid())
        publisher = Publisher(tmp_path / "s", max_pending=100)
        for number in range(100):
            publisher.publish_envelope(envelope(0, number))
        if BAD[kind] is not silent:
            eventually(lambda: len(connections) > 1 or not publisher.statistics().pending, "the client tries again")
        statistics = publisher.statistics()
        assert statistics.acked <= statistics.rejected
        with suppress(TimeoutError, Rejected):
            publisher.flush(timeout=0.05)
        with suppress(TimeoutError, Rejected):
            publisher.close(timeout=0.05)
        assert rss_mb(os.getpid()) - before < 40
        eventually(lambda: descriptors(os.getpid()) <= open_before + 2, "descriptors are given back")


@define
class CuttingDaemon:
    """Keeps the rules, but the n-th connection is cut after n bytes of the answers."""

    stored: list[bytes] = field(factory=list)
    connections: int = 0

    def treat(self, connection: socket.socket) -> None:
        self.connections += 1
        left = self.connections
        splitter = wire.LineSplitter()
        greeted = False
        while left > 0 and (data := connection.recv(65536)):
            lines = splitter.feed(data)
            answer = b""
            if lines and not greeted:
                greeted = wire.is_hello(lines.pop(0))
                answer = wire.encode_welcome("cutting/1", len(self.stored), wire.MAX_FRAME)
            if lines:
                self.stored += lines
                answer += wire.encode_ack(len(self.stored))
            connection.sendall(answer[:left])
            left -= len(answer)


def test_answers_cut_after_any_byte_lose_nothing_and_double_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "LAST_RETRY", 0.001)
    daemon = CuttingDaemon()
    count = 0
    with bad_daemon(tmp_path / "s", daemon.treat), Publisher(tmp_path / "s") as publisher:
        while daemon.connections < 150:  # a welcome has some 75 bytes, an ack 10
            publisher.publish_envelope(envelope(0, count))
            count += 1
            eventually(lambda: not publisher.statistics().pending)
        assert publisher.statistics().incidents == 0
    assert [json.loads(line)["id"] for line in daemon.stored] == [f"0/{number}" for number in range(count)]
