"""Server-Sent Events: a reader's deliveries as chunks of an endless answer.

The body is an iterator object, not a generator: nothing here holds a nursery or a cancel scope across a `yield`. The
subscription is given back by whoever opened it, so an answer that never begins leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final

from attrs import define
from quart.wrappers.response import ResponseBody

from synceventsd.core import frames
from synceventsd.hub import Delivery, Subscription
from synceventsd.web.opening import Opened, gap_message

HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-store, no-transform",
    "X-Accel-Buffering": "no",
}


def opening_chunk(opened: Opened, retry: float) -> bytes:
    """Return what a stream begins with; `retry` (seconds) tells the browser how long to wait before it comes back."""
    return frames.sse_retry(retry) + b"".join(map(frames.sse_message, opened.greetings))


def chunk(delivery: Delivery) -> bytes:
    """Return a delivery as one chunk; a keep-alive when there was nothing."""
    if delivery.gap is not None:
        return frames.sse_message(gap_message(delivery.gap, delivery.position))
    if delivery.events:
        return b"".join([group.sse(index) for group, index in delivery.events])
    return frames.sse_keep_alive(delivery.position)


@define(eq=False)
class EventStream(ResponseBody):
    """The body of a stream's answer. It ends when the hub closes or the reader's time is up.

    Attributes:
        time_left: returns for how many seconds the reader may still read.
        keep_alive: after how many seconds without traffic a keep-alive is sent.
    """

    _subscription: Subscription
    _opening: bytes | None
    _keep_alive: float
    _time_left: Callable[[], float]

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
        left = self._time_left()
        delivery = await self._subscription.next(min(self._keep_alive, left)) if left > 0 else None
        if delivery is None or self._time_left() <= 0:
            raise StopAsyncIteration
        return chunk(delivery)
