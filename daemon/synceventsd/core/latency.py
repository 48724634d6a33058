"""How long events took, as a histogram: one observation for many events that took equally long.

Rule of this file: no clock. An observation costs a search among some fifteen bounds, however many events it counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from attrs import define, field

from synceventsd.core.model import Group

# Seconds. Fine where a commit or a call of Redis lies, coarse where an outage does.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0)


@define(eq=False)
class Latency:
    """Counts of events by the time they took; owned by whoever observes them.

    Attributes:
        total: seconds, over all events.
    """

    total: float = field(default=0.0, init=False)
    _counts: list[int] = field(factory=lambda: [0] * (len(BOUNDS) + 1), init=False)

    def observe(self, seconds: float, events: int) -> None:
        """Count events that took so long; a clock that was set back counts as no time at all."""
        seconds = max(seconds, 0.0)
        self._counts[bisect_left(BOUNDS, seconds)] += events
        self.total += seconds * events

    def cumulative(self) -> list[tuple[str, int]]:
        """Return for each bound, as text, how many events took at most so long; the last bound is "+Inf"."""
        return list(zip((*map(str, BOUNDS), "+Inf"), accumulate(self._counts), strict=True))


def acceptances(groups: Iterable[Group], after: int, last: int) -> list[tuple[float, int]]:
    """Return when the events beyond number `after`, up to `last`, were accepted, and how many at each time."""
    found = []
    for group in groups:
        if group.first > last:
            break
        count = min(group.last, last) - max(group.first, after + 1) + 1
        if count > 0:
            found.append((group.accepted_at, count))
    return found
