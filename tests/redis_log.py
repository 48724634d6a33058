"""A log that is being forwarded, for tests of the way to Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from attrs import define
from tests.events import Hand, line
from tests.redis_servers import PATIENCE

from synceventsd.config import RedisConfig
from synceventsd.eventlog import EventLog, open_log
from synceventsd.eventlog.committer import Retention
from synceventsd.forwarder import ForwarderState, RedisView, forward

ROOMY = Retention(2**32, 2**30, 7 * 86400.0)


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait until the condition holds."""
    deadline = trio.current_time() + PATIENCE
    while not condition():
        assert trio.current_time() < deadline, f"did not happen: {what or condition}"
        await trio.sleep(0.01)


@define(eq=False)
class Events:
    """A log with its committer running, which numbers what it is given: event n is `line(n)`."""

    log: EventLog
    hand: Hand
    state: ForwarderState

    async def accept(self, count: int) -> list[bytes]:
        """Add that many events, a commit each hundred; return all lines of the log so far."""
        first = self.log.last + 1
        for start in range(first, first + count, 100):
            await self.hand.append(*(line(number) for number in range(start, min(start + 100, first + count))))
        return lines(self.log.last)

    async def all_out(self) -> None:
        await until(lambda: self.log.forwarded == self.log.last, "everything is out")


def lines(last: int, first: int = 1) -> list[bytes]:
    """Return the events of those numbers."""
    return [line(number) for number in range(first, last + 1)]


@asynccontextmanager
async def event_log(directory: Path) -> AsyncIterator[Events]:
    """Open a log and run its committer."""
    async with open_log(directory, "process", ROOMY, forwarding=True) as log, trio.open_nursery() as nursery:
        nursery.start_soon(log.committer.run)
        yield Events(log, Hand(log), ForwarderState())
        await log.committer.wait_empty()
        nursery.cancel_scope.cancel()


@define(eq=False)
class Running:
    """A forwarder at work."""

    state: ForwarderState

    def view(self) -> RedisView:
        return self.state.describe(trio.current_time())

    async def lost(self, *reasons: str) -> None:
        """Wait until /status would name one of these reasons."""
        await until(lambda: self.view().reason in reasons, f"{reasons}, but {self.view()}")

    async def connected(self) -> None:
        await until(lambda: self.view().state.value == "connected", f"connected, but {self.view()}")


@asynccontextmanager
async def forwarding(events: Events, config: RedisConfig) -> AsyncIterator[Running]:
    """Run a forwarder; it is cancelled at the end. The next one goes on with what it knew."""
    state = events.state
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forward, events.log, config, state)
        yield Running(state)
        nursery.cancel_scope.cancel()
