"""A site to test against: the real server, hub and log in this process, on a port of the system's choice.

Clients close first unless a test says otherwise; nothing is asserted about the wall clock, and each test has a limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio
from attrs import define, field, frozen

from synceventsd.config import HttpConfig, TcpBind, UnixBind
from synceventsd.core.envelope import KNOWN_TYPES, Stamp
from synceventsd.core.linecheck import read_event
from synceventsd.eventlog import EventLog, Lot, Rejected, open_log
from synceventsd.eventlog.committer import Retention
from synceventsd.hub import Hub
from synceventsd.status import StatusBoard
from synceventsd.web.guard import Guard
from synceventsd.web.routes import create_app
from synceventsd.web.server import serve

LIMIT = 20.0  # seconds that anything in a test may take; reached only when something hangs
CREATED = "integration.sync.order.created"


@define(eq=False)
class Publisher:
    """A source of events, as the committer sees one."""

    log: EventLog
    producer: str | None = None
    uid: int = 0
    lines: int = 0
    upto: int = 0
    rejects: list[Rejected] = field(factory=list)

    def settled(self, upto: int, rejects: Sequence[Rejected]) -> None:
        self.upto = upto
        self.rejects.extend(rejects)

    async def publish(self, *envelopes: dict[str, Any]) -> None:
        """Store these in one commit."""
        lines, heads = [], []
        for envelope in envelopes:
            read = read_event(json.dumps(envelope).encode(), KNOWN_TYPES, lambda: Stamp("id", "2026-01-02T03:04:05Z"))
            assert isinstance(read, tuple), read
            lines.append(read[0])
            heads.append(read[1])
        first, self.lines = self.lines + 1, self.lines + len(lines)
        self.log.committer.hand_in(Lot(self, first, self.lines, lines, heads, [], sum(map(len, lines))))
        await self.log.committer.wait_settled(self)


def event(number: int = 1, business: int | None = 42, **changes: Any) -> dict[str, Any]:
    """An envelope."""
    envelope: dict[str, Any] = {
        "id": f"e{number}",
        "event_type": CREATED,
        "integration_id": 13,
        "business_id": business,
        "timestamp": "2026-01-02T03:04:05Z",
        "data": {"order_id": f"o{number}"},
    }
    return envelope | changes


@define
class FakeReport:
    reason: str | None = None

    def unready(self) -> str | None:
        return self.reason

    async def status(self) -> dict[str, Any]:
        return {"version": "0"}

    async def metrics(self) -> tuple[bytes, str]:
        return b"up 1\n", "text/plain; version=0.0.4"


@frozen
class Frame:
    """One event of a stream."""

    event: str
    id: str
    data: Any


class SseClient:
    """Reads a stream over a raw connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.head = b""
        self.body = b""
        self._raw = b""
        self._frames: list[bytes] = []

    async def read_head(self) -> int:
        while b"\r\n\r\n" not in self._raw:
            data = await self.stream.receive_some()
            assert data, f"closed before the head was complete: {self._raw!r}"
            self._raw += data
        self.head, _, self._raw = self._raw.partition(b"\r\n\r\n")
        return int(self.head.split()[1])

    async def read_frame(self) -> bytes | None:
        """The next frame's bytes with its empty line; None at the end."""
        while b"\n\n" not in self.body:
            chunk = await self._read_chunk()
            if not chunk:
                return None
            self.body += chunk
        frame, _, self.body = self.body.partition(b"\n\n")
        return frame + b"\n\n"

    async def next(self) -> Frame | None:
        """The next event that is no keep-alive and no retry line."""
        while True:
            raw = await self.read_frame()
            if raw is None:
                return None
            fields = dict(line.split(": ", 1) for line in raw.decode().strip().split("\n"))
            if fields.get("event") in (None, "keep-alive"):
                continue
            return Frame(fields["event"], fields["id"], json.loads(fields["data"]))

    async def take(self, count: int) -> list[Frame]:
        frames = []
        for _ in range(count):
            frame = await self.next()
            assert frame is not None, "the stream ended"
            frames.append(frame)
        return frames

    async def _read_chunk(self) -> bytes | None:
        while (match := re.match(rb"([0-9a-f]+)\r\n", self._raw)) is None or len(self._raw) < match.end() + int(
            match[1], 16
        ) + 2:
            data = await self.stream.receive_some()
            if not data:
                assert not self._raw, "the stream ended in the middle of a chunk"
                return None
            self._raw += data
        size, start = int(match[1], 16), match.end()
        chunk, self._raw = self._raw[start : start + size], self._raw[start + size + 2 :]
        return chunk


