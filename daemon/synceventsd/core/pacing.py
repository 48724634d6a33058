"""How fast a backlog goes out.

Redis keeps what a subscriber has not read yet in a buffer and cuts the subscriber off when that grows too large (as
shipped: 32 MB at once, or 8 MB for a minute). A backlog of an hour sent at full speed does that to every subscriber,
and pub/sub repeats nothing. So a backlog shrinks by at most `redis.backlog_rate` events a second: a token bucket gets
that many tokens a second, and one more for each newly accepted event, so that a busy day does not keep the backlog from
shrinking. What fits into the bucket (a tenth of a second's worth) goes out at once: a short interruption costs no
pause.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve, frozen

BURST: Final = 0.1  # seconds' worth of tokens that time alone may pile up
STEP: Final = 0.02  # seconds' worth of events in one batch: short pauses, yet few calls


@frozen
class Grant:
    """How many events may go out now; when none may, how many seconds until some may."""

    count: int
    pause: float = 0.0


@frozen
class Pace:
    """The bucket at one moment. Times are seconds of a monotonic clock.

    Attributes:
        rate: events a second, at least 1.
        tokens: how many events may go out, and a fraction.
        at: when that was so.
        last: number of the newest event accepted by then.
    """

    rate: int
    tokens: float
    at: float
    last: int

    def advance(self, now: float, last: int) -> Pace:
        """Return the bucket as it is now, with `last` the number of the newest accepted event.

        Only tokens of time are capped: those of new events are owed, else the backlog would grow under load.
        """
        earned = self.tokens + max(now - self.at, 0.0) * self.rate
        tokens = max(self.tokens, min(earned, _burst(self.rate)))
        return Pace(self.rate, tokens + max(last - self.last, 0), max(now, self.at), max(last, self.last))

    def grant(self, waiting: int) -> Grant:
        """Return how many of the `waiting` events (at least 1) may go out now, or for how long none may."""
        wanted = min(waiting, max(1, int(self.rate * STEP)))
        if self.tokens >= wanted:
            return Grant(min(waiting, int(self.tokens)))
        return Grant(0, (wanted - self.tokens) / self.rate)

    def spend(self, count: int) -> Pace:
        """Return the bucket after `count` events went out."""
        return evolve(self, tokens=self.tokens - count)


def begin(rate: int, now: float, last: int) -> Pace:
    """Return a full bucket for a backlog that ends with event number `last`."""
    return Pace(rate, _burst(rate), now, last)


def _burst(rate: int) -> float:
    return max(1.0, rate * BURST)
