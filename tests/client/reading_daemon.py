"""A real daemon for readers, and a publisher whose events carry their numbers."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define, field
from tests.events import line
from tests.faults.harness import Daemon, a_daemon

from syncevents import Gap, Publisher, Received
from synceventsd.web.tokens import mint

LIMIT = 60.0  # seconds; only a test that fails ever waits so long
KEY = "k" * 40


@define(eq=False)
class Source:
    """A daemon without Redis, and events for it."""

    daemon: Daemon
    published: int = field(default=0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.daemon.port}"

    def publish(self, count: int = 1, **more: Any) -> None:
        """Publish events, numbered on from the last ones, and wait until they are stored."""
        numbers = range(self.published + 1, self.published + count + 1)
        self.publish_lines(*(line(number, **more) for number in numbers))
        self.published += count

    def publish_lines(self, *lines: bytes) -> None:
        with Publisher(self.daemon.socket) as publisher:
            for text in lines:
                publisher.publish_envelope(text)
            publisher.flush(timeout=LIMIT)

    def restart(self, *, kill: bool = False) -> None:
        if kill:
            self.daemon.kill()
        else:
            assert self.daemon.stop() == 0
        self.daemon.start()

    def token(self, *businesses: int, ttl: float = 3600) -> str:
        return mint(KEY.encode(), businesses or None, ttl, time.time())


@contextmanager
def a_source(directory: Path, *, tokens: bool = False, **settings: str) -> Iterator[Source]:
    """Run a daemon; with `tokens` it wants them."""
    environ = {f"SYNCEVENTSD_{name}": value for name, value in settings.items()}
    if tokens:
        secret = directory / "key"
        secret.write_text(KEY)
        secret.chmod(0o600)
        environ["SYNCEVENTSD_HTTP_TOKEN_SECRET_FILE"] = str(secret)
    with a_daemon(directory, "none", settings=environ) as daemon:
        daemon.start(wait=not tokens)
        source = Source(daemon)
        if tokens:
            wait_alive(daemon)
        yield source


def wait_alive(daemon: Daemon) -> None:
    """Wait until it answers at all, which it does without a token."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        try:
            if daemon.get("/healthz")[0] == 200:
                return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(daemon.log_text)


def number_of(item: Received | Gap) -> int:
    assert isinstance(item, Received), item
    return int(item.id.removeprefix("event-"))


async def in_thread(work: Any, *arguments: Any) -> Any:
    return await trio.to_thread.run_sync(work, *arguments)


class CuttingProxy:
    """Stands before a daemon and cuts each connection after so many bytes of its answers as `lengths` gives."""

    def __init__(self, port: int, lengths: Iterator[int]) -> None:
        self._target = ("127.0.0.1", port)
        self._lengths = lengths
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.cuts = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(LIMIT)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.create_connection(self._target) as server:
                self._carry(client, server, next(self._lengths))

    def _carry(self, client: socket.socket, server: socket.socket, left: int) -> None:
        """Carry bytes both ways until enough came back or one side has closed."""
        while left > 0:
            for side in select.select([client, server], [], [])[0]:
                try:
                    data = side.recv(65536)
                except OSError:
                    return
                if not data:
                    return
                if side is client:
                    server.sendall(data)
                else:
                    client.sendall(data[:left])
                    left -= len(data)
        self.cuts += 1
