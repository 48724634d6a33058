"""The async face of the publisher, for trio and asyncio.

Rule of this file: nothing here sends. It waits, in the loop that runs, for what the sender's thread settles.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from syncevents.backlog import Statistics, Typed, log
from syncevents.carrier import DEFAULT_CLIENT, Carrier, SocketPath
from syncevents.errors import Rejected
from syncevents.events import (
    SyncCompleted,
    SyncFailed,
    SyncOrderCreated,
    SyncOrderRejected,
    SyncOrderUpdated,
    SyncStarted,
)
from syncevents.loops import Loop, current_loop
from syncevents.publisher import DEFAULT_TIMEOUT, prepare
from syncevents.wire import Reject


def open_publisher(
    socket_path: SocketPath = None,
    *,
    client: str = DEFAULT_CLIENT,
    max_pending: int = 20000,
    on_reject: Callable[[Reject], None] | None = None,
) -> "AsyncPublisher":
    """Return an `AsyncPublisher` to be used with `async with`; the arguments are those of `Publisher`."""
    return AsyncPublisher(Carrier(socket_path, client, max_pending, "raise", on_reject))


class AsyncPublisher:
    """Publishes events from the tasks of one trio or asyncio loop; made by `open_publisher`.

    Where the queue is full, publishing waits for room. Being cancelled there leaves nothing queued. Leaving the block
    flushes with a deadline of 5 s and raises as `flush` does, unless the block itself raised. Under trio that flush is
    shielded: a cancelled block may take up to 5 s to end. Under asyncio a cancellation that comes during the flush
    cuts it short. Either way the thread and the connection are closed; what was not acknowledged by then may be lost.
    """

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._loop: Loop | None = None

    async def publish_sync_started(self, integration_id: int, business_id: int | None, data: SyncStarted) -> None:
        """Publish that a synchronisation began."""
        await self._put(prepare(SyncStarted, integration_id, business_id, data))

    async def publish_sync_order_created(
        self, integration_id: int, business_id: int | None, data: SyncOrderCreated
    ) -> None:
        """Publish that an order was created."""
        await self._put(prepare(SyncOrderCreated, integration_id, business_id, data))

    async def publish_sync_order_updated(
        self, integration_id: int, business_id: int | None, data: SyncOrderUpdated
    ) -> None:
        """Publish that an order was updated."""
        await self._put(prepare(SyncOrderUpdated, integration_id, business_id, data))

    async def publish_sync_order_rejected(
        self, integration_id: int, business_id: int | None, data: SyncOrderRejected
    ) -> None:
        """Publish that an order was not taken over."""
        await self._put(prepare(SyncOrderRejected, integration_id, business_id, data))

    async def publish_sync_completed(self, integration_id: int, business_id: int | None, data: SyncCompleted) -> None:
        """Publish that a synchronisation ended well."""
        await self._put(prepare(SyncCompleted, integration_id, business_id, data))

    async def publish_sync_failed(self, integration_id: int, business_id: int | None, data: SyncFailed) -> None:
        """Publish that a synchronisation was given up."""
        await self._put(prepare(SyncFailed, integration_id, business_id, data))

    async def flush(self, timeout: float | None = DEFAULT_TIMEOUT) -> None:  # noqa: ASYNC109 - as the synchronous one
        """Wait until all that was published before is acknowledged; raises as `Publisher.flush`.

        `timeout` is in seconds, None waits for ever. Being cancelled leaves everything as it was.
        """
        loop = self._running()
        await loop.checkpoint()
        await self._flush(loop, timeout, shield=False)

    def statistics(self) -> Statistics:
        """Return the counters of this moment."""
        return self._carrier.backlog.statistics()

    async def __aenter__(self) -> Self:
        self._loop = current_loop()
        self._carrier.backlog.on_progress = self._loop.wake
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._carrier.close_backlog():
            return
        try:
            await self._flush(self._running(), DEFAULT_TIMEOUT, shield=True)
        except (Rejected, TimeoutError) as late:
            if error is None:
                raise
            # The block's own error, or its cancellation, is the one to see.
            log.warning("after an error in the block: %s", late)
        finally:
            self._carrier.stop()

    async def _put(self, item: Typed) -> None:
        loop = self._running()
        await loop.checkpoint()
        # No await between the look and the put: the room that was seen is taken.
        while not self._carrier.backlog.has_room():
            await loop.wait_until(self._carrier.backlog.has_room, None, shield=False)
        self._carrier.put(item)

    async def _flush(self, loop: Loop, timeout: float | None, *, shield: bool) -> None:  # noqa: ASYNC109
        target = self._carrier.begin_flush()
        backlog = self._carrier.backlog
        await loop.wait_until(lambda: backlog.settled >= target or backlog.stopping, timeout, shield=shield)
        self._carrier.end_flush(target, timeout)

    def _running(self) -> Loop:
        if self._loop is None:
            raise RuntimeError("use the publisher inside `async with syncevents.open_publisher() as publisher:`")
        return self._loop
