"""What an operator may ask of the running daemon on the publishers' socket, in place of a hello.

Rule of this file: only root and the daemon's own user are obeyed, as the kernel noted who connected.
"""

from __future__ import annotations

import os

from syncevents import wire
from synceventsd.eventlog import EventLog


class Forbidden(Exception):
    """This user may not ask. Reader: refuse the connection."""

    code = "forbidden"


async def obey(line: bytes, uid: int, log: EventLog) -> bytes:
    """Do what the line asks for, durably, and return the answer.

    Args:
        line: for which `wire.is_admin` holds.
        uid: who asks.
        log: the daemon's.

    Raises:
        Forbidden: the user is neither root nor the daemon's own.
        BadAdminRequest: the request is not one of ours.
        RetryRefused: these events cannot go out again.
    """
    if uid not in (0, os.geteuid()):
        raise Forbidden(f"user {uid} may not ask for this: only root and the daemon's own user, {os.geteuid()}")
    request = wire.parse_admin(line)
    return wire.encode_retrying(*await log.send_again(request.retry_from, uid))
