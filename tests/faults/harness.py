"""A daemon that can be killed, publishers that never stop, readers that come back, and an oracle that compares.

The oracle knows what a publisher was told is stored. In the end the Redis channel and the SSE readers must have carried
just that: each event once, in the daemon's order, byte for byte.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field
from tests.redis_servers import PATIENCE, eventually, free_port

from syncevents import Publisher
from syncevents.errors import Rejected


@define(eq=False)
class Daemon:
    """The daemon as a process; started, stopped and killed as a test likes."""

    directory: Path
    redis_url: str
    program: Sequence[str] = (sys.executable, "-m", "synceventsd")
    settings: dict[str, str] = field(factory=dict)
    port: int = field(factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    exits: list[int] = field(factory=list)

    @property
    def socket(self) -> str:
        return str(self.directory / "s")

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def log_text(self) -> str:
        return (self.directory / "daemon.log").read_text()

    def start(self, *, wait: bool = True, **environ: str) -> None:
        command = [*self.program, "run", "--socket", self.socket, "--state-dir", str(self.state)]
        command += ["--redis-url", self.redis_url, "--http", f"127.0.0.1:{self.port}"]
        env = os.environ | {"SYNCEVENTSD_REDIS_BACKLOG_RATE": "0"} | self.settings | environ
        with (self.directory / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=env)
        if wait:
            eventually(self.is_ready, f"the daemon is ready: {self.log_text[-2000:]}")

    def is_ready(self) -> bool:
        assert self.process is not None
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def status(self) -> Any:
        return self.get("/status")[1]

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        code = self.process.wait(PATIENCE)
        self.exits.append(code)
        self.process = None
        return code

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


@contextmanager
def a_daemon(directory: Path, redis_url: str, **more: Any) -> Iterator[Daemon]:
    daemon = Daemon(directory, redis_url, **more)
    try:
        yield daemon
    finally:
        daemon.end()


@define(eq=False)
class Load:
    """Publishers in threads, each with the real client; every event carries its publisher and its number there."""

    socket_path: str
    publishers: int = 3
    pause: float = 0.002
    most_pending: int = 2000  # then publishers wait, as a sync does whose own work takes time
    published: dict[int, int] = field(factory=dict)
    errors: list[BaseException] = field(factory=list)
    _stop: threading.Event = field(factory=threading.Event)
    _threads: list[threading.Thread] = field(factory=list)

    def start(self) -> None:
        for number in range(self.publishers):
            thread = threading.Thread(target=self._publish, args=(number,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def finish(self) -> None:
        """Publish no more, and wait until every event is acknowledged."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        assert self.errors == []

    def _publish(self, publisher_number: int) -> None:
        try:
            with Publisher(self.socket_path, max_pending=100_000) as publisher:
                count = 0
                while not self._stop.is_set():
                    while publisher.statistics().pending > self.most_pending and not self._stop.is_set():
                        time.sleep(self.pause)
                    for _ in range(5):
                        publisher.publish_envelope(envelope(publisher_number, count))
                        count += 1
                    self.published[publisher_number] = count
                    time.sleep(self.pause)
                publisher.flush(timeout=PATIENCE)
        except (Rejected, TimeoutError, AssertionError) as error:
            self.errors.append(error)

    @property
    def total(self) -> int:
        return sum(self.published.values())

    def ids(self) -> dict[int, list[str]]:
        return {number: [f"{number}/{n}" for n in range(count)] for number, count in self.published.items()}


def envelope(publisher: int, number: int) -> bytes:
    """Return an order of the usual size."""
    event = {
        "id": f"{publisher}/{number}",
        "event_type": "integration.sync.order.created",
        "integration_id": 13 + publisher,
        "business_id": 42,
        "timestamp": "2026-11-24T02:30:15.123456+00:00",
        "data": {"order_id": f"{number}", "order_number": f"#{number}", "pad": "x" * 300},
    }
    return json.dumps(event, separators=(",", ":")).encode()


@define(eq=False)
class SseReader:
    """A reader that comes back with its Last-Event-ID after every cut, and writes down what it saw."""

    port: int
    path: str = "/integrations/events/sse"
    seen: list[tuple[str, int]] = field(factory=list)  # the event's id and its number in the log
    gaps: list[Any] = field(factory=list)
    connections: int = 0
    last_id: str = ""
    _stop: threading.Event = field(factory=threading.Event)
    _thread: threading.Thread | None = None
    connected: threading.Event = field(factory=threading.Event)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
            try:
                connection.request("GET", self.path, headers={"Last-Event-ID": self.last_id} if self.last_id else {})
                self._read(connection.getresponse())
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)
            finally:
                connection.close()

    def _read(self, answer: http.client.HTTPResponse) -> None:
        self.connections += 1
        buffer = b""
        while not self._stop.is_set():
            try:
                data = answer.read1(65536)
            except TimeoutError:
                return
            if not data:
                return
            buffer += data
            *frames, buffer = buffer.split(b"\n\n")
            for frame in frames:
                self._take(frame.decode())

    def _take(self, frame: str) -> None:
        fields = dict(part.split(": ", 1) for part in frame.split("\n"))
        self.last_id = fields.get("id", self.last_id)
        if fields.get("event") == "gap":
            self.gaps.append(json.loads(fields["data"]))
        elif fields.get("event") == "connection_established":
            self.connected.set()
        elif fields.get("event", "keep-alive") != "keep-alive":
            payload = json.loads(fields["data"])
            self.seen.append((payload["id"], payload["seq"]))


@contextmanager
def reading(daemon: Daemon, **more: Any) -> Iterator[SseReader]:
    reader = SseReader(daemon.port, **more)
    reader.start()
    assert reader.connected.wait(PATIENCE)
    try:
        yield reader
    finally:
        reader.end()


def assert_exactly_once_in_order(load: Load, channel: Sequence[bytes], reader: SseReader | None = None) -> None:
    """The oracle's verdict."""
    heard = [json.loads(text)["id"] for text in channel]
    doubled = [name for name, times in Counter(heard).items() if times > 1]
    assert doubled == [], f"{len(doubled)} events went out twice, for example {doubled[:5]}"
    for publisher, wanted in load.ids().items():
        mine = [name for name in heard if name.startswith(f"{publisher}/")]
        missing = sorted(set(wanted) - set(mine))
        assert missing == [], f"{len(missing)} acknowledged events of publisher {publisher} are missing: {missing[:5]}"
        assert mine == wanted, f"publisher {publisher}: out of order"
    for text in channel:
        publisher_number, number = json.loads(text)["id"].split("/")
        assert text == envelope(int(publisher_number), int(number))
    if reader is not None:
        assert reader.gaps == []
        assert [name for name, _ in reader.seen] == heard
        assert [seq for _, seq in reader.seen] == list(range(1, len(heard) + 1))
