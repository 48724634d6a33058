"""The thread that carries a publisher's events to the daemon.

Rule of this file: the only one that touches the socket. It owns the `Window`, sends and reads without ever blocking on
either, reconnects by itself, and survives every failure of the peer.
"""

import errno
import logging
import math
import os
import random
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from attrs import evolve

from syncevents.backlog import Backlog, Typed
from syncevents.doorbell import NO_SIGNAL, Doorbell
from syncevents.envelope import EventIds, encode_event
from syncevents.window import BATCH_BYTES, Window
from syncevents.wire import LineSplitter, ProtocolError, Refusal, Reject, Welcome, parse_message

FIRST_RETRY: Final = 0.1
"""Seconds: the longest pause before the first retry; it doubles from there, up to `LAST_RETRY`."""
LAST_RETRY: Final = 2.0

FEED: Final = 16  # events that are taken out of the queue under one lock
_LINGER_MS: Final = 1  # after sending a burst, or in quick succession: events leave together, without a wake-up each
_BURST: Final = 8
_BRISK: Final = 0.0005  # seconds between two events; a wake-up for each was a third of the client at 5,000 events/s
_QUIET: Final = 0.05  # seconds after a welcome: when nothing comes for so long, no rejects follow it
_MAX_MESSAGE: Final = 1 << 16  # a reject has 8 KB at most; a thousand of them may be kept for a flush

log = logging.getLogger("syncevents")


