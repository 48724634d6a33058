"""How other threads wake the sender's thread while it polls.

Rule of this file: ringing neither blocks nor fails, whatever has become of the other end.
"""

import socket
from typing import Final

NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)
"""The flag for every send: SIGPIPE would kill a program that has restored its default."""


class Doorbell:
    """Wakes a thread that polls; may be rung from every thread and from signal handlers."""

    def __init__(self) -> None:
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)

    def fileno(self) -> int:
        """Return what to poll for reading."""
        return self._inside.fileno()

    def ring(self) -> None:
        """Wake the thread; nothing happens when it is being woken already, or is gone."""
        try:
            self._outside.send(b"\0", NO_SIGNAL)
        except OSError:
            return

    def silence(self) -> None:
        """Take the rings so far for heard."""
        try:
            self._inside.recv(4096)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close both ends."""
        self._inside.close()
        self._outside.close()
