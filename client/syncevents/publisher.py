"""The synchronous publisher: checks the arguments, queues, and leaves the rest to the sender's thread.

Rule of this file: publishing never waits, and does no input or output; only `flush`, `close` and `wait_for_room` wait.
"""

import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from syncevents.backlog import Overflow, Statistics, Typed, log
from syncevents.carrier import DEFAULT_CLIENT, Carrier, SocketPath
from syncevents.checks import MAX_ID, check_business_id, check_integration_id
from syncevents.errors import Rejected
from syncevents.events import (
    SyncCompleted,
    SyncEvent,
    SyncFailed,
    SyncOrderCreated,
    SyncOrderRejected,
    SyncOrderUpdated,
    SyncStarted,
)
from syncevents.wire import Reject, is_hello

DEFAULT_TIMEOUT: Final = 5.0
"""Seconds: how long leaving a block waits for acknowledgements."""

_time = time.time


class Publisher:
    """Publishes events to the daemon, from any number of threads.

    `socket_path`: where the daemon listens; None: `$SYNCEVENTS_SOCKET`, else `/run/synceventsd/synceventsd.sock`.
    `client`: the name and version that the daemon shows for this program. `max_pending`: how many events may wait for
    their acknowledgement, at least 1; past it `overflow="raise"` raises `QueueFull`, and `overflow="drop"` drops the
    event, counts it and warns once in the log `syncevents`. `on_reject` is called in the sender's thread with each
    event that was not stored; it must not call `flush` or `close`.

    An event is safe from its acknowledgement on: `flush` waits for it. The thread and the connection begin with the
    first event; the publisher reconnects and resends by itself, and no event is stored twice. Use it as a context
    manager, or `close` it: leaving the block flushes, with a deadline of 5 s, and raises as `flush` does, unless the
    block itself raised.

    A forked child starts with an empty queue as a new producer; the parent keeps its events. A normal exit of the
    process flushes too, and so do children of multiprocessing; `os._exit` does not: call `flush` before it.
    """

    def __init__(
        self,
        socket_path: SocketPath = None,
        *,
        client: str = DEFAULT_CLIENT,
        max_pending: int = 20000,
        overflow: Overflow = "raise",
        on_reject: Callable[[Reject], None] | None = None,
    ) -> None:
        self._carrier = Carrier(socket_path, client, max_pending, overflow, on_reject)

    def publish_sync_started(self, integration_id: int, business_id: int | None, data: SyncStarted) -> None:
        """Publish that a synchronisation began."""
        self._carrier.put(prepare(SyncStarted, integration_id, business_id, data))

    def publish_sync_order_created(self, integration_id: int, business_id: int | None, data: SyncOrderCreated) -> None:
        """Publish that an order was created."""
        self._carrier.put(prepare(SyncOrderCreated, integration_id, business_id, data))

    def publish_sync_order_updated(self, integration_id: int, business_id: int | None, data: SyncOrderUpdated) -> None:
        """Publish that an order was updated."""
        self._carrier.put(prepare(SyncOrderUpdated, integration_id, business_id, data))

    def publish_sync_order_rejected(
        self, integration_id: int, business_id: int | None, data: SyncOrderRejected
    ) -> None:
        """Publish that an order was not taken over."""
        self._carrier.put(prepare(SyncOrderRejected, integration_id, business_id, data))

    def publish_sync_completed(self, integration_id: int, business_id: int | None, data: SyncCompleted) -> None:
        """Publish that a synchronisation ended well."""
        self._carrier.put(prepare(SyncCompleted, integration_id, business_id, data))

    def publish_sync_failed(self, integration_id: int, business_id: int | None, data: SyncFailed) -> None:
        """Publish that a synchronisation was given up."""
        self._carrier.put(prepare(SyncFailed, integration_id, business_id, data))

    def publish_envelope(self, envelope: bytes | Mapping[str, Any]) -> None:
        """Publish a finished envelope: one line of JSON text, which is sent as it is, or a mapping.

        What is wrong with it is found by the daemon, which rejects it. Raises ValueError for what cannot be one line
        of the protocol: nothing, several lines, or a hello.
        """
        self._carrier.put(_check_line(envelope if isinstance(envelope, bytes) else _dump(envelope)))

    def flush(self, timeout: float | None = DEFAULT_TIMEOUT) -> None:
        """Wait until all that was published before is acknowledged; `timeout` is in seconds, None waits for ever.

        Raises TimeoutError when not all is; the events go on waiting and being sent. Else raises `Rejected` when some
        of what was published since the last flush was not stored.
        """
        self._carrier.flush(timeout)

    def wait_for_room(self, timeout: float | None = None) -> bool:
        """Wait until one more event would be queued; False when `timeout` seconds have passed before."""
        return self._carrier.backlog.wait_for_room(timeout)

    def statistics(self) -> Statistics:
        """Return the counters of this moment."""
        return self._carrier.backlog.statistics()

    def close(self, timeout: float | None = DEFAULT_TIMEOUT) -> None:
        """Flush, then end the thread and the connection whatever comes; a second call does nothing.

        Raises what `flush` raises; events that are not acknowledged by then may be stored or lost. Publishing on a
        closed publisher raises RuntimeError.
        """
        if not self._carrier.close_backlog():
            return
        try:
            self._carrier.flush(timeout)
        finally:
            self._carrier.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # The block's own error is the one to see.
        try:
            self.close()
        except (Rejected, TimeoutError) as late:
            log.warning("after an error in the block: %s", late)


def prepare(kind: type[SyncEvent], integration_id: int, business_id: int | None, data: SyncEvent) -> Typed:
    """Check the arguments of a publish call, and return what is queued, with the time of the call."""
    if type(integration_id) is not int or not 0 <= integration_id <= MAX_ID:
        check_integration_id(None, integration_id)
    if business_id is not None and (type(business_id) is not int or not 1 <= business_id <= MAX_ID):
        check_business_id(business_id)
    if type(data) is not kind:  # no subclass: what it changes could fail in the sender's thread, far from the call
        raise TypeError(f"data must be {kind.__name__}, not {type(data).__name__}")
    return data, integration_id, business_id, _time()


def _check_line(line: bytes) -> bytes:
    line = line.removesuffix(b"\n").rstrip(b"\r")
    if not line or b"\n" in line:
        raise ValueError("envelope must be exactly one line, and not an empty one")
    if is_hello(line):
        raise ValueError("envelope must not be a hello")
    return line


def _dump(envelope: Mapping[str, Any]) -> bytes:
    if not isinstance(envelope, Mapping):
        raise TypeError(f"envelope must be bytes or a mapping, not {type(envelope).__name__}")
    return json.dumps(dict(envelope), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