@define(eq=False)
class Site:
    log: EventLog
    hub: Hub
    board: StatusBoard
    report: FakeReport
    publisher: Publisher
    stop: trio.Event
    ended: trio.Event
    addresses: list[str]
    config: HttpConfig
    app: Guard

    @property
    def port(self) -> int:
        return int(self.addresses[0].rpartition(":")[2])

    async def publish(self, *envelopes: dict[str, Any]) -> None:
        await self.publisher.publish(*envelopes)

    async def connect(self) -> trio.abc.HalfCloseableStream:
        if isinstance(self.config.bind, UnixBind):
            return await trio.open_unix_socket(str(self.config.bind.path))
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    @asynccontextmanager
    async def stream(self, target: str, headers: str = "") -> AsyncIterator[SseClient]:
        """Open a stream and read its head."""
        async with await self.connect() as connection:
            await connection.send_all(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
            client = SseClient(connection)
            status = await client.read_head()
            assert status == 200, client.head
            yield client

    async def exchange(self, request: bytes) -> bytes:
        """Send these bytes, and return all that comes back until the server closes."""
        async with await self.connect() as connection:
            await connection.send_all(request)
            return await read_all(connection)

    def http(self, **settings: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", **settings)

    async def shut(self) -> None:
        """Stop as the daemon does, and wait for the end."""
        self.hub.close()
        self.stop.set()
        await self.ended.wait()

    async def wait_streams(self, count: int) -> None:
        """Wait until that many readers are connected; nothing tells of it, so it is looked at again and again."""
        while self.hub.streams != count:
            await trio.sleep(0.005)


async def read_all(connection: trio.abc.ReceiveStream) -> bytes:
    found = b""
    while True:
        try:
            data = await connection.receive_some()
        except trio.BrokenResourceError:
            return found
        if not data:
            return found
        found += data


SiteOpener = Callable[..., AbstractAsyncContextManager[Site]]


@asynccontextmanager
async def open_site(
    state_dir: Path,
    *,
    secret: bytes | None = None,
    retention: Retention | None = None,
    grace: float = 5.0,
    wall_clock: Callable[[], float] | None = None,
    **settings: Any,
) -> AsyncIterator[Site]:
    config = HttpConfig(**({"bind": TcpBind("127.0.0.1", 0)} | settings))
    retention = retention or Retention(2**30, 2**30, 604800)
    with trio.fail_after(LIMIT):
        async with open_log(state_dir, "process", retention, forwarding=False) as log, trio.open_nursery() as nursery:
            nursery.start_soon(log.committer.run)
            board = StatusBoard(log, 900)
            await board.catch_up()
            hub, report = Hub(log, config.max_streams), FakeReport()
            nursery.start_soon(hub.run)
            stop, ended = trio.Event(), trio.Event()
            clock = {} if wall_clock is None else {"wall_clock": wall_clock}
            app = create_app(hub, board, report, config, secret, **clock)

            async def serve_and_tell(task_status: trio.TaskStatus[list[str]]) -> None:
                await serve(app, config, stop=stop, grace=grace, on_refused=hub.refuse, task_status=task_status)
                ended.set()

            addresses = await nursery.start(serve_and_tell)
            site = Site(log, hub, board, report, Publisher(log), stop, ended, addresses, config, app)
            try:
                yield site
            finally:
                nursery.cancel_scope.cancel()
