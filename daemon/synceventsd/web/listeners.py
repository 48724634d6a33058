"""Where HTTP listens: opening the sockets of `http.bind`, or taking those that systemd handed over.

Every fault is told as the setting, its value and what to do about it.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from synceventsd.config import TcpBind, UnixBind
from synceventsd.core.errors import StartupError
from synceventsd.sockets import BACKLOG, bind_unix, remove_socket

UNIX_MODE: Final = 0o660

# The belt beside the deadline of each send, for a peer that is gone without a word: seconds on top of it.
USER_TIMEOUT_MARGIN: Final = 5.0
LONGEST_USER_TIMEOUT: Final = 86400.0  # the kernel counts milliseconds in 32 bits

_REMEDIES: Final = {
    errno.EADDRINUSE: "something else listens there; stop it, or set another port",
    errno.EADDRNOTAVAIL: "this machine does not have that address; set one that it has",
    errno.EACCES: "set a port above 1023",
}


@contextmanager
def listening(
    bind: TcpBind | UnixBind | None, handed: Sequence[socket.socket], send_timeout: float
) -> Iterator[list[socket.socket]]:
    """Listen for the length of a `with` block; a Unix socket of our own making is removed at its end.

    Args:
        bind: the setting.
        handed: sockets from systemd, already bound; with any, `bind` is not looked at.
        send_timeout: seconds; a TCP peer that acknowledges nothing for a little longer is dropped by the kernel.

    Raises:
        StartupError: nobody can listen there.
    """
    made = [] if handed or bind is None else _bind_all(bind)
    sockets = [*handed, *made]
    ours = bind.path if made and isinstance(bind, UnixBind) else None
    inode = 0 if ours is None else ours.stat().st_ino
    try:
        for sock in sockets:
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                limit = round(min(send_timeout + USER_TIMEOUT_MARGIN, LONGEST_USER_TIMEOUT) * 1000)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.listen(BACKLOG)
        yield sockets
    finally:
        for sock in sockets:
            sock.close()
        if ours is not None:
            remove_socket(ours, inode)


def is_local(sock: socket.socket) -> bool:
    """Return whether only this machine can reach what listens there."""
    return sock.family == socket.AF_UNIX or ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


def addresses(sockets: Sequence[socket.socket]) -> list[str]:
    """Return where the sockets listen, as URLs and paths for people and for the log."""
    return [_address(sock) for sock in sockets]


def as_listeners(sockets: Sequence[socket.socket]) -> list[trio.SocketListener]:
    """Return the sockets as Trio wants them."""
    return [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]


def _address(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    return f"http://[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"http://{name[0]}:{name[1]}"


def _bind_all(bind: TcpBind | UnixBind) -> list[socket.socket]:
    if isinstance(bind, UnixBind):
        return [bind_unix(bind.path, UNIX_MODE, None, "http.bind")]
    try:
        return _bind_tcp(bind)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "set another address")
        raise StartupError(f"http.bind = {bind}: {error.strerror or error}; {remedy}") from error


def _bind_tcp(bind: TcpBind) -> list[socket.socket]:
    """Bind every address of the host; of a name with several, those that this machine lacks are left out."""
    # Blocks for as long as a name takes to resolve; nothing else runs yet, and an address takes no time.
    found = socket.getaddrinfo(bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    port = bind.port
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            sock = _bind_address(family, (address[0], port, *address[2:]))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                for bound in sockets:
                    bound.close()
                raise
            missing = error
            continue
        sockets.append(sock)
        port = sock.getsockname()[1]  # a port that the system chose holds for all addresses of the name
    if not sockets and missing is not None:
        raise missing
    return sockets


def _bind_address(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
