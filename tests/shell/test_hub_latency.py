"""How late readers are: only for what was accepted after they came, once for each, and the slowest is known."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from attrs import define, field
from tests.events import Hand, a_log, line

from synceventsd.core.deliveries import Delivery
from synceventsd.core.filters import Filter
from synceventsd.hub import Hub, Taken

EVERYBODY = Filter(None)
AGO = 5000.0  # seconds that the hub's clock is ahead: in the last bucket, far from any real delay


@asynccontextmanager
async def a_late_hub(directory: Path) -> AsyncIterator[tuple[Hub, Hand]]:
    """A hub whose clock is so far ahead that every event seems to take that long."""
    async with a_log(directory) as log, trio.open_nursery() as nursery:
        hub = Hub(log, 100, wall_clock=lambda: log._wall_clock() + AGO)
        nursery.start_soon(hub.run)
        yield hub, Hand(log)
        nursery.cancel_scope.cancel()


def counted(hub: Hub) -> tuple[int, int]:
    """How many events were measured, and how many of them with the hub's clock."""
    *_, (_, within), (_, of_all) = hub.latency.cumulative()
    return of_all, of_all - within


@define
class Pipe:
    """An outlet that answers as it is told, and that notes what it took."""

    answers: Sequence[Taken]
    took: int = 0
    _rest: itertools.cycle[Taken] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._rest = itertools.cycle(self.answers)

    def offer(self, delivery: Delivery) -> Taken:
        answer = next(self._rest)
        if answer is not Taken.NOTHING:
            self.took += sum(len(indexes) for _, indexes in delivery.runs)
        return answer


async def test_what_is_replayed_is_not_measured_and_what_comes_then_is(tmp_path: Path) -> None:
    async with a_late_hub(tmp_path) as (hub, hand):
        await hand.append(line(1), line(2))
        with trio.fail_after(30), hub.subscribe(EVERYBODY, 0) as reader:
            assert (await reader.next(5)) is not None
            assert counted(hub) == (0, 0)
            await hand.append(line(3), line(4), line(5))
            assert (await reader.next(5)) is not None
            assert counted(hub) == (3, 3)
            assert hub.latency.total == pytest.approx(3 * AGO, abs=60)


@pytest.mark.parametrize("answers", [[Taken.ALL], [Taken.PARTLY], [Taken.NOTHING], [Taken.ALL, Taken.PARTLY]])
@pytest.mark.parametrize("size", [10, 70_000])  # small: one delivery for all that is new; large: one for each event
async def test_each_reader_is_measured_once_for_each_event_however_it_is_handed_over(
    tmp_path: Path, answers: list[Taken], size: int
) -> None:
    async with a_late_hub(tmp_path) as (hub, hand), trio.open_nursery() as nursery:
        pipes = [Pipe(answers), Pipe(answers)]
        taken = [0, 0]

        async def read(number: int) -> None:
            with hub.subscribe(EVERYBODY, hub.log.last) as reader:
                reader.outlet = pipes[number]
                while taken[number] + pipes[number].took < 6:
                    delivery = await reader.next(0.05)
                    assert delivery is not None
                    taken[number] += sum(len(indexes) for _, indexes in delivery.runs)

        with trio.fail_after(30):
            for number in range(2):
                nursery.start_soon(read, number)
            await trio.testing.wait_all_tasks_blocked(0.02)
            for number in range(3):
                await hand.append(*(line(2 * number + more, data={"text": "x" * size}) for more in range(2)))
                await trio.testing.wait_all_tasks_blocked(0.02)
            while hub.streams:
                await trio.sleep(0.01)
        assert counted(hub) == (12, 12)


async def test_the_slowest_reader_is_known_and_its_replay_does_not_count(tmp_path: Path) -> None:
    async with a_late_hub(tmp_path) as (hub, hand), trio.open_nursery() as nursery:
        await hand.append(line(1), line(2))
        assert hub.slowest() == 2
        with trio.fail_after(30), hub.subscribe(EVERYBODY, 0), hub.subscribe(Filter(7), 2) as other:
            nursery.start_soon(other.next, 30)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert hub.slowest() == 2, "what it replays was accepted before it came"
            await hand.append(line(3), line(4))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert hub.slowest() == 2, "the first has not taken what came since"
            assert await hub.log.accepted_after(2) is not None
        with hub.subscribe(EVERYBODY, 4):
            assert hub.slowest() == 4
        assert await hub.log.accepted_after(4) is None
        nursery.cancel_scope.cancel()


async def test_the_age_of_what_is_only_on_the_disk_is_known(tmp_path: Path) -> None:
    async with a_log(tmp_path) as log:
        await Hand(log).append(line(1))
        at = await log.accepted_after(0)
    async with a_log(tmp_path) as log:
        assert log.tail_beyond(0) is None
        assert await log.accepted_after(0) == at
        assert await log.accepted_after(1) is None
