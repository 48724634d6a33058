"""The newest groups, in memory: whoever keeps up reads from here and never from the disk."""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import Final

from attrs import define, field

from synceventsd.core.model import Group

# Bounds of what the tail holds. 8 MiB of text is 14,000 orders: 0.1 s at full speed, minutes on a usual day. A group of
# one event costs about 1.5 KB beside its text, hence the second bound.
MAX_BYTES: Final = 8 * 2**20
MAX_GROUPS: Final = 8192


@define(eq=False)
class Tail:
    """The newest groups without a gap between them; owned by the log, which alone adds to it."""

    _groups: deque[Group] = field(factory=deque)
    _bytes: int = 0

    def add(self, group: Group) -> None:
        """Add the newest group and let the oldest go."""
        self._groups.append(group)
        self._bytes += group.size
        while self._groups and (self._bytes > MAX_BYTES or len(self._groups) > MAX_GROUPS) and len(self._groups) > 1:
            self._bytes -= self._groups.popleft().size

    def is_late(self, after: int) -> bool:
        """Return whether what follows number `after` is in the older half of a full tail, and will soon be gone."""
        if self._bytes < MAX_BYTES // 2:
            return False
        oldest, newest = self._groups[0].first, self._groups[-1].last
        return oldest <= after + 1 <= (oldest + newest) // 2

    def covers(self, after: int) -> bool:
        """Return whether every event beyond number `after` is here."""
        return bool(self._groups) and self._groups[0].first <= after + 1

    def beyond(self, after: int) -> list[Group]:
        """Return the groups that reach beyond number `after`; only meaningful where `covers(after)`.

        Looked for from the newest: who keeps up wants one or two of thousands.
        """
        found = list(takewhile(lambda group: group.last > after, reversed(self._groups)))
        found.reverse()
        return found
