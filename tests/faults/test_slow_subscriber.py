"""Why a backlog is paced: Redis cuts off a subscriber that falls behind, and pub/sub repeats nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import define, field
from tests.faults.harness import a_daemon
from tests.faults.scene import SERVER
from tests.faults.test_much_waits import order, publish
from tests.redis_servers import CHANNEL, RedisServer, eventually, redis_server

BACKLOG = 20_000
LIMIT = ("--client-output-buffer-limit", "pubsub", "3mb", "0", "0")
SPEED = 12_000 * 600  # bytes a second: a little more than the default redis.backlog_rate brings
STEP = 0.01  # seconds


@define(eq=False)
class Unhurried:
    """A subscriber that reads at its own speed, and does not come back when it is cut off."""

    server: RedisServer
    text: bytearray = field(factory=bytearray)
    cut_off: bool = False
    subscribed: threading.Event = field(factory=threading.Event)
    _ending: threading.Event = field(factory=threading.Event)

    @property
    def heard(self) -> list[bytes]:
        """The messages so far; each line of text that is not of the protocol is one."""
        return [line for line in bytes(self.text).split(b"\r\n") if line.startswith(b"{")]

    def run(self) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.server.socket_path))
            connection.sendall(b"SUBSCRIBE %s\r\n" % CHANNEL.encode())
            self.text += connection.recv(1000)
            self.subscribed.set()
            connection.settimeout(0.1)
            due = time.monotonic()
            while not self._ending.is_set() and not self.cut_off:
                due = self._read(connection, due)

    def _read(self, connection: socket.socket, due: float) -> float:
        """Read what may be read in one step; return when the next one is due."""
        try:
            text = connection.recv(int(SPEED * STEP))
        except TimeoutError:
            return time.monotonic()
        except ConnectionResetError:
            text = b""
        self.text += text
        self.cut_off = not text
        due += len(text) / SPEED
        time.sleep(max(0.0, due - time.monotonic()))
        return due

    @contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            assert self.subscribed.wait(30)
            yield
        finally:
            self._ending.set()
            thread.join()


@pytest.mark.parametrize(("rate", "survives"), [(None, True), ("0", False)], ids=["default rate", "no limit"])
def test_a_subscriber_of_fair_speed_survives_a_backlog_at_the_default_rate_only(
    tmp_path: Path, rate: str | None, survives: bool, tell: Callable[..., None]
) -> None:
    with redis_server(SERVER, *LIMIT) as server, a_daemon(tmp_path, server.url) as daemon:
        daemon.start(SYNCEVENTSD_REDIS_BACKLOG_RATE="10000" if rate is None else rate)
        reader = Unhurried(server)
        with reader.at_work():
            server.run("CONFIG", "SET", "maxmemory", "1")
            publish(daemon.socket, BACKLOG)
            eventually(lambda: daemon.status()["redis"]["reason"] == "oom", "Redis takes nothing")
            server.run("CONFIG", "SET", "maxmemory", "0")
            eventually(lambda: daemon.status()["waiting"]["count"] == 0, "the backlog is out")
            last = order(BACKLOG - 1)
            eventually(lambda: reader.cut_off or last in reader.text, "the subscriber has it, or is cut off")
        tell(backlog=BACKLOG, heard=len(reader.heard), cut_off=reader.cut_off)
        assert reader.cut_off is not survives
        assert not survives or reader.heard == [order(number) for number in range(BACKLOG)]
