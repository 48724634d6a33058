"""The last hour of what waited for Redis, and no more of it."""

from __future__ import annotations

from typing import Any, cast

import trio
from attrs import define
from trio.testing import MockClock

from synceventsd.depth import LOOK_EVERY, MOST_LOOKS, Depth


@define
class FakeLog:
    last: int = 0
    forwarded: int = 0


async def test_it_keeps_an_hour_of_looks_the_newest_last(autojump_clock: MockClock) -> None:
    log = FakeLog(last=1000, forwarded=990)
    depth = Depth(cast(Any, log))
    with trio.move_on_after(LOOK_EVERY * 2.5):
        await depth.run()
    assert list(depth.counts) == [10, 10, 10]
    log.forwarded = 1000
    with trio.move_on_after(LOOK_EVERY * (MOST_LOOKS - 1.5)):
        await depth.run()
    assert len(depth.counts) == MOST_LOOKS
    assert (depth.counts[0], depth.counts[1], depth.counts[-1]) == (10, 0, 0)
