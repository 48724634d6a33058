"""Server-Sent Events: a reader's deliveries as chunks of an endless answer.

Quart answers with the head and the first chunk, and is done; the stream then goes on without it, because what it keeps
for a request, two tasks among it, is 10 KB a reader or more. The subscription is given back by whoever opened it, so an
answer that never begins leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import trio
from attrs import define, field, frozen

from synceventsd.core import frames
from synceventsd.core.deliveries import Delivery
from synceventsd.hub import Subscription, Taken
from synceventsd.web.http11 import App, Receive, Send
from synceventsd.web.opening import Opened, gap_message

HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-store, no-transform",
    "X-Accel-Buffering": "no",
}


def opening_chunk(opened: Opened, retry: float) -> bytes:
    """Return what a stream begins with; `retry` (seconds) tells the browser how long to wait before it comes back."""
    return frames.sse_retry(retry) + b"".join(map(frames.sse_message, opened.greetings))


class Body(Protocol):
    """The rest of an answer's body, past all that is between the app and the socket."""

    chunked: bool  # false for HTTP/1.0, where the connection's end is the body's

    def offer(self, text: bytes) -> bool:
        """Write some of it without waiting; return whether all of it is out. If not, `send` has to follow."""

    async def send(self, text: bytes) -> None:
        """Write what an offer left, and this if it is not empty."""

    async def while_read(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do the work, and cancel it once the client has gone; return whether it came to its end."""


@frozen
class Streaming:
    """The ASGI application that goes on with a stream where the other one, which began the answer, has ended.

    It looks for the stream in the request's state, under `stream`.
    """

    app: App

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Let the other one answer; if it left a stream, write that behind it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope["state"]

        async def keeping_open(message: Any) -> None:
            await send({**message, "more_body": True} if "stream" in state and "body" in message else message)

        await self.app(scope, receive, keeping_open)
        stream: EventStream | None = state.get("stream")
        if stream is not None and await state["body"].while_read(stream.run):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


# How many chunks a reader who is behind is written in a turn, where it is the only one: with one of 100 events it fell
# behind a publisher at full speed, of whom 250 lines are taken in a turn, until it had to be read for from the disk.
CHUNKS_AT_ONCE: Final = 4


@define(eq=False)
class EventStream:
    """A stream after its first chunk. It ends when the hub closes or the reader's time is up.

    Written straight to the socket: by the hub while this waits, else by this.

    Attributes:
        keep_alive: after how many seconds without traffic a keep-alive is sent.
        time_left: returns for how many seconds the reader may still read.
    """

    _subscription: Subscription
    _keep_alive: float
    _time_left: Callable[[], float]
    _body: Body
    _sent_at: float = field(factory=trio.current_time, init=False)
    _owing: bool = field(default=False, init=False)

    async def run(self) -> None:
        """Write until the stream is at its end. Cancelled, it may leave a chunk half written: nothing can follow it."""
        self._subscription.outlet = self
        written = 0
        while (text := await self._next()) is not None:
            written += 1
            if text and self._body.offer(text) and written < self._subscription.share(CHUNKS_AT_ONCE):
                continue
            written = 0
            await self._body.send(b"")  # what an offer left; and everybody else has a turn

    def offer(self, delivery: Delivery) -> Taken:
        """Write what the hub has for a reader that waits."""
        if self._owing or self._time_left() <= 0:
            return Taken.NOTHING
        self._sent_at = trio.current_time()
        self._owing = not self._body.offer(delivery.sse)
        return Taken.PARTLY if self._owing else Taken.ALL

    async def _next(self) -> bytes | None:
        """Wait for the next chunk, empty when an offer left something to be sent; None at the stream's end."""
        while True:
            left = self._time_left()
            patience = max(0.0, self._keep_alive - (trio.current_time() - self._sent_at))
            delivery = await self._subscription.next(min(patience, left)) if left > 0 else None
            if self._time_left() <= 0:
                delivery = None
            owing, self._owing = self._owing, False
            now = trio.current_time()
            if delivery is not None and (delivery.runs or delivery.gap is not None):
                self._sent_at = now
                return _chunk(delivery)
            if owing:  # also at the end: half a chunk would break what follows it
                return b""
            if delivery is None:
                return None
            if now - self._sent_at >= self._keep_alive:
                self._sent_at = now
                return frames.sse_keep_alive(delivery.position)


def _chunk(delivery: Delivery) -> bytes:
    return delivery.sse if delivery.gap is None else frames.sse_message(gap_message(delivery.gap, delivery.position))
