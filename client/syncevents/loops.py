"""The event loop that runs, trio's or asyncio's, as the async publisher needs it.

Rule of this file: the only one that knows that there are two. Neither is imported before it runs: trio is no
dependency, and asyncio would double the time that a plain `import syncevents` takes.
"""

import math
import sys
from collections.abc import Callable
from typing import Protocol


class Loop(Protocol):
    """One running event loop."""

    def wake(self) -> None:
        """Make all waiting tasks look again; may be called from any thread, and after the loop has ended."""

    async def checkpoint(self) -> None:
        """Be cancelled here, by the rules of the loop."""

    async def wait_until(self, done: Callable[[], bool], seconds: float | None, *, shield: bool) -> None:
        """Wait until `done`, or until `seconds` have passed; `shield` keeps trio's cancellation out."""


def current_loop() -> Loop:
    """Return the loop that runs in this thread; RuntimeError where none does."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return _Trio()
    return _Asyncio()


class _Trio:
    def __init__(self) -> None:
        import trio

        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._moved = trio.Event()

    def wake(self) -> None:
        try:
            self._token.run_sync_soon(self._move, idempotent=True)
        except self._trio.RunFinishedError:
            return

    async def checkpoint(self) -> None:
        await self._trio.lowlevel.checkpoint()

    async def wait_until(self, done: Callable[[], bool], seconds: float | None, *, shield: bool) -> None:
        with self._trio.move_on_after(math.inf if seconds is None else max(0, seconds), shield=shield):
            while not done():
                await self._moved.wait()

    def _move(self) -> None:
        # A fresh event each time: who waits looks again, so no wake-up is lost.
        self._moved.set()
        self._moved = self._trio.Event()


class _Asyncio:
    def __init__(self) -> None:
        import asyncio

        self._asyncio = asyncio
        self._loop = asyncio.get_running_loop()
        self._moved = self._asyncio.Event()

    def wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._move)
        except RuntimeError:
            return

    async def checkpoint(self) -> None:
        """Nothing: asyncio's functions that need not wait do not yield."""

    async def wait_until(self, done: Callable[[], bool], seconds: float | None, *, shield: bool) -> None:
        try:
            await self._wait(done, seconds)
        except TimeoutError:
            return

    async def _wait(self, done: Callable[[], bool], seconds: float | None) -> None:
        async with self._asyncio.timeout(seconds):
            while not done():
                await self._moved.wait()

    def _move(self) -> None:
        self._moved.set()
        self._moved = self._asyncio.Event()
