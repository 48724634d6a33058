"""The forwarder: a cursor over the log, whose reader is Redis.

Owns the link to Redis and the log's mark of what is out. Waits for new events, for Redis, and for the pace of a
backlog. Cancelled anywhere it leaves nothing to repair: what is out is known to the cursor, which lives in Redis. It
survives every failure of Redis, and a log that cannot be read for a while, and never gives up.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NoReturn, TypeVar

import trio
from attrs import define, field

from synceventsd.config import RedisConfig
from synceventsd.core import backoff, pacing
from synceventsd.core.batches import MAX_EVENTS
from synceventsd.core.cursor import Batch, Verdict, repeated, resolve
from synceventsd.core.errors import RedisUnavailable
from synceventsd.core.ledger import Incident
from synceventsd.core.positions import Position
from synceventsd.eventlog import EventLog
from synceventsd.forwarder_state import ForwarderState, RedisState, RedisView
from synceventsd.forwarder_supply import RETRY_READ, Hole, Supply, Unreadable
from synceventsd.logs import get_logger
from synceventsd.redis_sink import Link, open_link

log = get_logger("forwarder")
T = TypeVar("T")

# How long a link goes unproven while there is nothing to send (seconds). Together with `forwarder_state.SILENT_AFTER`
# it is how soon /status says that Redis hangs: within one second, as promised.
CHECK_EVERY: Final = 0.4
BRISK: Final = 0.02  # seconds after an event in which nothing but the next one is waited for


async def forward(events: EventLog, config: RedisConfig, state: ForwarderState) -> NoReturn:
    """Forward for ever: connect, ask the cursor, send, and after every failure back off and begin again.

    Cancelling ends a call that is under way by cutting the connection. What that call did is found out by the next
    start from the cursor.

    Args:
        events: the log, opened with `forwarding`.
        config: `url` is not None.
        state: what /status reads; this task alone writes it. One for as long as the log is open.
    """
    sender = _Sender(events, config, state)
    while True:
        try:
            await sender.serve()
        except RedisUnavailable as error:
            failure = error
        if failure.reason == "timeout":
            sender.send_less()
        if state.failed(failure, time.time()):
            log.warning(
                "redis.lost", reason=failure.reason, message=str(failure), waiting=events.last - events.forwarded
            )
        await trio.sleep(backoff.delay(state.failures, random.random()))  # noqa: S311 (jitter is no secret)


@define(eq=False)
class _Sender:
    """Where Redis is, and what was read ahead for it.

    Attributes:
        position: everything up to this number is out, and the cursor says so.
        epoch: under whose name the cursor says so; another one has begun when events are to be sent again.
    """

    events: EventLog
    config: RedisConfig
    state: ForwarderState
    position: int = field(default=0, init=False)
    epoch: str = field(default="", init=False)
    _supply: Supply = field(init=False)
    _most: int = field(default=MAX_EVENTS, init=False)  # events in the next batch
    _trying: int = field(default=MAX_EVENTS, init=False)  # events in the one that is on its way
    _measured: int = field(default=0, init=False)  # the latency of events up to this number is counted
    _pace: pacing.Pace | None = field(default=None, init=False)
    _lane: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1), init=False)

    def __attrs_post_init__(self) -> None:
        self._supply = Supply(self.events)

    async def serve(self) -> NoReturn:
        """Connect and send until something goes wrong.

        Raises:
            RedisUnavailable: always, in the end.
        """
        self.state.asking(trio.current_time())
        async with open_link(self.config, self.events.log_id, self._lane) as link:
            self.state.answered()
            await self._resolve(link)
            while True:
                await self._step(link)

    async def _step(self, link: Link) -> None:
        """Send one batch, or wait until there is something to send or time to ask whether Redis is still there."""
        if self._is_outdated():
            await self._resolve(link)
        waiting = self.events.last - self.position
        if waiting == 0:
            self._pace = None
            self._note_works()
            await self._rest(link)
            return
        granted = self._grant(waiting)
        if granted.count == 0:
            await self._pause(link, granted.pause)
            return
        lines = await self._next_lines(link, min(granted.count, self._most))
        if lines:
            self._trying = len(lines)
            await self._send(link, lines)
            self._trying = self._most = min(MAX_EVENTS, self._most + self._most // 8 + 1)

    def send_less(self) -> None:
        """Halve the batches, for a network on which a large one does not arrive within `redis.timeout`."""
        self._most = max(1, min(self._most, self._trying) // 2)

    # The cursor

    async def _resolve(self, link: Link) -> None:
        """Find out where to go on, and make the cursor ours, which proves that Redis takes writes."""
        raw = await self._ask(link.read_cursor)
        asked_for = self._is_outdated() and self.epoch != ""
        epoch = self.events.epochs.current.name
        facts = (raw, self.events.epochs, self.events.last, self.events.forwarded, self.state.known)
        out = resolve(*facts)
        again = self.position - out if asked_for else repeated(*facts)
        self.state.known = max(self.state.known, out)
        await self._claim(link, raw, Position(epoch, out))
        if again > 0:
            self._note_rewind(out + again, out, asked_for=asked_for)
        self._begin_pace()

    def _is_outdated(self) -> bool:
        """Return whether events are to be sent again since the cursor was claimed."""
        return self.epoch != self.events.epochs.current.name

    async def _claim(self, link: Link, expected: bytes | None, cursor: Position) -> None:
        answer = await self._ask(lambda: link.claim(expected, cursor))
        if answer.verdict is not Verdict.DONE:
            raise _cursor_lost()
        self.epoch = cursor.epoch  # not before: a claim that fails leaves it to be seen that events are wanted again
        self._move_to(cursor.seq)

    async def _send(self, link: Link, lines: Sequence[bytes]) -> None:
        if self._is_outdated():  # what was accepted since that epoch began must not go out under the older one too
            return
        batch = Batch(self.epoch, self.state.known, self.position + 1, lines)
        self.state.known = max(self.state.known, batch.last)
        answer = await self._ask(lambda: link.deliver(batch))
        if answer.verdict is Verdict.DONE:
            self._note_sent(answer.seq)
            self._move_to(answer.seq)
            return
        # Nothing of it was sent, and a cursor further ahead than what was must look foreign when it is asked next.
        self.state.known = batch.known
        if answer.verdict is not Verdict.BEHIND:
            raise _cursor_lost()
        self._note_rewind(self.position, answer.seq)
        self._move_to(answer.seq)
        self._begin_pace()

    async def _check(self, link: Link) -> None:
        """Ask with an empty batch: shows a dead link, a Redis that takes no writes, and a cursor that is gone."""
        await self._send(link, ())

    def _cursor(self, seq: int) -> Position:
        return Position(self.epoch, seq)

    def _move_to(self, seq: int) -> None:
        if seq < self.position:
            self._supply.go_back()
        self.position = seq
        self.events.mark_forwarded(self._cursor(seq))

    # The log

    async def _next_lines(self, link: Link, count: int) -> list[bytes]:
        """Return the next events, at most `count`; none when it is time to look again."""
        found = await self._supply.next(self.position, count)
        if isinstance(found, Unreadable):
            log.warning("redis.log_unreadable", reason=found.why)
            await self._pause(link, RETRY_READ)
        elif isinstance(found, Hole):
            await self._step_over(link, found)
        else:
            return found
        return []

    async def _step_over(self, link: Link, hole: Hole) -> None:
        """Go on behind a hole. Only a damaged one is a loss: what retention took was out once, and is not repeated."""
        if hole.damage is None:
            log.warning("redis.not_resent", first=hole.first, last=hole.last, why="no longer in the log")
            await self._write_down("not_resent", hole, "no longer in the log when Redis went back to an older cursor")
        else:
            log.error("redis.events_lost", first=hole.first, last=hole.last, reason=str(hole.damage))
            await self._write_down("damaged", hole, f"never sent to Redis: {hole.damage}")
        self.state.known = max(self.state.known, hole.last)
        await self._claim(link, str(self._cursor(self.position)).encode(), self._cursor(hole.last))

    async def _write_down(self, reason: str, hole: Hole, detail: str) -> None:
        """Have it in the ledger before the cursor moves over it; a crash between the two writes nothing twice."""
        count = hole.last - hole.first + 1
        self.events.note(Incident(reason, count, first=hole.first, last=hole.last, detail=detail, once=True))
        await self.events.wait_noted()

    # Waiting

    async def _rest(self, link: Link) -> None:
        """Wait for an event; meanwhile ask Redis now and then, and at once when the connection stirs."""
        with trio.move_on_after(BRISK):  # events that come in quick succession need no task beside
            await self.events.wait_beyond(self.position)
            return
        with trio.move_on_after(CHECK_EVERY - BRISK):
            await _first_of(lambda: self.events.wait_beyond(self.position), link.wait_stirring)
        if self.events.last == self.position:
            await self._check(link)

    async def _pause(self, link: Link, seconds: float) -> None:
        await trio.sleep(min(seconds, CHECK_EVERY))
        if seconds >= CHECK_EVERY:
            await self._check(link)

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        self.state.asking(trio.current_time())
        answer = await call()
        self.state.answered()
        return answer

    # The pace

    def _begin_pace(self) -> None:
        rate = self.config.backlog_rate
        self._pace = pacing.begin(rate, trio.current_time(), self.events.last) if rate else None

    def _grant(self, waiting: int) -> pacing.Grant:
        if self._pace is None:
            return pacing.Grant(waiting)
        self._pace = self._pace.advance(trio.current_time(), self.events.last)
        return self._pace.grant(waiting)

    # What is told

    def _note_works(self) -> None:
        failures = self.state.works(time.time())
        if failures:
            log.info("redis.recovered", failures=failures, waiting=self.events.last - self.position)
        elif failures == 0:
            log.info("redis.connected", waiting=self.events.last - self.position)

    def _note_sent(self, seq: int) -> None:
        count = seq - self.position
        if count > 0:
            now = time.time()
            self.state.went_out(count, now)
            for accepted_at, events in self._supply.accepted(max(self.position, self._measured), seq):
                self.state.latency.observe(now - accepted_at, events)
            self._measured = max(self._measured, seq)
            self._pace = self._pace and self._pace.spend(count)
            self._note_works()

    def _note_rewind(self, before: int, now: int, *, asked_for: bool = False) -> None:
        self.state.rewound(before - now)
        if asked_for:  # and told when it was
            return
        detail = "Redis had lost the cursor, or went back to an older one: sent again"
        self.events.note(Incident("sent_again", before - now, first=now + 1, last=before, detail=detail))
        why = "Redis lost the cursor, or holds an older one"
        log.warning("redis.set_back", again_from=now + 1, again_to=before, why=why)


def _cursor_lost() -> RedisUnavailable:
    return RedisUnavailable(
        "cursor", "Redis lost the cursor, or somebody else changed it; going on from the log's own mark, or from theirs"
    )


async def _first_of(*waits: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:

        async def wait_for(wait: Callable[[], Awaitable[None]]) -> None:
            await wait()
            nursery.cancel_scope.cancel()

        for wait in waits:
            nursery.start_soon(wait_for, wait)


__all__ = ["ForwarderState", "RedisState", "RedisView", "forward"]
