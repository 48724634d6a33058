"""The link to Redis as trio sees it: every call runs in one worker thread, and can be cancelled.

Rule of this file: a call that may publish is never left to itself. Cancelled, it cuts its connection, and waits for the
thread, which comes back at once; whether Redis did the work is then unknown, and the cursor knows it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import trio
from attrs import define

from synceventsd.config import RedisConfig, mask_password
from synceventsd.core.cursor import Answer, Batch
from synceventsd.core.errors import RedisUnavailable
from synceventsd.core.positions import Position
from synceventsd.redis_sink.failures import translated
from synceventsd.redis_sink.session import Session, connect

T = TypeVar("T")

CUT_OFF: Final = 2.0  # seconds in which a thread comes back whose connection was cut; it takes one millisecond


@define(eq=False)
class Link:
    """A connection to Redis. Used by one task; after `RedisUnavailable` it is of no more use."""

    _session: Session
    _lane: trio.CapacityLimiter
    _place: str

    async def read_cursor(self) -> bytes | None:
        """Return what the cursor holds; None when there is none.

        Raises:
            RedisUnavailable: as all calls here.
        """
        return await self._call(self._session.read_cursor)

    async def claim(self, expected: bytes | None, cursor: Position) -> Answer:
        """Write the cursor, provided that it still holds `expected`: `DONE`, else `MOVED`."""
        return await self._call(lambda: self._session.claim(expected, cursor))

    async def deliver(self, batch: Batch) -> Answer:
        """Publish what of the batch is not out yet, and move the cursor, in one step.

        On `RedisUnavailable`, and when cancelled, nobody knows whether that was done: ask the cursor.
        """
        return await self._call(lambda: self._session.deliver(batch))

    async def wait_stirring(self) -> None:
        """Wait until the idle connection has something to say: as a rule, that Redis closed it."""
        descriptor = self._session.fileno()
        if descriptor >= 0:
            await trio.lowlevel.wait_readable(descriptor)

    async def _call(self, work: Callable[[], T]) -> T:
        # Not a task beside the call that waits for its cancellation: that costs as much as the call.
        try:
            outcome = await trio.to_thread.run_sync(
                _outcome, work, self._place, abandon_on_cancel=True, limiter=self._lane
            )
        except trio.Cancelled:
            self._session.cut()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CUT_OFF):
                async with self._lane:
                    pass  # the thread is back
            raise
        if isinstance(outcome, RedisUnavailable):
            raise outcome
        return outcome


@asynccontextmanager
async def open_link(config: RedisConfig, log_id: str, lane: trio.CapacityLimiter) -> AsyncIterator[Link]:
    """Connect and authenticate; close the connection at the end.

    Connecting, unlike sending, is abandoned when cancelled or late: looking up a name cannot be interrupted. The thread
    keeps its place in the lane until it is back, so that there is never more than one.

    Args:
        config: `url` is not None.
        log_id: the log's UUID, part of the cursor's key.
        lane: of one place, and of nobody else's.

    Raises:
        RedisUnavailable: no connection, or not permitted.
    """
    place = mask_password(config.url or "")
    outcome: Session | RedisUnavailable = RedisUnavailable(
        "timeout", f"Redis at {place} could not be connected to within twice redis.timeout; does its name resolve?"
    )
    with trio.move_on_after(2 * config.timeout):
        outcome = await trio.to_thread.run_sync(_connected, config, log_id, place, abandon_on_cancel=True, limiter=lane)
    if isinstance(outcome, RedisUnavailable):
        raise outcome
    try:
        yield Link(outcome, lane, place)
    finally:
        outcome.close()


def _connected(config: RedisConfig, log_id: str, place: str) -> Session | RedisUnavailable:
    return _outcome(lambda: connect(config, log_id), place)


def _outcome(work: Callable[[], T], place: str) -> T | RedisUnavailable:
    # Returned, not raised: what an abandoned thread raises would be lost in silence, or told by somebody else.
    try:
        with translated(place):
            return work()
    except RedisUnavailable as error:
        return error