class Sender:
    """Sends what is in the backlog and settles what the daemon has dealt with.

    The thread starts with the first `ring`. It waits for events, for the socket and for retries; it ends when the
    backlog is stopped, and leaves what is not acknowledged then unsettled. What a callback raises is logged. Should
    the thread end otherwise, the next `ring` starts a new one where it left off.
    """

    def __init__(
        self, backlog: Backlog, find_socket: Callable[[], str], client: str, on_reject: Callable[[Reject], None] | None
    ) -> None:
        self._backlog = backlog
        self._find_socket = find_socket
        self._client = client
        self._on_reject = on_reject
        self._window = Window()
        self._ids = EventIds()
        self._ordinal = 0
        self._quiet_until = 0.0
        self._fed_at = 0.0
        self._doorbell = Doorbell()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def ring(self) -> None:
        """Make the thread look at the backlog; start it where none runs.

        Raises RuntimeError where no thread can be started.
        """
        with self._backlog.lock:
            if self._thread is None or not self._thread.is_alive():
                if sys.is_finalizing():  # a thread started now would never run, and starting it never return
                    raise RuntimeError("the interpreter is ending")
                # Known before it starts: an exception from a signal handler meanwhile must not make it a stray one.
                self._thread = threading.Thread(target=self._run, name="syncevents-sender", daemon=True)
                self._thread.start()
        self._doorbell.ring()

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended after the backlog was stopped; at once in the thread itself."""
        self._doorbell.ring()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        if thread is None or not thread.is_alive():
            self._doorbell.close()

    def abandon(self) -> None:
        """Let go of what belongs to the parent, in a forked child: close the descriptors, shut nothing down."""
        if self._socket is not None:
            self._socket.close()
        self._doorbell.close()

    def _run(self) -> None:
        if threading.current_thread() is not self._thread:
            return  # a signal handler published while this one was being started, and started another
        try:
            self._carry()
        finally:
            with self._backlog.lock:
                self._backlog.asleep = True

    def _carry(self) -> None:
        failures = 0
        while self._wait_for_events():
            settled = self._backlog.settled
            error = self._connection()
            if self._backlog.settled > settled:
                failures = 0
            if self._backlog.settled < self._backlog.taken and self._backlog.disconnected(error):
                log.warning("events wait: %s; this is retried", error)
            self._pause(random.uniform(0.5, 1.0) * min(LAST_RETRY, FIRST_RETRY * 2 ** min(failures, 10)))  # noqa: S311
            failures += 1

    def _wait_for_events(self) -> bool:
        """Wait until something is unsettled; False when stopping."""
        backlog = self._backlog
        while backlog.settled == backlog.taken and not backlog.stopping:
            self._poll(self._poller(), None if backlog.fall_asleep() else 0)
        return not backlog.stopping

    def _pause(self, seconds: float) -> None:
        """Wait before a retry; only a stop ends it early, because events do not ring now."""
        end = time.monotonic() + seconds
        self._backlog.stay_awake()
        while not self._backlog.stopping and (left := end - time.monotonic()) > 0:
            self._poll(self._poller(), int(left * 1000) + 1)

    def _connection(self) -> str:
        """Connect, and carry events until the connection ends; return why it did."""
        path = self._find_socket()
        try:
            connection = self._connect(path)
        except (OSError, ValueError) as error:
            return f"cannot connect to {path}: {_explain(error)}"
        try:
            reason = self._talk(connection)
        except (OSError, ProtocolError) as error:
            reason = f"lost the daemon at {path}: {error}"
        finally:
            self._window.disconnect()
            with self._backlog.lock:  # as in `_connect`
                self._socket = None
                connection.close()
        return reason

    def _connect(self, path: str) -> socket.socket:
        # Under the lock that a fork takes too, so that no child inherits a descriptor that it knows nothing of.
        with self._backlog.lock:
            connection = self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.setblocking(False)  # connecting would block while the daemon's listen queue is full
            try:
                connection.connect(path)
            except BaseException:
                self._socket = None
                connection.close()
                raise
        return connection

    def _talk(self, connection: socket.socket) -> str:
        window, backlog = self._window, self._backlog
        splitter = LineSplitter(_MAX_MESSAGE)
        poller = self._poller()
        poller.register(connection, select.POLLIN)
        window.hello(self._client)
        while not backlog.stopping:
            lingering = self._feed()
            blocked = self._write(connection, splitter)
            poller.modify(connection, select.POLLIN | (select.POLLOUT if blocked else 0))
            ready = self._poll(poller, self._patience(blocked, lingering))
            if connection.fileno() in ready:
                if self._read(connection, splitter) is False:
                    return "the daemon closed the connection"
            elif not ready and window.unsettled_welcome and time.monotonic() >= self._quiet_until:
                window.settle()
                backlog.settle(window.settled)
        return "the publisher was closed"

    def _patience(self, blocked: bool, lingering: bool) -> int | None:
        """How many milliseconds to wait for something to happen; None: for ever."""
        window, backlog = self._window, self._backlog
        if not window.welcomed:
            return None
        if not blocked and (window.to_send() or backlog.queue):
            return 0
        if window.unsettled_welcome:
            return max(0, math.ceil((self._quiet_until - time.monotonic()) * 1000))
        if blocked:
            return None
        if lingering:
            return _LINGER_MS
        return None if backlog.fall_asleep() else 0

    def _feed(self) -> bool:
        """Encode what is queued, about one batch, once everything older went out; return whether more is to be seen."""
        window, queue, before = self._window, self._backlog.queue, self._ordinal
        if not window.hungry or not queue:
            return False
        size = 0
        rejects = []
        while queue and size < BATCH_BYTES:
            for item in self._backlog.feed(FEED):
                self._ordinal += 1
                event_id, line = self._encode(item)
                size += len(line)
                too_large = window.append(self._ordinal, line)
                if too_large is not None:
                    rejects.append(evolve(too_large, id=event_id))
        self._report(rejects)
        last, self._fed_at = self._fed_at, time.monotonic()
        return self._ordinal - before >= _BURST or self._fed_at - last < _BRISK

    def _encode(self, item: Typed | bytes) -> tuple[str | None, bytes]:
        if isinstance(item, bytes):
            return None, item + b"\n"
        data, integration_id, business_id, timestamp = item
        event_id = self._ids.new()
        return event_id, encode_event(event_id, timestamp, integration_id, business_id, data) + b"\n"

    def _write(self, connection: socket.socket, splitter: LineSplitter) -> bool:
        """Send a batch; True when the socket takes no more for now."""
        data = self._window.to_send()
        if not data:
            return False
        try:
            count = connection.send(data, NO_SIGNAL)
        except BlockingIOError:
            return True
        except (BrokenPipeError, ConnectionResetError):
            # It hung up, but may have said why, and acknowledged more, before.
            while self._read(connection, splitter):
                pass
            raise
        self._window.wrote(count)
        return count < len(data)

    def _read(self, connection: socket.socket, splitter: LineSplitter) -> bool | None:
        """Follow what the daemon says; False at the end of the stream, None when there is nothing to read now."""
        try:
            data = connection.recv(65536)
        except BlockingIOError:
            return None
        lines = splitter.feed(data)
        self._quiet_until = time.monotonic() + _QUIET
        if splitter.too_large:
            raise ProtocolError(f"a message of more than {_MAX_MESSAGE} bytes")
        rejects: list[Reject] = []
        try:
            for line in lines:
                rejects += self._follow(line)
        finally:  # a refusal may end what has begun well
            self._report(rejects)
        return bool(data)

    def _follow(self, line: bytes) -> list[Reject]:
        message = parse_message(line)
        if isinstance(message, Refusal):
            # Also `producer_in_use`: the id is random, so what took over is a newer connection of this very publisher
            # (this one is half dead), and the id stays.
            raise ProtocolError(f"it refuses with {message.code}: {message.error}")
        rejects = self._window.receive(message)
        if isinstance(message, Welcome):
            if self._backlog.connected(self._window.incidents):
                log.info("the daemon answers again")
            if not self._window.welcomed:
                raise ProtocolError("its state was set back or forgotten; going on as a new producer")
        return rejects

    def _report(self, rejects: list[Reject]) -> None:
        """Tell of rejects, and only then settle, so that who waits for the settling has seen them."""
        if rejects:
            self._backlog.reject(rejects)
            if self._on_reject is not None:
                for reject in rejects:
                    self._call_back(self._on_reject, reject)
        self._backlog.settle(self._window.settled)

    def _call_back(self, on_reject: Callable[[Reject], None], reject: Reject) -> None:
        """Call foreign code; whatever it raises is logged, and must not keep the other events from going out."""
        try:
            on_reject(reject)
        except Exception:
            log.exception("on_reject raised for line %d", reject.line)

    def _poller(self) -> "select.poll":
        # poll and not epoll: a child that closes its copies must not change the parent's set.
        poller = select.poll()
        poller.register(self._doorbell, select.POLLIN)
        return poller

    def _poll(self, poller: "select.poll", timeout_ms: int | None) -> set[int]:
        ready = {descriptor for descriptor, _ in poller.poll(timeout_ms)}
        if self._doorbell.fileno() in ready:
            self._doorbell.silence()
        self._backlog.stay_awake()
        return ready


def _explain(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return f"{os.strerror(error.errno)} (does synceventsd run?)"
    if isinstance(error, PermissionError):
        return f"{error.strerror} (is this user in the socket's group?)"
    return str(error)
