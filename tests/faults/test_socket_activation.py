"""Behind systemd's socket: connecting never fails while the daemon restarts, and nothing is lost or doubled."""

from __future__ import annotations

import json
import random
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from attrs import define, field
from tests.faults.harness import Load, a_daemon, assert_status_agrees, reading
from tests.faults.oracle import Told, compare, event
from tests.faults.scene import SERVER, quiet
from tests.redis_servers import PATIENCE, eventually, redis_server, subscriber


@define(eq=False)
class Caller:
    """Connects anew for each event, and calls again with the same one until it is acknowledged."""

    path: str
    number: int  # as a publisher
    connects: int = 0
    dealt: int = 0
    refused: set[int] = field(factory=set)
    errors: list[BaseException] = field(factory=list)
    producer: str = field(factory=lambda: str(uuid.uuid4()))
    _stop: threading.Event = field(factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(PATIENCE)

    def told(self) -> Told:
        stored = [number for number in range(self.dealt) if number not in self.refused]
        return Told(stored, self.refused, self.dealt + 1)

    def _run(self) -> None:
        while not self._stop.is_set():
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PATIENCE)
                try:
                    connection.connect(self.path)
                except OSError as error:  # what must not be
                    self.errors.append(error)
                    return
                self.connects += 1
                try:
                    self._call(connection)
                except (ConnectionError, EOFError):
                    continue  # the daemon was killed

    def _call(self, connection: socket.socket) -> None:
        hello = {"hello": {"v": 1, "producer": self.producer, "client": "caller/1", "acked": self.dealt}}
        connection.sendall(json.dumps(hello).encode() + b"\n")
        answers = connection.makefile("rb")
        self.dealt = self._next(answers)["welcome"]["accepted"]
        connection.sendall(event(self.number, self.dealt) + b"\n")
        self.dealt = self._next(answers)["ack"]

    def _next(self, answers: IO[bytes]) -> Any:
        """Return the next message that is no reject; those are noted."""
        while line := answers.readline():
            if not line.endswith(b"\n"):
                break
            message = json.loads(line)
            if "reject" not in message:
                return message
            self.refused.add(message["reject"] - 1)
        raise EOFError


def restarts(tmp_path: Path, rounds: int) -> dict[str, Any]:
    dice = random.Random(rounds)
    with (
        socket.socket(socket.AF_UNIX) as listener,
        redis_server(SERVER) as redis,
        subscriber(redis) as channel,
        a_daemon(tmp_path, redis.url, listener=listener) as daemon,
    ):
        listener.bind(daemon.socket)
        listener.listen(4096)
        callers = [Caller(daemon.socket, number) for number in range(10, 22)]
        for caller in callers:
            caller.start()  # before there is a daemon
        daemon.start()
        load = Load(daemon.socket, publishers=1, pause=0.01)
        recoveries = []
        with reading(daemon) as reader:
            load.start()
            for number in range(rounds):
                time.sleep(dice.uniform(0.2, 0.4))
                how = (signal.SIGTERM, signal.SIGKILL)[number % 2]
                daemon.signal(how)
                assert daemon.wait() == (0 if how == signal.SIGTERM else -signal.SIGKILL)
                began, heard = time.monotonic(), len(channel.heard)
                daemon.start()
                eventually(lambda heard=heard: len(channel.heard) > heard, "events flow again")  # type: ignore[misc]
                recoveries.append(time.monotonic() - began)
            for caller in callers:
                caller.end()
            load.finish()
            eventually(lambda: daemon.status()["waiting"]["count"] == 0, "nothing waits")
            last = daemon.status()["events"]["accepted"]
            eventually(lambda: len(reader.seen) >= last, "the SSE reader has everything")
            quiet(channel.heard)
        told = load.told() | {caller.number: caller.told() for caller in callers}
        verdict = compare(told, channel.heard, reader.seen)
        assert verdict.flaws == []
        assert [caller.errors for caller in callers] == [[]] * len(callers)
        assert_status_agrees(daemon, load, reader)
        assert daemon.stop() == 0
    return {
        "rounds": rounds,
        "connects": sum(caller.connects for caller in callers),
        "failed": 0,
        "events": verdict.events,
        "rejects": verdict.rejects,
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "longest_recovery_s": max(recoveries),
    }


def test_no_connect_fails_over_five_restarts_under_load(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell(**restarts(tmp_path, 5))


@pytest.mark.soak
def test_no_connect_fails_over_sixty_restarts_under_load(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell(**restarts(tmp_path, 60))
