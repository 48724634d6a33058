"""One connection of redis-py: connected and authenticated in a thread, then used by one task without blocking.

Rule of this file: a connection that failed once, or whose call was cancelled, is never used again. redis-py would
connect anew in silence; the forwarder must know, because then the cursor has to be asked again. Errors leave this file
as redis-py raises them. A reply is read in one go for as long as more of it is there: one of 100 MB, which nothing of
ours ever is, would hold the loop for 0.2 s.

Asking from the event loop, and not through a thread, halves what an event costs where events come one by one: the
thread is woken, and wakes the loop when it is done, each of which takes longer than Redis does.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol, cast

import redis.exceptions as theirs
import trio
from attrs import define, field
from redis.backoff import NoBackoff
from redis.connection import Connection, UnixDomainSocketConnection, parse_url
from redis.retry import Retry

from synceventsd.config import RedisConfig, read_secret
from synceventsd.core.errors import RedisUnavailable

Command = Sequence[bytes | str | int]

_AT_ONCE: Final = 0  # redis-py's timeout with which it reads what is there, keeps half a reply, and raises TimeoutError


class _Connection(Protocol):
    """What is used of redis-py's connection; its own annotations are incomplete."""

    # The one use of something private: nothing public reaches the socket, without which nobody can wait for it.
    _sock: Any

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def read_response(self, *, timeout: float = ..., disconnect_on_error: bool = ...) -> Any: ...


@define(eq=False)
class Wire:
    """A connection that has authenticated. Used by one task."""

    _connection: _Connection
    _timeout: float  # seconds without any progress
    _broken: Exception | None = field(default=None, init=False)

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send the commands at once and return their replies, errors as they stand among them.

        The last one may be that of a connection that broke, also before anything was sent. Cancelled, nobody knows
        what was done, and the connection is of no more use.
        """
        if self._broken is not None:
            return [self._broken]
        self._broken = theirs.ConnectionError("closed after an earlier failure")  # stands when this is cancelled
        replies: list[Any] = []
        with trio.move_on_after(self._timeout) as patience:
            self._broken = await self._exchange(commands, replies, patience)
        if patience.cancelled_caught:
            self._broken = theirs.TimeoutError("no reply in time")
        if self._broken is not None:
            replies.append(self._broken)
        return replies

    async def wait_stirring(self) -> None:
        """Wait until the idle connection has something to say: as a rule, that Redis closed it."""
        if self._broken is None:
            await trio.lowlevel.wait_readable(self._connection._sock)

    def close(self) -> None:
        """Close the connection; never raises, never waits."""
        self._connection.disconnect()

    async def _exchange(
        self, commands: Sequence[Command], replies: list[Any], patience: trio.CancelScope
    ) -> Exception | None:
        """Append a reply to each command; return what broke the connection before all were there."""
        try:
            await self._send(_packed(commands), patience)
            await trio.lowlevel.wait_readable(self._connection._sock)  # never there at once; and other tasks get on
            replies.append(await self._reply())
            while len(replies) < len(commands):
                patience.deadline = trio.current_time() + self._timeout
                replies.append(await self._reply())
        except (theirs.RedisError, OSError) as error:
            return error
        return None

    async def _send(self, text: bytes, patience: trio.CancelScope) -> None:
        sock = self._connection._sock
        sock.setblocking(False)  # redis-py's reading sets it back
        left = memoryview(text)
        while left:
            try:
                left = left[sock.send(left) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                await trio.lowlevel.wait_writable(sock)
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(sock)
            else:
                continue
            patience.deadline = trio.current_time() + self._timeout

    async def _reply(self) -> object:
        """Return the next reply, also where that is an error."""
        while True:
            try:
                return self._connection.read_response(timeout=_AT_ONCE, disconnect_on_error=False)
            except theirs.TimeoutError:
                await trio.lowlevel.wait_readable(self._connection._sock)
            except theirs.ResponseError as error:
                return error


def _packed(commands: Sequence[Command]) -> bytes:
    """Return commands as Redis reads them: each an array of strings that say how long they are.

    redis-py leaves that to hiredis, which takes 1.3 us for each event, where this takes 0.15.
    """
    parts: list[bytes] = []
    for command in commands:
        texts = [text if isinstance(text, bytes) else str(text).encode() for text in command]
        parts.append(b"*%d" % len(texts))
        parts += chain.from_iterable(zip(map(_before, map(len, texts)), texts, strict=True))
        parts.append(b"\r\n")
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _before(size: int) -> bytes:
    return b"\r\n$%d\r\n" % size


def connect(config: RedisConfig) -> _Connection:
    """Return redis-py's connection, authenticated; blocks, so it is to be called in a thread.

    It takes at most twice `redis.timeout`, and as long as looking up the name does. The password is read anew each
    time, so that a new one needs no restart. Raises what redis-py raises, and `RedisUnavailable`.
    """
    password = None if config.password_file is None else _password(config.password_file)
    connection = _connection_to(config.url or "", password, config.timeout)
    connection.connect()
    return connection


def _connection_to(url: str, password: str | None, timeout: float) -> _Connection:
    options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    kind: Callable[..., Any] = options.pop("connection_class", Connection)
    if password is not None:
        options["password"] = password
    options |= {
        # Protocol 2 has no pushes and no maintenance notifications, which hide an unread reply from redis-py's checks.
        "protocol": 2,
        # A retry of redis-py sends again without asking the cursor.
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "driver_info": None,
    }
    connection = kind(**options)
    if isinstance(connection, UnixDomainSocketConnection):
        connection.port = None  # type: ignore[attr-defined]  # redis-py asks a Unix connection for it when connecting times out, and falls over
    return cast(_Connection, connection)


def _password(file: Path) -> str:
    try:
        return read_secret(file)
    except OSError as error:
        raise RedisUnavailable("auth", f"redis.password_file cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RedisUnavailable("auth", f"redis.password_file cannot be used: {error}") from error
