"""One HTTP connection: Hypercorn's protocol over a socket that no client can turn against the others.

Rules of this file. What goes wrong on a connection ends that connection and nothing else. Every send has a deadline,
which progress renews. A send that is cancelled cuts the connection, because nobody knows how much of it went out; so
nothing needs a shield.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Any, Final, cast

import trio
from attrs import define
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState

from synceventsd.logs import get_logger
from synceventsd.web.http11 import AnswerKind, App, Http11, Requests

log = get_logger("web")

# How long a connection may take for a complete request head, the first one or the next one (seconds). A stream is never
# touched by it: it waits for no request.
HEAD_TIMEOUT: Final = 15.0

# How long we go on reading, and throwing away, after our last byte (seconds). Closing at once while bytes of the client
# are unread would make the kernel send a reset, which takes the answer from the client's hands.
LINGER: Final = 1.0

# How long a reader may take nothing once the server stops (seconds): it comes back with its `Last-Event-ID`, and one
# that does not read at all must not hold the stop.
STOP_SEND_TIMEOUT: Final = 1.0

# How long an answer may still take once the client has ended its side (`printf ... | nc -N`), in seconds. A stream ends
# at once: there, the end of input is how a reader's leaving shows.
HALF_CLOSE_GRACE: Final = 1.0


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
        self._room = trio.CancelScope()  # around the wait for room in the kernel
        self._owed = b""  # of a chunk that was offered and did not fit
        self._gone = False  # nothing can be sent any more
        self._closing = False  # we have said all we had to say
        self._answered = trio.Event()  # unset while a request waits for its answer
        self._answered.set()
        # Once an event stream has begun, what the client sends is thrown away, so that its end is seen. Hypercorn would
        # hold a pipelined request back until the stream ends, and read nothing meanwhile: hence the scope.
        self._streaming = False
        self._parsing = trio.CancelScope()
        self._reading = trio.CancelScope()  # around a stream's writing; cancelled once nobody reads it
        # Until when we wait for a request, or for the client to close; moved, without an await, by whatever happens on
        # the connection. Hypercorn's own timer needs a task and awaits, and a cancelled app would lose it.
        self._patience = trio.CancelScope(deadline=trio.current_time() + HEAD_TIMEOUT)

    async def run(self) -> None:
        """Serve it; what `await` does."""
        try:
            await self._serve()
        except* Exception:
            log.exception("web.connection_failed")

    def stop(self) -> None:
        """End the connection if it is without a request; else its answer, or its stream, is the last one on it.

        From now on a send that makes no progress is given up soon.
        """
        self._send_timeout = min(self._send_timeout, STOP_SEND_TIMEOUT)
        self._room.deadline = min(self._room.deadline, trio.current_time() + self._send_timeout)
        if self._patience.deadline < inf and not self._closing:
            self._patience.cancel()

    async def _serve(self) -> None:
        try:
            client, server = self._socket.getpeername(), self._socket.getsockname()
        except OSError:
            return  # gone before we looked
        with self._patience:
            await self._exchange(client, server)

    async def _exchange(self, client: Any, server: Any) -> None:
        local = self._socket.family == socket.AF_UNIX
        peer = _peer(self._socket) if local else None
        state = ConnectionState(cast(Any, {"peercred": peer, "body": Body(self)}))
        async with trio.open_nursery() as nursery:
            self.protocol = cast(
                Any,
                Http11(
                    self.app,
                    self.config,
                    self.context,
                    cast(Any, Requests(nursery, self._on_answer)),
                    state,
                    False,
                    None if local else (client[0], client[1]),
                    None if local else (server[0], server[1]),
                    self.protocol_send,
                ),
            )
            await self._read_data()
            self._reading.cancel()
            await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        """Read until the client ends its side, or the connection is no more."""
        while True:
            try:
                data = await self.stream.receive_some(MAX_RECV)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                return
            if not self._closing and not self._streaming:
                with trio.CancelScope() as self._parsing:
                    await self.protocol.handle(RawData(bytes(data)))
            if not data:
                break
        with trio.move_on_after(HALF_CLOSE_GRACE):
            await self._answered.wait()

    async def protocol_send(self, event: Event) -> None:
        """Do what the protocol asks for: send bytes, close, or note whether a request is under way."""
        if isinstance(event, RawData):
            await self._transmit(event.data)
        elif isinstance(event, Updated):
            self._note(busy=not event.idle)
        elif isinstance(event, Closed):
            self._finish()
            await self.protocol.handle(Closed())

    # The body of an event stream, written past Hypercorn and h11 once its head and its first chunk are out

    def offer(self, parts: tuple[bytes, ...]) -> bool:
        """Write as far as there is room; return whether all of it is out. The rest is for `send` to see to."""
        written = 0
        if self._gone:
            return True
        try:
            written = os.writev(self._socket.fileno(), parts)
        except BlockingIOError:
            pass  # no room at all
        except OSError:
            self._cut()
            return True
        self._owed = b"".join(parts)[written:] if written < sum(map(len, parts)) else b""
        return not self._owed

    async def send(self, parts: tuple[bytes, ...]) -> None:
        """Write what is owed, and these; waits for room. Cancelled, it cuts the connection."""
        await self._transmit(b"".join(parts))

    async def while_read(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do the work, and cancel it once the client has gone; return whether it came to its end."""
        with self._reading:
            await work()
        return not self._reading.cancel_called

    async def _transmit(self, data: bytes) -> None:
        data, self._owed = self._owed + data, b""
        try:
            # The lock brings a checkpoint with it: a reader that takes whatever it gets keeps nobody waiting.
            async with self.send_lock:
                await self._send(data)
        except trio.Cancelled:
            self._cut()
            raise

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view) and not self._gone:
            try:
                # Not Trio's send: mostly there is room, and its checkpoints and a deadline for each cost 20 us.
                view = view[os.write(self._socket.fileno(), view) :]
            except BlockingIOError:
                await self._wait_room()
            except OSError:
                self._cut()

    async def _wait_room(self) -> None:
        try:
            with trio.move_on_after(self._send_timeout) as self._room:
                await trio.lowlevel.wait_writable(self._socket)
        except trio.ClosedResourceError:
            self._cut()
        if self._room.cancelled_caught:
            log.info("web.reader_cut_off", reason=f"it took nothing for {self._send_timeout:g} s")
            self._cut()

    def _note(self, *, busy: bool) -> None:
        if self._closing:
            return
        if busy:
            self._answered = trio.Event()
            self._patience.deadline = inf
        elif self._streaming:
            self._finish()  # the stream is over, and what came meanwhile was not read: no request can follow
        else:
            self._answered.set()
            self._patience.deadline = trio.current_time() + HEAD_TIMEOUT

    def _on_answer(self, kind: AnswerKind) -> None:
        """Note that the app has begun to answer, and how long that will be."""
        if kind is AnswerKind.SHORT:
            return
        self._answered.set()
        if kind is AnswerKind.EVENT_STREAM:
            self._streaming = True
            self._parsing.cancel()

    def _finish(self) -> None:
        """Close our side, and give the client a moment to take what it has not read yet."""
        self._closing = True
        self._answered.set()
        self._patience.deadline = trio.current_time() + LINGER
        with suppress(OSError):  # the client has gone already
            self._socket.shutdown(socket.SHUT_WR)

    def _cut(self) -> None:
        """Close the socket now, and cancel all that is done for it.

        On TCP with a reset, else the kernel would go on trying to deliver what waits. Closing alone would not do: while
        a pipelined request waits for its turn nobody reads the socket, so nobody would see it closed.
        """
        self._gone = self._closing = True
        self._patience.cancel()
        with suppress(OSError):  # it is closed already
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


