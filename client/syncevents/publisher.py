"""The synchronous publisher: checks, queues, and leaves the rest to the sender's thread.

Rule of this file: a publish call never waits and does no input or output; only `flush`, `close` and `wait_for_room` wait.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from syncevents import lifetime
from syncevents._version import __version__
from syncevents.backlog import Backlog, Overflow, Statistics, log
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
from syncevents.sender import Sender
from syncevents.wire import Reject, is_hello

DEFAULT_SOCKET: Final = "/run/synceventsd/synceventsd.sock"
"""Where the system's daemon listens."""

DEFAULT_TIMEOUT: Final = 5.0
"""Seconds: how long leaving a block, and the exit of the process, wait for acknowledgements."""

_MAX_SOCKET_PATH: Final = 107  # bytes; the kernel's sockaddr_un holds one more, which is NUL
_getpid = os.getpid
_time = time.time


class Publisher:
    """Publishes events to the daemon from any number of threads.

    `socket_path`: where the daemon listens; None: `$SYNCEVENTS_SOCKET`, else `/run/synceventsd/synceventsd.sock`.
    `client`: the name and version that the daemon's log and status show for this program. `max_pending`: how many
    events may wait for their acknowledgement, at least 1; past it `overflow="raise"` raises `QueueFull`, and
    `overflow="drop"` drops the event, counts it and warns once in the log `syncevents`. `on_reject` is called in the
    sender's thread with each event that the daemon did not store; it must not call `flush` or `close`.

    An event is safe from its acknowledgement on: `flush` waits for it. The thread and the connection begin with the
    first event; the publisher reconnects and resends by itself, and no event is stored twice. Use it as a context
    manager or `close` it: leaving the block flushes, with a deadline of 5 s, and raises as `flush` does.

    A forked child starts with an empty queue as a new producer; the parent keeps its events. A normal exit of the
    process flushes too, but `os._exit` does not, with which the children of multiprocessing end: call `flush` there.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        *,
        client: str = f"syncevents/{__version__}",
        max_pending: int = 20000,
        overflow: Overflow = "raise",
        on_reject: Callable[[Reject], None] | None = None,
    ) -> None:
        self._socket_path = None if socket_path is None else _check_path(socket_path)
        self._client = _check_client(client)
        if isinstance(max_pending, bool) or not isinstance(max_pending, int):
            raise TypeError(f"max_pending must be an int, not {type(max_pending).__name__}")
        if max_pending < 1:
            raise ValueError(f"max_pending must be at least 1, not {max_pending}")
        if overflow not in ("raise", "drop"):
            raise ValueError(f'overflow must be "raise" or "drop", not {overflow!r}')
        self._max_pending = max_pending
        self._overflow: Overflow = overflow
        self._on_reject = on_reject
        self._start_afresh()
        lifetime.register(self)

    def publish_sync_started(self, integration_id: int, business_id: int | None, data: SyncStarted) -> None:
        """Publish that a synchronisation began."""
        self._publish(SyncStarted, integration_id, business_id, data)

    def publish_sync_order_created(self, integration_id: int, business_id: int | None, data: SyncOrderCreated) -> None:
        """Publish that an order was created."""
        self._publish(SyncOrderCreated, integration_id, business_id, data)

    def publish_sync_order_updated(self, integration_id: int, business_id: int | None, data: SyncOrderUpdated) -> None:
        """Publish that an order was updated."""
        self._publish(SyncOrderUpdated, integration_id, business_id, data)

    def publish_sync_order_rejected(
        self, integration_id: int, business_id: int | None, data: SyncOrderRejected
    ) -> None:
        """Publish that an order was not taken over."""
        self._publish(SyncOrderRejected, integration_id, business_id, data)

    def publish_sync_completed(self, integration_id: int, business_id: int | None, data: SyncCompleted) -> None:
        """Publish that a synchronisation ended well."""
        self._publish(SyncCompleted, integration_id, business_id, data)

    def publish_sync_failed(self, integration_id: int, business_id: int | None, data: SyncFailed) -> None:
        """Publish that a synchronisation was given up."""
        self._publish(SyncFailed, integration_id, business_id, data)

    def publish_envelope(self, envelope: bytes | Mapping[str, Any]) -> None:
        """Publish a finished envelope: the JSON text of one line, which is sent as it is, or a mapping.

        What is wrong with it is found by the daemon, which rejects it. Raises ValueError for what could not be one
        line of the protocol: nothing, several lines, or a hello.
        """
        self._put(_check_line(envelope if isinstance(envelope, bytes) else _dump(envelope)))

    def flush(self, timeout: float | None = DEFAULT_TIMEOUT) -> None:
        """Wait until all that was published before this call is acknowledged; `timeout` is in seconds, None: for ever.

        Raises TimeoutError when not all is, after which the events still wait and are still sent; else `Rejected` when
        the daemon did not store some of what was published since the last flush.
        """
        backlog = self._backlog_here()
        target = backlog.taken
        if backlog.settled < target:
            self._ring()
        if not backlog.wait_settled(target, timeout):
            raise self._too_late(target - backlog.settled, timeout)
        backlog.raise_rejects()

    def wait_for_room(self, timeout: float | None = None) -> bool:
        """Wait until one more event would be queued; False when `timeout` seconds have passed before."""
        return self._backlog_here().wait_for_room(timeout)

    def statistics(self) -> Statistics:
        """Return the counters of this moment."""
        return self._backlog_here().statistics()

    def close(self, timeout: float | None = DEFAULT_TIMEOUT) -> None:
        """Flush, then end the thread and the connection, whatever comes; a second call does nothing.

        Raises what `flush` raises; events that are not acknowledged then may be stored or lost. Publishing on a
        closed publisher raises RuntimeError.
        """
        backlog = self._backlog_here()
        with backlog.lock:
            was_closed, backlog.closed = backlog.closed, True
        if was_closed:
            return
        try:
            self.flush(timeout)
        finally:
            self._stop()

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

    def _publish(self, kind: type[SyncEvent], integration_id: int, business_id: int | None, data: SyncEvent) -> None:
        self._put(prepare(kind, integration_id, business_id, data))

    def _put(self, item: Any) -> bool:
        return self._backlog_here().put(item)

    def _backlog_here(self) -> Backlog:
        # The second line of defence against a fork that ran no hooks (one made by foreign C code).
        if self._pid != _getpid():
            self.forked()
        return self._backlog

    def _start_afresh(self) -> None:
        self._pid = _getpid()
        self._sender: Sender | None = None
        self._backlog = Backlog(self._max_pending, self._overflow, self._ring)

    def _ring(self) -> None:
        with self._backlog.lock:
            if self._sender is None:
                self._sender = Sender(self._backlog, self._find_socket, self._client, self._on_reject)
        try:
            self._sender.ring()
        except RuntimeError as error:
            # No thread can be started: too many, or the interpreter is ending. The event stays queued, and the next
            # one tries again.
            with self._backlog.lock:
                self._backlog.asleep = True
            if self._backlog.disconnected(f"cannot start the sender's thread: {error}"):
                log.warning("events wait: cannot start the sender's thread: %s", error)

    def _stop(self) -> None:
        self._backlog.stop()
        if self._sender is not None:
            self._sender.join(timeout=1)
        lifetime.forget(self)

    def _find_socket(self) -> str:
        return self._socket_path or os.environ.get("SYNCEVENTS_SOCKET") or DEFAULT_SOCKET

    def _too_late(self, missing: int, timeout: float | None) -> TimeoutError:
        error = (
            self._backlog.statistics().last_error or f"the daemon at {self._find_socket()} is slow or stores nothing"
        )
        events = "1 event is" if missing == 1 else f"{missing} events are"
        waited = "because the publisher was closed" if timeout is None else f"after {timeout:g} s"
        return TimeoutError(f"{events} not acknowledged {waited}: {error}")

    # For `lifetime`.

    def before_fork(self) -> None:
        """Keep the other threads out, so that the child gets no half-made connection."""
        self._lock_held_by_fork = self._backlog.lock
        self._lock_held_by_fork.acquire()

    def after_fork_in_parent(self) -> None:
        """Let the other threads go on."""
        self._lock_held_by_fork.release()

    def forked(self) -> None:
        """Become a new producer with an empty queue, in a forked child; the parent keeps what it had."""
        sender, closed = self._sender, self._backlog.closed
        self._backlog.stopping = True  # without its lock, which nobody is left to release: ends a callback that forked
        self._start_afresh()
        self._backlog.closed = closed
        if sender is not None:
            sender.abandon()


def prepare(kind: type[SyncEvent], integration_id: int, business_id: int | None, data: SyncEvent) -> Any:
    """Check the arguments of a publish call and return what is queued, with the time of the call."""
    if type(integration_id) is not int or not 0 <= integration_id <= MAX_ID:
        check_integration_id(None, integration_id)
    if business_id is not None and (type(business_id) is not int or not 1 <= business_id <= MAX_ID):
        check_business_id(business_id)
    if not isinstance(data, kind):
        raise TypeError(f"data must be {kind.__name__}, not {type(data).__name__}")
    return data, integration_id, business_id, _time()


def _check_path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"socket_path must be a str or a path, not {type(path).__name__}")
    if not text or "\0" in text or len(os.fsencode(text)) > _MAX_SOCKET_PATH:
        raise ValueError(f"socket_path must have from 1 to {_MAX_SOCKET_PATH} bytes and no NUL, not {text!r}")
    return text


def _check_client(client: str) -> str:
    if not isinstance(client, str):
        raise TypeError(f"client must be a str, not {type(client).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in client):
        raise ValueError("client holds a lone surrogate")
    return client


def _check_line(line: bytes) -> bytes:
    line = line.removesuffix(b"\n").rstrip(b"\r")
    if not line or b"\n" in line:
        raise ValueError("envelope must be exactly one line that is not empty")
    if is_hello(line):
        raise ValueError("envelope must not be a hello")
    return line


def _dump(envelope: Mapping[str, Any]) -> bytes:
    if not isinstance(envelope, Mapping):
        raise TypeError(f"envelope must be bytes or a mapping, not {type(envelope).__name__}")
    return json.dumps(dict(envelope), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
