"""The writer's lane: one thread in which everything that writes the log is done, one thing after the other.

Rule of this file: what was begun is finished and answered, whatever becomes of who asked. Trio's own threads promise
that too, but a call of theirs begins a whole turn of the loop later, which under full load is some milliseconds in
which nothing is written, and for a single event an eighth of the processor time that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar, cast

import outcome
import trio
from attrs import define, field, frozen

T = TypeVar("T")


@frozen
class _Job:
    work: Callable[[], Any]
    task: trio.lowlevel.Task
    token: trio.lowlevel.TrioToken


@define(eq=False)
class Lane:
    """Work for a thread; any task may ask."""

    _free: trio.Lock = field(factory=trio.Lock, init=False)
    _jobs: SimpleQueue[_Job | None] = field(factory=SimpleQueue, init=False)

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Have the thread do something, after what was asked for before; raises what that raises.

        Cancelled while the thread is busy with something else, it is not begun. Else it is done and answered: this
        waits for it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._free.acquire_nowait()  # nearly always, and without a turn of the loop
        except trio.WouldBlock:
            await self._free.acquire()
        task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
        try:
            self._jobs.put(_Job(partial(work, *args), task, token))
            return cast(T, await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED))
        finally:
            self._free.release()

    def serve(self) -> None:
        """Do what is asked for until the end; what the thread runs."""
        while (job := self._jobs.get()) is not None:
            job.token.run_sync_soon(trio.lowlevel.reschedule, job.task, outcome.capture(job.work))
            del job  # or its work would be held until the next one, with all the events in it

    def close(self) -> None:
        """Let the thread end once everything is done."""
        self._jobs.put(None)


@contextmanager
def open_lane() -> Iterator[Lane]:
    """Run the thread; at the end it has done all that it was asked for."""
    lane = Lane()
    thread = Thread(target=lane.serve, name="log writer", daemon=True)  # like Trio's: it must not hold up a crash
    thread.start()
    try:
        yield lane
    finally:
        lane.close()
        thread.join()
