"""Server-Sent Events: a reader's deliveries as chunks of an endless answer.

The body is an iterator object, not a generator: nothing here holds a nursery or a cancel scope across a `yield`. The
subscription is given back by whoever opened it, so an answer that never begins leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol

import trio
from attrs import define, field
from quart.wrappers.response import ResponseBody

from synceventsd.core import frames
from synceventsd.hub import Delivery, Subscription, Taken
from synceventsd.web.opening import Opened, gap_message

HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-store, no-transform",
    "X-Accel-Buffering": "no",
}


def opening_chunk(opened: Opened, retry: float) -> bytes:
    """Return what a stream begins with; `retry` (seconds) tells the browser how long to wait before it comes back."""
    return frames.sse_retry(retry) + b"".join(map(frames.sse_message, opened.greetings))


class Chunks(Protocol):
    """The answer's body as chunks, past all that is between the app and the socket."""

    def offer(self, text: bytes) -> bool:
        """Write a chunk without waiting; return whether all of it is out. If not, `send` has to follow."""

    async def send(self, text: bytes) -> None:
        """Write what an offer left, and this chunk if it is not empty."""


@define(eq=False)
class EventStream(ResponseBody):
    """The body of a stream's answer. It ends when the hub closes or the reader's time is up.

    The first chunk goes the app's usual way, with the head before it. Those that follow are written straight to the
    socket, where the body is chunked: by the hub while this waits, else by this.

    Attributes:
        keep_alive: after how many seconds without traffic a keep-alive is sent.
        time_left: returns for how many seconds the reader may still read.
        chunks: None where the body is not chunked (HTTP/1.0).
    """

    _subscription: Subscription
    _opening: bytes | None
    _keep_alive: float
    _time_left: Callable[[], float]
    _chunks: Chunks | None
    _sent_at: float = field(factory=trio.current_time, init=False)
    _owing: bool = field(default=False, init=False)

    async def __aenter__(self) -> EventStream:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, tb: TracebackType | None
    ) -> None:
        return None

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> bytes:
        opening, self._opening = self._opening, None
        if opening is not None:
            return opening
        if self._chunks is None:
            return await self._next()
        self._subscription.outlet = self
        while True:
            await self._chunks.send(await self._next())

    def offer(self, delivery: Delivery) -> Taken:
        """Write what the hub has for a reader that waits."""
        if self._chunks is None or self._owing or self._time_left() <= 0:
            return Taken.NOTHING
        self._sent_at = trio.current_time()
        self._owing = not self._chunks.offer(delivery.sse)
        return Taken.PARTLY if self._owing else Taken.ALL

    async def _next(self) -> bytes:
        """Wait for the next chunk, which is empty when an offer left something to be sent.

        Raises:
            StopAsyncIteration: the stream is at its end.
        """
        while True:
            left = self._time_left()
            patience = max(0.0, self._keep_alive - (trio.current_time() - self._sent_at))
            delivery = await self._subscription.next(min(patience, left)) if left > 0 else None
            if self._time_left() <= 0:
                delivery = None
            owing, self._owing = self._owing, False
            now = trio.current_time()
            if delivery is not None and (delivery.events or delivery.gap is not None):
                self._sent_at = now
                return _chunk(delivery)
            if owing:  # also at the end: half a chunk would break what follows it
                return b""
            if delivery is None:
                raise StopAsyncIteration
            if now - self._sent_at >= self._keep_alive:
                self._sent_at = now
                return frames.sse_keep_alive(delivery.position)


def _chunk(delivery: Delivery) -> bytes:
    return delivery.sse if delivery.gap is None else frames.sse_message(gap_message(delivery.gap, delivery.position))
