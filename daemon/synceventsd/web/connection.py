"""One HTTP connection: Hypercorn's protocol over a socket that no client can turn against the others.

Rules of this file. What goes wrong on a connection ends that connection and nothing else. Every send has a deadline,
which progress renews. A send that is cancelled cuts the connection, because nobody knows how much of it went out; so
nothing needs a shield. HTTP/1.1 and WebSocket only: these promises are not made for HTTP/2.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from math import inf
from typing import Any, Final, cast

import h11
import trio
from attrs import define, field
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import EndBody
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGISendEvent, ConnectionState, LifespanState, Scope

from synceventsd.logs import get_logger

log = get_logger("web")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

# How long a connection may take for a complete request head, the first one or the next one (seconds). A stream is never
# touched by it: it waits for no request.
HEAD_TIMEOUT: Final = 15.0

# How long we go on reading, and throwing away, after our last byte (seconds). Closing at once while bytes of the client
# are unread would make the kernel send a reset, which takes the answer from the client's hands.
LINGER: Final = 1.0

# How long an answer may still take once the client has ended its side (`printf ... | nc -N`), in seconds. A stream ends
# at once: there, the end of input is how a reader's leaving shows.
HALF_CLOSE_GRACE: Final = 1.0


@define(eq=False)
class _Inbox:
    """What the app receives on one request. Putting never waits for an app that has ended or will not listen."""

    _put: trio.MemorySendChannel[Any]
    _take: trio.MemoryReceiveChannel[Any]
    _farewell: Any = field(default=None, init=False)

    async def put(self, message: Any) -> None:
        if message["type"].endswith(".disconnect"):
            self._farewell = message
            self._put.close()
            return
        try:
            await self._put.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the app has answered, the rest of the body is nobody's

    async def take(self) -> Any:
        try:
            return await self._take.receive()
        except trio.EndOfChannel:
            return self._farewell

    def close(self) -> None:
        """The app has ended."""
        self._take.close()


@define(eq=False)
class _Requests:
    """The task group that Hypercorn's protocol wants to be given; it lives inside the connection's nursery block."""

    _nursery: trio.Nursery
    _on_stream: Callable[[], None]

    async def spawn_app(
        self, app: Any, config: Config, scope: Scope, send: Callable[[ASGISendEvent | None], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        inbox = _Inbox(*trio.open_memory_channel[Any](config.max_app_queue_size))
        self._nursery.start_soon(self._respond, app, scope, inbox, send)
        return inbox.put

    def spawn(self, func: Callable[..., Any], *args: Any) -> None:
        self._nursery.start_soon(func, *args)

    async def _respond(self, app: App, scope: Scope, inbox: _Inbox, send: Send) -> None:
        async def noticing(message: Any) -> None:
            if message["type"] == "http.response.start" and _is_stream(message["headers"]):
                self._on_stream()
            await send(message)

        try:
            await app(scope, inbox.take, noticing)
        except* Exception:
            log.exception("web.request_failed", path=scope.get("path"))
        inbox.close()
        await send(None)


def _is_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"content-type" and value == b"text/event-stream" for name, value in headers)


class _Http11(H11Protocol):
    """Hypercorn's HTTP/1.1, which never turns into HTTP/2 and never agrees to compress a WebSocket."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Ignore the wish for h2c, as RFC 9110 (7.8) allows; the preface of HTTP/2 ends as a bad request."""

    async def _create_stream(self, request: h11.Request) -> None:
        # permessage-deflate costs some 300 KB a reader, and lets 64 KB of a client inflate to 64 MB of ours.
        kept = [header for header in request.headers if header[0] != b"sec-websocket-extensions"]
        if len(kept) != len(request.headers):
            request = h11.Request(
                method=request.method, target=request.target, headers=kept, http_version=request.http_version
            )
        await super()._create_stream(request)

    async def stream_send(self, event: Any) -> None:
        await super().stream_send(event)
        if isinstance(self.connection, H11WSConnection) and isinstance(event, EndBody):
            await self.send(Closed())  # an upgrade was refused; Hypercorn would wait for the client to close

    async def _send_h11_event(self, event: Any) -> None:
        try:
            await super()._send_h11_event(event)
        except h11.LocalProtocolError as error:
            # Both sides spoke out of turn, for example frames of a WebSocket before it was accepted: the connection
            # cannot be used any more, and Hypercorn would let this take down whoever sends.
            log.debug("web.out_of_turn", reason=str(error))
            await self.send(Closed())