@define(eq=False)
class Body:
    """The body of an event stream's answer, to be written once its head and its first chunk are out.

    What the app sends through Hypercorn and h11 costs 45 us a chunk, this 7 us when nothing has to be waited for. Both
    keep no state between two chunks, so nobody notices.
    """

    _connection: Connection
    chunked: bool = True

    def offer(self, text: bytes) -> bool:
        """Write a chunk without waiting; return whether all of it is out. If not, call `send` next."""
        return self._connection.offer(self._framed(text))

    async def send(self, text: bytes) -> None:
        """Write what an offer left and then this chunk, if it is not empty; waits until all is out.

        Cancelled, it cuts the connection.
        """
        await self._connection.send(self._framed(text) if text else ())

    async def while_read(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do the work, and cancel it once the client has gone; return whether it came to its end."""
        return await self._connection.while_read(work)

    def _framed(self, text: bytes) -> tuple[bytes, ...]:
        return (b"%x\r\n" % len(text), text, b"\r\n") if self.chunked else (text,)


def _peer(sock: trio.socket.SocketType) -> tuple[int, int, int] | None:
    """Return process, user and group at the other end of a Unix socket; None when it is gone."""
    size = struct.calcsize("3i")
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    except OSError:
        return None
    pid, uid, gid = struct.unpack("3i", raw)
    return pid, uid, gid
