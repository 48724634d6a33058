"""How many events waited for Redis over the last hour: for whoever comes to look after something went wrong.

Rule of this file: a look every ten seconds, kept in memory only, and no more than an hour of them.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NoReturn

import trio
from attrs import define, field

from synceventsd.eventlog import EventLog

LOOK_EVERY: Final = 10  # seconds
MOST_LOOKS: Final = 360


@define(eq=False)
class Depth:
    """The counts, oldest first; the newest was taken at most ten seconds ago."""

    _log: EventLog
    counts: deque[int] = field(factory=lambda: deque(maxlen=MOST_LOOKS), init=False)

    async def run(self) -> NoReturn:
        """Look for ever."""
        while True:
            self.counts.append(self._log.last - self._log.forwarded)
            await trio.sleep(LOOK_EVERY)
