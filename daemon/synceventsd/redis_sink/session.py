"""One connection to Redis, synchronous: called from one thread at a time, never from the event loop's.

Rule of this file: a connection that failed once is never used again. redis-py would connect anew in silence; the
forwarder must know, because then the cursor has to be asked again. Errors leave this file as redis-py raises them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast

import redis.exceptions as theirs
from attrs import define, evolve, field
from redis.backoff import NoBackoff
from redis.connection import Connection, UnixDomainSocketConnection, parse_url
from redis.retry import Retry

from synceventsd.config import RedisConfig, mask_password, read_secret
from synceventsd.core.batches import SCRIPT_EVENTS
from synceventsd.core.cursor import Answer, Batch, Send, Verdict, cursor_key, decide
from synceventsd.core.errors import RedisUnavailable
from synceventsd.core.positions import Position
from synceventsd.redis_sink.failures import permission_lacks, shebang_unknown, translated
from synceventsd.redis_sink.scripts import CLAIM, DELIVER, Script

_Args = Sequence[bytes | str | int]


class _Wire(Protocol):
    """What is used of redis-py's connection; its own annotations are incomplete."""

    _sock: socket.socket | None

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def pack_commands(self, commands: Sequence[Sequence[bytes | str | int]]) -> list[bytes]: ...
    def send_packed_command(self, command: list[bytes], check_health: bool) -> None: ...
    def read_response(self) -> Any: ...


