"""Asking the running daemon over its socket: one line there, one line back."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from attrs import frozen

from syncevents import wire


class NotReached(Exception):
    """There is no daemon at the socket. Reader: start it, or name the right socket."""


class NotAllowed(Exception):
    """This user may not. Reader: be another one."""


class NotAnswered(Exception):
    """It is not known whether it was done. Reader: look, and ask again."""


class NotUnderstood(Exception):
    """The daemon is older than this program. Reader: upgrade it."""


class Refused(Exception):
    """The daemon says why not."""


@frozen
class Retrying:
    """These events go out again."""

    first: int
    last: int


def ask_to_retry(path: Path, seq: int, timeout: float) -> Retrying:
    """Have the daemon send the events from number `seq` on to Redis again; durable when it returns.

    Args:
        path: the daemon's socket.
        seq: at least 1.
        timeout: seconds to connect, and to be answered.

    Raises:
        NotReached, NotAllowed, Refused, NotUnderstood: nothing was done.
        NotAnswered: perhaps it was.
    """
    line = _exchange(path, wire.encode_retry_from(seq), timeout)
    try:
        answer: Any = json.loads(line)
    except ValueError:
        answer = None
    match answer:
        case {"admin": {"retrying": {"first": int(first), "last": int(last)}}}:
            return Retrying(first, last)
        case {"code": "forbidden", "error": str(error)}:
            raise NotAllowed(error)
        case {"code": "too_many_clients", "error": str(error)}:
            raise NotReached(error)
        case {"code": str(), "error": str(error)} if "reject" not in answer:
            raise Refused(error)
    raise NotUnderstood(f"the daemon at {path} does not know this request; it is of another version")


def _exchange(path: Path, request: bytes, timeout: float) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
        except PermissionError as error:
            raise NotAllowed(f"this user may not connect to {path}; be root, or the daemon's user") from error
        except OSError as error:
            raise NotReached(f"no daemon at {path}: {error.strerror or error}; is it running?") from error
        try:
            connection.sendall(request)
            return _line(connection)
        except TimeoutError as error:
            raise NotAnswered(f"the daemon did not answer within {timeout:g} s; it may have been done") from error
        except OSError as error:
            raise NotAnswered(f"the connection broke: {error.strerror}; it may have been done") from error


def _line(connection: socket.socket) -> bytes:
    received = b""
    while b"\n" not in received:
        data = connection.recv(65536)
        if not data:
            raise NotAnswered("the daemon ended before it answered; it may have been done")
        received += data
    return received.partition(b"\n")[0]
