"""What systemd and the daemon tell each other: readiness, status, watchdog, sockets handed over.

Plain functions over the environment: nothing here waits, and nothing here knows Trio. Only the daemon's own process may
notify (the unit says NotifyAccess=main), so no child is asked to.
"""

import os
import socket
from collections.abc import Mapping, MutableMapping

_FIRST_FD = 3  # sd_listen_fds(3): handed-over sockets follow stdin, stdout and stderr
_SEND_TIMEOUT = 1.0  # s; the queue of a systemd that is busy may be full, and the daemon has other work than to wait


def notify_ready(status: str = "", *, environ: Mapping[str, str] = os.environ) -> bool:
    """The start is over; False when nobody listens (not under systemd, or its socket is gone)."""
    return _notify(f"READY=1\nSTATUS={_one_line(status)}" if status else "READY=1", environ)


def notify_status(status: str, *, environ: Mapping[str, str] = os.environ) -> bool:
    """One line for `systemctl status`; False when nobody listens."""
    return _notify(f"STATUS={_one_line(status)}", environ)


def notify_stopping(*, environ: Mapping[str, str] = os.environ) -> bool:
    """The stop has begun; False when nobody listens."""
    return _notify("STOPPING=1", environ)


def notify_still_starting(seconds: int, *, environ: Mapping[str, str] = os.environ) -> bool:
    """The start goes on and may take that many more seconds; False when nobody listens."""
    return _notify(f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000}", environ)


def notify_watchdog(*, environ: Mapping[str, str] = os.environ) -> bool:
    """The daemon makes progress; False when nobody listens."""
    return _notify("WATCHDOG=1", environ)


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds between two watchdog notifications, half of what systemd waits; None when it waits for none of ours."""
    waited = _number(environ, "WATCHDOG_USEC")
    if not waited or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return waited / 1_000_000 / 2


def listen_fds(environ: MutableMapping[str, str], pid: int) -> dict[str, list[socket.socket]]:
    """The sockets that systemd handed to this process, by their FileDescriptorName (`unknown` without one).

    To be called once, early: it removes the variables from `environ`, so that no child takes the sockets for its own.
    Variables meant for another process, or malformed, hand over nothing. The sockets block; no child inherits them.
    Raises `OSError` when a descriptor is no socket.
    """
    meant_for, count = _number(environ, "LISTEN_PID"), _number(environ, "LISTEN_FDS")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(variable, None)
    sockets: dict[str, list[socket.socket]] = {}
    if meant_for != pid:
        return sockets
    for index in range(count):
        handed = socket.socket(fileno=_FIRST_FD + index)
        handed.set_inheritable(False)
        name = names[index] if index < len(names) else ""
        sockets.setdefault(name or "unknown", []).append(handed)
    return sockets


def _notify(message: str, environ: Mapping[str, str]) -> bool:
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract name space
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(_SEND_TIMEOUT)
        try:
            sender.sendto(message.encode(errors="replace"), address)
        except OSError:  # a notification that is lost must not stop what it tells of; the watchdog tells it systemd
            return False
    return True


def _one_line(status: str) -> str:
    # A line end would begin another assignment.
    return " ".join(status.splitlines())


def _number(environ: Mapping[str, str], variable: str) -> int:
    value = environ.get(variable, "")
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 19 else 0
