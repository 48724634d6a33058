"""One publisher's machinery: its backlog, its sender, and what forks, exits and closing do to them.

Rule of this file: it exists once per publisher and process; in a forked child it starts afresh. Both faces of the
publisher, the synchronous and the asynchronous one, stand on it.
"""

import os
from collections.abc import Callable
from typing import Final

from syncevents import lifetime
from syncevents._version import __version__
from syncevents.backlog import Backlog, Overflow, Typed, log
from syncevents.sender import Sender
from syncevents.wire import Reject

DEFAULT_SOCKET: Final = "/run/synceventsd/synceventsd.sock"
"""Where the system's daemon listens."""

DEFAULT_CLIENT: Final = f"syncevents/{__version__}"

SocketPath = str | os.PathLike[str] | None

_MAX_CLIENT: Final = 256  # characters; a hello must fit into any frame that a daemon may allow
_MAX_SOCKET_PATH: Final = 107  # bytes; the kernel's sockaddr_un holds one more, which is NUL
_getpid = os.getpid


class Carrier:
    """Takes events in, and has them carried to the daemon. The arguments are those of `Publisher`."""

    def __init__(
        self,
        socket_path: SocketPath,
        client: str,
        max_pending: int,
        overflow: Overflow,
        on_reject: Callable[[Reject], None] | None,
    ) -> None:
        self._socket_path = None if socket_path is None else _check_path(socket_path)
        self._client = _check_client(client)
        self._max_pending = _check_max_pending(max_pending)
        if overflow not in ("raise", "drop"):
            raise ValueError(f'overflow must be "raise" or "drop", not {overflow!r}')
        self._overflow: Overflow = overflow
        self._on_reject = on_reject
        self._start_afresh()
        lifetime.register(self)

    @property
    def backlog(self) -> Backlog:
        """The backlog of this process."""
        # The second line of defence against a fork that ran no hooks (one made by foreign C code).
        if self._pid != _getpid():
            self.forked()
        return self._backlog

    def put(self, item: Typed | bytes) -> bool:
        """Queue an event; see `Backlog.put`."""
        return self.backlog.put(item)

    def begin_flush(self) -> int:
        """Return the ordinal of the newest event, and see to it that the sender runs."""
        backlog = self.backlog
        target = backlog.taken
        if backlog.settled < target:
            error = self._ring()
            if error is not None and backlog.disconnected(error):
                log.warning("events wait: %s", error)
        return target

    def end_flush(self, target: int, timeout: float | None) -> None:
        """Raise TimeoutError when not all up to `target` is settled, else `Rejected` when something was."""
        backlog = self.backlog
        missing = target - backlog.settled
        if missing <= 0:
            backlog.raise_rejects()
            return
        reason = backlog.statistics().last_error or f"the daemon at {self.find_socket()} is slow or stores nothing"
        events = "1 event is" if missing == 1 else f"{missing} events are"
        waited = "because the publisher was closed" if timeout is None else f"after {timeout:.3g} s"
        raise TimeoutError(f"{events} not acknowledged {waited}: {reason}")

    def flush(self, timeout: float | None) -> None:
        """Wait for the acknowledgements of all that was put before; raises as `end_flush`."""
        target = self.begin_flush()
        self.backlog.wait_settled(target, timeout)
        self.end_flush(target, timeout)

    def close_backlog(self) -> bool:
        """Take nothing more; False when it was closed before."""
        backlog = self.backlog
        with backlog.lock:
            was_closed, backlog.closed = backlog.closed, True
        return not was_closed

    def stop(self) -> None:
        """End the thread and the connection."""
        self.backlog.stop()
        if self._sender is not None:
            self._sender.join(timeout=1)
        lifetime.forget(self)

    def find_socket(self) -> str:
        """Return the path to connect to. The environment is asked each time, as the program may still set it."""
        return self._socket_path or os.environ.get("SYNCEVENTS_SOCKET") or DEFAULT_SOCKET

    def before_fork(self) -> None:
        """Keep the other threads out, so that the child gets no half-made connection."""
        self._backlog.lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Let the other threads go on."""
        self._backlog.lock.release()

    def forked(self) -> None:
        """Become a new producer with an empty queue, in a forked child; the parent keeps what it had."""
        sender, closed = self._sender, self._backlog.closed
        # Without its lock, which nobody may be left to release. It ends the sender's loop, if that is what forked.
        self._backlog.stopping = True
        self._start_afresh()
        self._backlog.closed = closed
        if sender is not None:
            sender.abandon()

    def _start_afresh(self) -> None:
        self._pid = _getpid()
        self._sender: Sender | None = None
        self._backlog = Backlog(self._max_pending, self._overflow, self._ring)

    def _ring(self) -> str | None:
        try:
            self._run_sender()
        except (RuntimeError, OSError) as error:
            # No thread or no descriptor: too many, or the interpreter is ending. The event stays queued, and the next
            # one tries again.
            return f"cannot start the sender's thread: {error}"
        return None

    def _run_sender(self) -> None:
        with self._backlog.lock:
            if self._sender is None:
                self._sender = Sender(self._backlog, self.find_socket, self._client, self._on_reject)
            sender = self._sender
        sender.ring()


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
    if len(client) > _MAX_CLIENT:
        raise ValueError(f"client must have at most {_MAX_CLIENT} characters, not {len(client)}")
    if any("\ud800" <= character <= "\udfff" for character in client):
        raise ValueError("client must not hold lone surrogates")
    return client


def _check_max_pending(max_pending: int) -> int:
    if isinstance(max_pending, bool) or not isinstance(max_pending, int):
        raise TypeError(f"max_pending must be an int, not {type(max_pending).__name__}")
    if max_pending < 1:
        raise ValueError(f"max_pending must be at least 1, not {max_pending}")
    return max_pending