@define(eq=False)
class Session:
    """A connection that has authenticated, the cursor's key, and what was learnt about the server."""

    _wire: _Wire
    _key: str
    _channel: str
    _shebang: bool = field(default=True, init=False)
    _scripts: bool = field(default=True, init=False)
    _broken: Exception | None = field(default=None, init=False)

    def read_cursor(self) -> bytes | None:
        """Return what the cursor holds; None when there is none."""
        return _text_or_none(self._ask(("GET", self._key))[0])

    def claim(self, expected: bytes | None, cursor: Position) -> Answer:
        """Write the cursor, provided that it still holds `expected`; else it `MOVED`, and nothing was done.

        Proves that Redis takes writes: read-only, out of memory and the like show here, before an event is at stake.
        """
        if self._scripts:
            held = b"-" if expected is None else b"=" + expected
            answer = self._run(CLAIM, [(held, str(cursor), cursor.seq)])
            if answer is not None:
                return answer
        if self._begin_transaction() != expected:
            return self._give_up(Answer(Verdict.MOVED, 0))
        return self._transact(cursor, ())

    def deliver(self, batch: Batch) -> Answer:
        """Publish what of the batch is not out yet, and move the cursor, in steps that nothing can come into."""
        if self._scripts:
            calls: list[_Args] = [
                (f"{part.epoch}-", part.known, part.first, self._channel, *part.lines)
                for part in batch.parts(SCRIPT_EVENTS)
            ]
            answer = self._run(DELIVER, calls)
            if answer is not None:
                return answer
        decision = decide(self._begin_transaction(), batch)
        if isinstance(decision, Send):
            return self._transact(Position(batch.epoch, batch.last), batch.lines[decision.skip :])
        return self._give_up(decision)

    def cut(self) -> None:
        """End the connection now; may be called from another thread, whose call then fails at once."""
        # The one use of redis-py's private `_sock`: nothing public reaches the socket, and `disconnect` takes it away
        # from the thread that uses it. The plain socket's method, because TLS' own would do the same there.
        sock = self._wire._sock
        if sock is not None:
            with suppress(OSError):  # already gone
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 when it is closed."""
        sock = self._wire._sock
        return -1 if sock is None else sock.fileno()

    def close(self) -> None:
        """Close the connection; never raises, never waits."""
        self._wire.disconnect()

    # Scripts

    def _run(self, script: Script, calls: Sequence[_Args]) -> Answer | None:
        """Return the last `DONE` before anything else, or what came instead of the first; None: scripts are forbidden.

        What is wrong with a later one shows when it is sent again. What was done before it must count: it may be that
        the cursor was lost, and then nobody else knows.
        """
        replies = self._evaluate(script, calls)
        if isinstance(replies[0], theirs.ResponseError) and permission_lacks(replies[0]):
            self._scripts = False
            return None
        done = None
        for reply in replies:
            if done is not None and isinstance(reply, Exception):
                break
            answer = _answer(_raised(reply))
            if answer.verdict is not Verdict.DONE:
                return answer if done is None else evolve(done, rest_unsent=True)
            done = answer
        return done

    def _evaluate(self, script: Script, calls: Sequence[_Args]) -> list[Any]:
        name, source = script.sha(shebang=self._shebang), script.source(shebang=self._shebang)
        replies = self._replies([("EVALSHA", name, 1, self._key, *args) for args in calls])
        if not isinstance(replies[0], theirs.NoScriptError):
            return replies
        # New to this server, or the server is new: a restart, a failover, SCRIPT FLUSH.
        replies = self._replies([("EVAL", source, 1, self._key, *args) for args in calls])
        if not (self._shebang and isinstance(replies[0], theirs.ResponseError) and shebang_unknown(replies[0])):
            return replies
        self._shebang = False
        return self._evaluate(script, calls)

    # The way without scripts: the same decisions, made here. Redis refuses the transaction when the cursor was written
    # since it was read. Never a bare PUBLISH: a primary that was demoted answers it with OK, and nobody hears it.

    def _begin_transaction(self) -> bytes | None:
        # MULTI is confirmed before anything follows it: where it is forbidden, what follows would be executed bare.
        return _text_or_none(self._ask(("WATCH", self._key), ("GET", self._key), ("MULTI",))[1])

    def _give_up(self, answer: Answer) -> Answer:
        self._ask(("DISCARD",))
        return answer

    def _transact(self, cursor: Position, lines: Sequence[bytes]) -> Answer:
        publishes = [("PUBLISH", self._channel, line) for line in lines]
        replies = self._ask(("SET", self._key, str(cursor)), *publishes, ("EXEC",))
        results = replies[-1]
        if results is None:
            return Answer(Verdict.MOVED, 0)
        if not isinstance(results, list) or len(results) != len(publishes) + 1:
            raise _not_redis()
        failed = [index for index, result in enumerate(results) if isinstance(result, theirs.ResponseError)]
        if failed:
            # The permission went between queueing and EXEC, and transactions do not roll back: the cursor goes back to
            # the last event that is out. Nobody else writes it; should this fail too, the rest of this batch is lost.
            out = cursor.seq - len(lines) + failed[0] - 1
            self._ask(("SET", self._key, str(Position(cursor.epoch, out))))
            raise results[failed[0]]
        return Answer(Verdict.DONE, cursor.seq)

    def _ask(self, *commands: Sequence[bytes | str | int]) -> list[Any]:
        """Send the commands at once and return their replies; raises the first error among them, once all are read."""
        return [_raised(reply) for reply in self._replies(commands)]

    def _replies(self, commands: Sequence[Sequence[bytes | str | int]]) -> list[Any]:
        """Send the commands at once and return their replies, errors as they stand among them.

        The last one may be that of a connection that broke: it is told again by whatever is asked next.
        """
        if self._broken is not None:
            raise self._broken
        if self.fileno() < 0:
            raise theirs.ConnectionError("closed after an earlier failure")
        self._wire.send_packed_command(self._wire.pack_commands(commands), check_health=False)
        replies: list[Any] = []
        while len(replies) < len(commands) and self._broken is None:
            try:
                replies.append(self._wire.read_response())
            except theirs.ResponseError as error:
                replies.append(error)
            except (theirs.RedisError, OSError) as error:
                self._broken = error
                replies.append(error)
        return replies


def _raised(reply: object) -> object:
    if isinstance(reply, Exception):
        raise reply
    return reply


def _text_or_none(reply: object) -> bytes | None:
    if reply is not None and not isinstance(reply, bytes):
        raise _not_redis()
    return reply


def _answer(reply: object) -> Answer:
    """Return what a script answered, strictly: what listens there may be anything."""
    verdicts = {verdict.value.encode(): verdict for verdict in Verdict}
    match reply:
        case [bytes() as verdict, int() as seq] if verdict in verdicts:
            return Answer(verdicts[verdict], seq)
        case [bytes() as verdict, bytes() as seq] if verdict in verdicts and seq.isdigit():
            return Answer(verdicts[verdict], int(seq))
    raise _not_redis()


def _not_redis() -> theirs.InvalidResponse:
    return theirs.InvalidResponse("a reply of another shape than Redis gives to this command")


def connect(config: RedisConfig, log_id: str) -> Session:
    """Connect and authenticate; blocks for at most twice `redis.timeout`, and for as long as looking up the name takes.

    The password is read anew each time, so that a new one needs no restart.

    Raises:
        RedisUnavailable: always, whatever went wrong.
    """
    with translated(mask_password(config.url or "")):
        wire = connect_wire(config)
    return Session(wire, cursor_key(log_id), config.channel)


def connect_wire(config: RedisConfig) -> _Wire:
    """Return redis-py's connection, authenticated; raises what redis-py raises, and `RedisUnavailable`."""
    password = None if config.password_file is None else _password(config.password_file)
    wire = _wire_to(config.url or "", password, config.timeout)
    wire.connect()
    return wire


def _wire_to(url: str, password: str | None, timeout: float) -> _Wire:
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
    wire = kind(**options)
    if isinstance(wire, UnixDomainSocketConnection):
        wire.port = None  # type: ignore[attr-defined]  # redis-py asks a Unix connection for it when connecting times out, and falls over
    return cast(_Wire, wire)


def _password(file: Path) -> str:
    try:
        return read_secret(file)
    except OSError as error:
        raise RedisUnavailable("auth", f"redis.password_file cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RedisUnavailable("auth", f"redis.password_file cannot be used: {error}") from error