class Connection(TCPServer):
    """One client's connection; awaiting it serves it to its end.

    It owns the socket, waits for the client and for the app, and ends when either side closes, when the client is
    too slow (see the constants above and `http.send_timeout`), or when the server's stop finds it without a request.
    Cancelling cuts it, with a reset on TCP. It never raises but for cancellation.
    """

    def __init__(
        self, app: App, config: Config, context: WorkerContext, send_timeout: float, stream: trio.SocketStream
    ) -> None:
        super().__init__(cast(Any, app), config, context, LifespanState({}), cast(Any, stream))
        self._socket = stream.socket
        self._send_timeout = send_timeout
        self._gone = False  # nothing can be sent any more
        self._closing = False  # we have said all we had to say
        self._answered = trio.Event()  # unset while a request waits for its answer
        self._answered.set()
        # Cancelled when an event stream begins: what a client sends from then on is thrown away, so that its end is
        # seen. Hypercorn would hold a pipelined request until the stream ends, and read nothing meanwhile.
        self._parsing = trio.CancelScope()
        # How long the watcher waits; moved, in one step without an await, by whatever happens on the connection.
        # Hypercorn's own timer needs awaits, and a cancelled app would lose it.
        self._watching = trio.CancelScope(deadline=trio.current_time() + HEAD_TIMEOUT)

    async def run(self) -> None:
        """Serve it; what `await` does."""
        try:
            await self._serve()
        except* Exception:
            log.exception("web.connection_failed")

    async def _serve(self) -> None:
        try:
            client, server = self._socket.getpeername(), self._socket.getsockname()
        except OSError:
            return  # gone before we looked
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            await self._exchange(client, server)
            nursery.cancel_scope.cancel()

    async def _exchange(self, client: Any, server: Any) -> None:
        local = self._socket.family == socket.AF_UNIX
        state = ConnectionState(cast(Any, {"peercred": _peer(self._socket) if local else None}))
        async with trio.open_nursery() as nursery:
            self.protocol = cast(
                Any,
                _Http11(
                    self.app,
                    self.config,
                    self.context,
                    cast(Any, _Requests(nursery, self._on_stream)),
                    state,
                    False,
                    None if local else (client[0], client[1]),
                    None if local else (server[0], server[1]),
                    self.protocol_send,
                ),
            )
            await self._read_data()
            await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        """Read until the client ends its side, or the connection is no more."""
        while True:
            try:
                data = await self.stream.receive_some(MAX_RECV)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                return
            if not self._closing and not self._parsing.cancel_called:
                with self._parsing:
                    await self.protocol.handle(RawData(bytes(data)))
            if not data:
                break
        with trio.move_on_after(HALF_CLOSE_GRACE):
            await self._answered.wait()

    async def _watch(self, connection: trio.CancelScope) -> None:
        """End the connection when it has been without a request for too long, or the server stops."""
        with self._watching:
            await self.context.terminated.wait()
            if self._closing or self._watching.deadline == inf:
                await trio.sleep_forever()  # the answer under way closes the connection, and moves the deadline
        connection.cancel()

    async def protocol_send(self, event: Event) -> None:
        """Do what the protocol asks for: send bytes, close, or note whether a request is under way."""
        if isinstance(event, RawData):
            await self._transmit(event.data)
        elif isinstance(event, Updated):
            self._note(busy=not event.idle)
        elif isinstance(event, Closed):
            self._finish()
            await self.protocol.handle(Closed())

    async def _transmit(self, data: bytes) -> None:
        try:
            async with self.send_lock:
                await self._send(data)
        except trio.Cancelled:
            self._cut()
            raise
        if self._gone:
            await self.protocol.handle(Closed())

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view) and not self._gone:
            try:
                with trio.fail_after(self._send_timeout):
                    sent = await self._socket.send(view)
            except trio.TooSlowError:
                log.info("web.reader_cut_off", reason=f"it took nothing for {self._send_timeout:g} s")
                self._cut()
            except (OSError, trio.ClosedResourceError):
                self._cut()
            else:
                view = view[sent:]

    def _note(self, *, busy: bool) -> None:
        if busy:
            self._answered = trio.Event()
            self._watching.deadline = inf
        elif self._parsing.cancel_called:
            self._finish()  # the stream is over, and what came meanwhile was not read: no request can follow
        else:
            self._answered.set()
            self._watching.deadline = trio.current_time() + HEAD_TIMEOUT

    def _on_stream(self) -> None:
        self._answered.set()
        self._parsing.cancel()

    def _finish(self) -> None:
        """Close our side, and give the client a moment to take what it has not read yet."""
        self._closing = True
        self._answered.set()
        self._watching.deadline = trio.current_time() + LINGER
        with suppress(OSError):  # the client has gone already
            self._socket.shutdown(socket.SHUT_WR)

    def _cut(self) -> None:
        """Close the socket now. On TCP with a reset, else the kernel would go on trying to deliver what waits."""
        self._gone = self._closing = True
        self._answered.set()
        with suppress(OSError):  # it is closed already
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


def _peer(sock: trio.socket.SocketType) -> tuple[int, int, int] | None:
    """Return process, user and group at the other end of a Unix socket; None when it is gone."""
    size = struct.calcsize("3i")
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    except OSError:
        return None
    pid, uid, gid = struct.unpack("3i", raw)
    return pid, uid, gid
