"""A daemon that can be killed, publishers that never stop, readers that come back.

What the publishers were told is kept; `oracle` compares it in the end with what the Redis channel and the SSE readers
carried, byte for byte and in order, and with the sync status.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import define, field
from tests.faults.oracle import (
    BUSINESS,
    Told,
    Verdict,
    compare,
    event,
    integration_of,
    name_of,
    refused_among,
    status_flaws,
)
from tests.faults.oracle import envelope as envelope  # of events that all are to be stored
from tests.redis_servers import PATIENCE, eventually, free_port

from syncevents import Publisher
from syncevents.errors import Rejected
from syncevents.wire import Reject

# What systemd does between fork and exec.
HANDING = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
    "os.execv(sys.argv[2], sys.argv[2:])"
)


@define(eq=False)
class Daemon:
    """The daemon as a process; started, stopped and killed as a test likes."""

    directory: Path
    redis_url: str
    program: Sequence[str] = (sys.executable, "-m", "synceventsd")
    settings: dict[str, str] = field(factory=dict)
    listener: socket.socket | None = None  # the publishers' socket, handed over as systemd does
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
        handed: list[int] = []
        if self.listener is not None:
            handed = [self.listener.fileno()]
            command = [sys.executable, "-c", HANDING, str(handed[0]), *command]
            env |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "ingest"}
        with (self.directory / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=env, pass_fds=handed)
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
    first: int = 0  # the number of the first of them
    published: dict[int, int] = field(factory=dict)
    refused: dict[int, set[int]] = field(factory=dict)
    acked: dict[int, int] = field(factory=dict)
    errors: list[BaseException] = field(factory=list)
    _stop: threading.Event = field(factory=threading.Event)
    _threads: list[threading.Thread] = field(factory=list)

    def start(self) -> None:
        for number in range(self.first, self.first + self.publishers):
            self.refused[number], self.published[number], self.acked[number] = set(), 0, 0
            thread = threading.Thread(target=self._publish, args=(number,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Publish no more."""
        self._stop.set()

    def finish(self) -> None:
        """Publish no more, and wait until every event is acknowledged."""
        self.stop()
        for thread in self._threads:
            thread.join(PATIENCE)
        assert self.errors == []

    def _publish(self, number: int) -> None:
        try:
            self._publish_until_stopped(number)
        except (Rejected, TimeoutError, AssertionError) as error:
            self.errors.append(error)

    def _publish_until_stopped(self, me: int) -> None:
        def note(reject: Reject) -> None:
            self.refused[me].add(int(str(reject.id).split("/")[1]))

        with Publisher(self.socket_path, max_pending=100_000, on_reject=note) as publisher:
            count = 0
            while not self._stop.is_set():
                while publisher.statistics().pending > self.most_pending and not self._stop.is_set():
                    time.sleep(self.pause)
                for _ in range(5):
                    publisher.publish_envelope(event(me, count))
                    count += 1
                self.published[me], self.acked[me] = count, publisher.statistics().acked
                time.sleep(self.pause)
            with suppress(Rejected):  # they were noted one by one
                publisher.flush(timeout=PATIENCE)
            self.acked[me] = publisher.statistics().acked

    @property
    def total(self) -> int:
        """How many events were published that will be stored."""
        return sum(count - refused_among(count) for count in self.published.values())

    def ids(self) -> dict[int, list[str]]:
        """Return the names of each publisher's events that are stored, once all is acknowledged."""
        return {who: [name_of(who, number) for number in told.stored] for who, told in self.told().items()}

    def told(self) -> dict[int, Told]:
        """Return what each publisher was told so far."""
        return {
            who: Told([n for n in range(self.acked[who]) if n not in self.refused[who]], self.refused[who], count)
            for who, count in self.published.items()
        }


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


def assert_exactly_once_in_order(load: Load, channel: Sequence[bytes], reader: SseReader | None = None) -> Verdict:
    """The oracle's verdict, where nothing may be lost, doubled or out of order."""
    verdict = compare(load.told(), channel, None if reader is None else reader.seen)
    assert verdict.flaws == []
    assert reader is None or reader.gaps == []
    return verdict


def assert_status_agrees(daemon: Daemon, load: Load, reader: SseReader) -> None:
    """The sync status must count what the reader saw, which is what is in the log."""
    names = [name for name, _ in reader.seen]
    for publisher in load.told():
        path = f"/integrations/events/sync-status/{integration_of(publisher)}"
        for query in ("", f"?business_id={BUSINESS}"):
            assert status_flaws(publisher, names, daemon.get(path + query)[1]) == []
