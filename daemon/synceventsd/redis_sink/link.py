"""The link to Redis: the cursor read, claimed, and moved together with what is published.

Rule of this file: what is published and the cursor change in one step of Redis, or not at all. A call that broke off or
was cancelled may have been done or not; the cursor knows it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import redis.exceptions as theirs
import trio
from attrs import define, field

from synceventsd.config import RedisConfig, mask_password
from synceventsd.core.cursor import Answer, Batch, Send, Verdict, cursor_key, decide
from synceventsd.core.errors import RedisUnavailable
from synceventsd.core.positions import Position
from synceventsd.redis_sink.failures import permission_lacks, shebang_unknown, translated
from synceventsd.redis_sink.scripts import CLAIM, DELIVER, Script
from synceventsd.redis_sink.wire import Command, Wire, connect

_VERDICTS: Final = {verdict.value.encode(): verdict for verdict in Verdict}


@define(eq=False)
class Link:
    """A connection to Redis, and what was learnt about the server. Used by one task.

    After `RedisUnavailable`, and after a call that was cancelled, it is of no more use.
    """

    _wire: Wire
    _key: str
    _channel: str
    _place: str
    _shebang: bool = field(default=True, init=False)
    _scripts: bool = field(default=True, init=False)

    async def read_cursor(self) -> bytes | None:
        """Return what the cursor holds; None when there is none.

        Raises:
            RedisUnavailable: as all calls here.
        """
        with translated(self._place):
            return _text_or_none((await self._ask(("GET", self._key)))[0])

    async def claim(self, expected: bytes | None, cursor: Position) -> Answer:
        """Write the cursor, provided that it still holds `expected`; else it `MOVED`, and nothing was done.

        Proves that Redis takes writes: read-only, out of memory and the like show here, before an event is at stake.
        """
        with translated(self._place):
            if self._scripts:
                held = b"-" if expected is None else b"=" + expected
                answer = await self._run(CLAIM, (held, str(cursor), cursor.seq))
                if answer is not None:
                    return answer
            if await self._begin_transaction() != expected:
                return await self._give_up(Answer(Verdict.MOVED, 0))
            return await self._transact(cursor, ())

    async def deliver(self, batch: Batch) -> Answer:
        """Publish what of the batch is not out yet, and move the cursor, in steps that nothing can come into.

        On `RedisUnavailable`, and when cancelled, nobody knows whether that was done: ask the cursor.
        """
        with translated(self._place):
            if self._scripts:
                args: Command = (f"{batch.epoch}-", batch.known, batch.first, self._channel, *batch.lines)
                answer = await self._run(DELIVER, args)
                if answer is not None:
                    return answer
            decision = decide(await self._begin_transaction(), batch)
            if isinstance(decision, Send):
                return await self._transact(Position(batch.epoch, batch.last), batch.lines[decision.skip :])
            return await self._give_up(decision)

    async def wait_stirring(self) -> None:
        """Wait until the idle connection has something to say: as a rule, that Redis closed it."""
        await self._wire.wait_stirring()

    # Scripts

    async def _run(self, script: Script, args: Command) -> Answer | None:
        """Return what the script decided; None: scripts are forbidden."""
        reply = await self._evaluate(script, args)
        if isinstance(reply, theirs.ResponseError) and permission_lacks(reply):
            self._scripts = False
            return None
        return _answer(_raised(reply))

    async def _evaluate(self, script: Script, args: Command) -> object:
        name, source = script.sha(shebang=self._shebang), script.source(shebang=self._shebang)
        [reply] = await self._wire.ask([("EVALSHA", name, 1, self._key, *args)])
        if not isinstance(reply, theirs.NoScriptError):
            return reply
        # New to this server, or the server is new: a restart, a failover, SCRIPT FLUSH.
        [reply] = await self._wire.ask([("EVAL", source, 1, self._key, *args)])
        if not (self._shebang and isinstance(reply, theirs.ResponseError) and shebang_unknown(reply)):
            return reply
        self._shebang = False
        return await self._evaluate(script, args)

    # The way without scripts: the same decisions, made here. Redis refuses the transaction when the cursor was written
    # since it was read. Never a bare PUBLISH: a primary that was demoted answers it with OK, and nobody hears it.

    async def _begin_transaction(self) -> bytes | None:
        # MULTI is confirmed before anything follows it: where it is forbidden, what follows would be executed bare.
        return _text_or_none((await self._ask(("WATCH", self._key), ("GET", self._key), ("MULTI",)))[1])

    async def _give_up(self, answer: Answer) -> Answer:
        await self._ask(("DISCARD",))
        return answer

    async def _transact(self, cursor: Position, lines: Sequence[bytes]) -> Answer:
        publishes = [("PUBLISH", self._channel, line) for line in lines]
        replies = await self._ask(("SET", self._key, str(cursor)), *publishes, ("EXEC",))
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
            await self._ask(("SET", self._key, str(Position(cursor.epoch, out))))
            raise results[failed[0]]
        return Answer(Verdict.DONE, cursor.seq)

    async def _ask(self, *commands: Command) -> list[Any]:
        """Send the commands at once and return their replies; raises the first error among them, once all are read."""
        return [_raised(reply) for reply in await self._wire.ask(commands)]


@asynccontextmanager
async def open_link(config: RedisConfig, log_id: str, lane: trio.CapacityLimiter) -> AsyncIterator[Link]:
    """Connect and authenticate; close the connection at the end.

    Connecting is abandoned when cancelled or late: looking up a name cannot be interrupted. The thread keeps its place
    in the lane until it is back, so that there is never more than one.

    Args:
        config: `url` is not None.
        log_id: the log's UUID, part of the cursor's key.
        lane: of one place, and of nobody else's.

    Raises:
        RedisUnavailable: no connection, or not permitted.
    """
    place = mask_password(config.url or "")
    outcome: Wire | RedisUnavailable = RedisUnavailable(
        "timeout", f"Redis at {place} could not be connected to within twice redis.timeout; does its name resolve?"
    )
    with trio.move_on_after(2 * config.timeout):
        outcome = await trio.to_thread.run_sync(_connected, config, place, abandon_on_cancel=True, limiter=lane)
    if isinstance(outcome, RedisUnavailable):
        raise outcome
    try:
        yield Link(outcome, cursor_key(log_id), config.channel, place)
    finally:
        outcome.close()


def _connected(config: RedisConfig, place: str) -> Wire | RedisUnavailable:
    # Returned, not raised: what an abandoned thread raises would be lost in silence, or told by somebody else.
    try:
        with translated(place):
            return Wire(connect(config), config.timeout)
    except RedisUnavailable as error:
        return error


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
    match reply:
        case [bytes() as verdict, int() as seq] if verdict in _VERDICTS:
            return Answer(_VERDICTS[verdict], seq)
        case [bytes() as verdict, bytes() as seq] if verdict in _VERDICTS and seq.isdigit():
            return Answer(_VERDICTS[verdict], int(seq))
    raise _not_redis()


def _not_redis() -> theirs.InvalidResponse:
    return theirs.InvalidResponse("a reply of another shape than Redis gives to this command")
