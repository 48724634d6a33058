"""What the forwarder reads from the log: the next events without a gap, or what stands in their place.

Rule of this file: it never steps over anything by itself. A hole is handed to the forwarder, which moves the cursor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import define, field, frozen

from synceventsd.core.batches import MAX_BYTES, cut
from synceventsd.core.errors import LogDamaged, StorageUnavailable
from synceventsd.core.latency import acceptances
from synceventsd.core.model import Group
from synceventsd.eventlog import EventLog
from synceventsd.logs import get_logger

log = get_logger("forwarder")

RETRY_READ: Final = 1.0  # seconds before a log that cannot be read just now is read again


@frozen
class Hole:
    """Events `first` to `last` are not in the log any more; `damage` says why where they can never have gone out."""

    first: int
    last: int
    damage: LogDamaged | None


@frozen
class Unreadable:
    """The log gave nothing just now; to be tried again after RETRY_READ."""

    why: str


@define(eq=False)
class Supply:
    """Reads ahead: what the log gave at once is handed out batch by batch."""

    events: EventLog
    _read: Sequence[Group] = field(default=(), init=False)

    async def next(self, after: int, count: int) -> list[bytes] | Hole | Unreadable:
        """Return up to `count` events that follow number `after`; there must be one in the log."""
        lines = cut(self._read, after, count)
        if lines:
            return lines
        self._read = ()
        try:
            found = await self.events.read(after, max_bytes=MAX_BYTES)
        except StorageUnavailable as error:
            return Unreadable(str(error))
        except LogDamaged as error:
            return await self._hole(after, error)
        self._read = found.groups
        lines = cut(self._read, after, count)
        if lines:
            return lines
        if not self._read and after + 1 < self.events.oldest:
            return Hole(after + 1, self.events.oldest - 1, None)
        if not self._read:
            return Unreadable(f"event {after + 1} is neither there nor gone")
        return Hole(after + 1, self._read[0].first - 1, None)

    def accepted(self, after: int, last: int) -> list[tuple[float, int]]:
        """Return when the events beyond `after`, up to `last`, were accepted; of those that were read ahead."""
        return acceptances(self._read, after, last)

    def go_back(self) -> None:
        """Forget what was read ahead, because earlier events are wanted."""
        self._read = ()

    async def _hole(self, after: int, damage: LogDamaged) -> Hole | Unreadable:
        try:
            last = await self.events.end_of_damage(after, damage)
        except StorageUnavailable as error:
            return Unreadable(str(error))
        return Hole(after + 1, last, damage)
