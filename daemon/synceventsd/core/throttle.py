"""How fast the lines of one user are taken: `ingest.max_rate`.

Rule of this file: nothing is ever refused here. Lines are taken first, and the pause that follows pays for them. A user
who was quiet may be ahead by a second's worth, so that a sync that begins is not held up.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve, frozen

BURST: Final = 1.0  # seconds' worth of lines that may be taken at once after a quiet time
STEP: Final = 0.1  # seconds' worth of lines taken between two pauses: steady, yet few of them


@frozen
class Throttle:
    """One user's account. Times are seconds of a monotonic clock.

    Attributes:
        rate: lines a second, at least 1.
        paid_until: all lines so far, at that rate, last until then.
        slowed: whether the user is being made to wait, for the log.
    """

    rate: int
    paid_until: float
    slowed: bool = False

    def take(self, lines: int, now: float) -> Throttle:
        """Return the account after so many lines were taken."""
        quiet = self.paid_until <= now - BURST
        paid_until = max(self.paid_until, now - BURST) + lines / self.rate
        return evolve(self, paid_until=paid_until, slowed=paid_until > now or (self.slowed and not quiet))

    def pause(self, now: float) -> float:
        """Return for how many seconds no line may be taken."""
        return max(0.0, self.paid_until - now)


def begin(rate: int, now: float) -> Throttle:
    """Return the account of a user who has been quiet."""
    return Throttle(rate, now - BURST)


def lines_at_once(rate: int, most: int) -> int:
    """Return how many lines of a connection are taken before it pauses, at most `most`."""
    return max(1, min(most, int(rate * STEP)))
