"""The wall clock jumps: order, numbers and acknowledgements do not depend on it, and retention by age catches up."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from attrs import define
from tests.events import Hand, line

from synceventsd.config import load
from synceventsd.depth import Depth
from synceventsd.eventlog import EventLog, open_log
from synceventsd.eventlog.committer import Retention
from synceventsd.forwarder_state import ForwarderState
from synceventsd.hub import Hub
from synceventsd.intake import Intake
from synceventsd.report import Report
from synceventsd.status import StatusBoard

DAY = 86400.0
YEAR = 365 * DAY


@define(eq=False)
class Clock:
    """A wall clock that somebody sets."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def a_log(state: Path, clock: Clock, *, retain_seconds: float = DAY) -> AsyncIterator[EventLog]:
    retention = Retention(2**32, 2**30, retain_seconds)
    async with (
        open_log(state, "process", retention, forwarding=False, wall_clock=clock) as log,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(log.committer.run)
        log._syncs_upto = 2**60
        yield log
        nursery.cancel_scope.cancel()


async def lines_of(log: EventLog) -> list[bytes]:
    return [text for group in (await log.read(log.oldest - 1)).groups for text in group.lines]


async def test_order_and_numbers_do_not_depend_on_the_clock(tmp_path: Path) -> None:
    clock = Clock()
    wanted = [line(number) for number in range(20)]
    async with a_log(tmp_path, clock, retain_seconds=10 * YEAR) as log:
        hand = Hand(log, producer="p")
        for number, jump in enumerate([0, YEAR, -2 * YEAR, 1, -1, YEAR, 0, -3600, 3600, -YEAR]):
            clock.now += jump
            await hand.append(*wanted[2 * number : 2 * number + 2])
        assert hand.dealt == 20
        assert log.last == 20
    async with a_log(tmp_path, clock, retain_seconds=10 * YEAR) as log:
        assert await lines_of(log) == wanted
        assert (await log.producer("p", 0)).accepted == 20


@pytest.mark.parametrize("restart", [False, True])
async def test_what_a_clock_that_ran_ahead_accepted_goes_when_its_age_is_up_after_it_was_set_back(
    tmp_path: Path, restart: bool
) -> None:
    clock = Clock()
    clock.now += YEAR
    async with a_log(tmp_path, clock) as log:
        await Hand(log).append(line(1), line(2))
        clock.now -= YEAR
        if not restart:
            await Hand(log).append(line(3))
    async with a_log(tmp_path, clock) as log:
        await Hand(log).append(line(4))
        last = log.last
        clock.now += DAY / 2
        await trio.sleep(1.2)  # retention looks once a second
        assert log.oldest == 1  # counted as accepted when the clock was set back, not before
        clock.now += DAY / 2 + 1
        with trio.fail_after(30):
            while log.oldest <= last:
                await trio.sleep(0.05)


async def test_no_age_is_below_0_and_a_sync_is_called_stalled_after_its_time_by_the_clock_that_was_set_back(
    tmp_path: Path,
) -> None:
    clock = Clock(time.time() + YEAR)
    async with (
        open_log(tmp_path, "process", Retention(2**32, 2**30, DAY), forwarding=True, wall_clock=clock) as log,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(log.committer.run)
        board = StatusBoard(log, 900, clock)
        await board.catch_up()
        await Hand(log).append(line(1, event_type="integration.sync.started", data={"integration_type": "shopify"}))
        clock.now -= YEAR
        assert board.view(13, 42)["stalled"] is False
        clock.now += 901
        assert board.view(13, 42)["stalled"] is True
        assert board.view(13, 42)["in_progress"] is True
        report = Report(log, Intake(log, load({}, {}, None).ingest), Hub(log, 10), board, ForwarderState(), Depth(log))
        waiting = (await report.status())["waiting"]
        assert waiting["count"] == 1
        assert waiting["oldest_age_seconds"] == 0
        nursery.cancel_scope.cancel()
