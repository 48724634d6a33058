"""Between Hypercorn's HTTP/1.1 and the app: one task for each request, and the parts of the protocol that we leave out.

HTTP/1.1 and WebSocket only, without compression: what `connection` promises of sends and deadlines is not made for
HTTP/2.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Final, cast

import h11
import trio
from attrs import define, field
from hypercorn.config import Config
from hypercorn.events import Closed, Event
from hypercorn.protocol.events import EndBody
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from hypercorn.typing import ASGISendEvent, Scope
from wsproto.events import Message

from synceventsd.logs import get_logger

log = get_logger("web")

# The longest request head (bytes): as nginx and h11 have it, far above what a browser with a token sends.
MAX_HEAD: Final = 16 * 1024

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]


class AnswerKind(Enum):
    """What an app's answer means for its connection."""

    SHORT = 1  # ends soon, also for a client that has ended its side
    WEBSOCKET = 2
    EVENT_STREAM = 3  # nothing that the client sends from now on is looked at, but for its end


@define(eq=False)
class Inbox:
    """What the app receives on one request. Putting never waits for an app that has ended or will not listen."""

    _put: trio.MemorySendChannel[Any]
    _take: trio.MemoryReceiveChannel[Any]
    _farewell: Any = field(default=None, init=False)

    async def put(self, message: Any) -> None:
        """Give the app a message; that the client has gone overtakes nothing, and is told again and again."""
        if message["type"].endswith(".disconnect"):
            self._farewell = message
            self._put.close()
            return
        try:
            await self._put.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the app has answered, the rest of the body is nobody's

    async def take(self) -> Any:
        """Wait for a message."""
        try:
            return await self._take.receive()
        except trio.EndOfChannel:
            return self._farewell

    def close(self) -> None:
        """The app has ended."""
        self._take.close()


@define(eq=False)
class Requests:
    """The task group that Hypercorn's protocol wants to be given; it lives inside the connection's nursery block."""

    _nursery: trio.Nursery
    _on_answer: Callable[[AnswerKind], None]

    async def spawn_app(
        self, app: Any, config: Config, scope: Scope, send: Callable[[ASGISendEvent | None], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """Start the app on a request; what comes in for it is to be given to what is returned."""
        inbox = Inbox(*trio.open_memory_channel[Any](config.max_app_queue_size))
        self._nursery.start_soon(self._respond, app, scope, inbox, send)
        return inbox.put

    def spawn(self, func: Callable[..., Any], *args: Any) -> None:
        """Start something beside it."""
        self._nursery.start_soon(func, *args)

    async def _respond(self, app: App, scope: Scope, inbox: Inbox, send: Send) -> None:
        async def noticing(message: Any) -> None:
            self._on_answer(kind_of(message))
            await send(message)

        try:
            await app(scope, inbox.take, noticing)
        except* Exception:
            log.exception("web.request_failed", path=scope.get("path"))
        inbox.close()
        await send(None)


def kind_of(message: Any) -> AnswerKind:
    """Return what the app begins with this ASGI message; SHORT also where it begins nothing."""
    if message["type"] == "websocket.accept":
        return AnswerKind.WEBSOCKET
    if message["type"] == "http.response.start" and (b"content-type", b"text/event-stream") in [
        (name.lower(), value) for name, value in message["headers"]
    ]:
        return AnswerKind.EVENT_STREAM
    return AnswerKind.SHORT


class MessageBuffer(WebsocketBuffer):
    """The message that a client is sending. What is too large is not kept: Hypercorn's own buffer keeps it first."""

    def __init__(self, max_length: int) -> None:
        super().__init__(max_length)
        self.too_large = False

    def extend(self, event: Message[Any]) -> None:
        """Add a piece; raise FrameTooLargeError from the first one on that does not fit."""
        self.too_large = self.too_large or self.length + len(event.data) > self.max_length
        if self.too_large:
            raise FrameTooLargeError
        super().extend(event)


class Http11(H11Protocol):
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
        if isinstance(self.stream, WSStream):
            self.stream.buffer = MessageBuffer(self.config.websocket_max_message_size)

    async def handle(self, event: Event) -> None:
        """Follow what came from the client; too large a message of a WebSocket is the last that is looked at."""
        await super().handle(event)
        if isinstance(self.stream, WSStream) and cast(MessageBuffer, self.stream.buffer).too_large:
            await self.send(Closed())  # it has been told why; Hypercorn would read on until the client agrees to close

    async def stream_send(self, event: Any) -> None:
        """Send what the request's stream says."""
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
