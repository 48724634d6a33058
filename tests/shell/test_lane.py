"""The writer's lane: in order, one thing at a time, and what was begun is finished whatever becomes of who asked."""

from __future__ import annotations

import threading
import time

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from synceventsd.eventlog.lane import open_lane


async def test_what_is_asked_for_is_done_in_order_in_one_thread_that_ends_with_the_lane() -> None:
    done: list[int] = []
    threads = set()

    def work(number: int) -> int:
        threads.add(threading.current_thread())
        done.append(number)
        return number * 2

    with open_lane() as lane:
        answers = {}

        async def ask(number: int) -> None:
            answers[number] = await lane.run(work, number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, number)
        assert sorted(done) == list(range(20))
        assert answers == {number: number * 2 for number in range(20)}
        assert [await lane.run(work, number) for number in (5, 3, 4)] == [10, 6, 8]
        assert done[-3:] == [5, 3, 4]
    (thread,) = threads
    assert not thread.is_alive()
    assert thread is not threading.main_thread()


async def test_an_error_goes_to_who_asked_and_the_lane_goes_on() -> None:
    def fail() -> None:
        raise OSError("no disk")

    with open_lane() as lane:
        with pytest.raises(OSError, match="no disk"):
            await lane.run(fail)
        assert await lane.run(lambda: 1) == 1


async def test_cancelled_it_is_not_begun_or_it_is_finished_and_answered() -> None:
    begun, finished = threading.Event(), threading.Event()
    answers: list[str] = []

    def work() -> str:
        begun.set()
        time.sleep(0.05)
        finished.set()
        return "done"

    with open_lane() as lane:

        async def ask() -> None:
            answers.append(await lane.run(work))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            with trio.fail_after(20):
                while not begun.is_set():
                    await wait_all_tasks_blocked(0.001)
            nursery.cancel_scope.cancel()
        assert finished.is_set()
        assert answers == ["done"]
        with trio.CancelScope() as scope:
            scope.cancel()
            await lane.run(work)
        assert scope.cancelled_caught
    assert answers == ["done"]


async def test_who_waits_for_a_busy_lane_may_be_cancelled_and_then_nothing_of_it_is_done() -> None:
    busy = threading.Event()
    done: list[int] = []
    with open_lane() as lane:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lane.run, busy.wait)
            await wait_all_tasks_blocked()
            with trio.move_on_after(0.01) as scope:
                await lane.run(done.append, 1)
            assert scope.cancelled_caught
            busy.set()
        await lane.run(done.append, 2)
    assert done == [2]
