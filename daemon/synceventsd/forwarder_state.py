"""What is known of Redis: written by the forwarder alone, read by whoever answers for /status and /metrics.

Rule of this file: no clock. `now` is `trio.current_time()`, `at` is wall-clock time in seconds since 1970.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from attrs import define, field, frozen

from synceventsd.core.errors import RedisUnavailable
from synceventsd.core.latency import Latency

# A call that is out for longer than this (seconds) is told in /status, long before `redis.timeout` makes it a failure.
SILENT_AFTER: Final = 0.3
# A reason that comes and goes is told to the log at most so often (seconds). Two daemons of one copied log, for
# example, take the cursor from each other several times a second, for as long as they run.
TOLD_AGAIN_AFTER: Final = 10.0


class RedisState(Enum):
    """What stands in /status."""

    CONNECTING = "connecting"  # since the start: neither a failure nor a success yet
    CONNECTED = "connected"
    HUNG = "hung"  # a call has been out for longer than SILENT_AFTER
    UNAVAILABLE = "unavailable"


@frozen
class RedisView:
    """A snapshot for people and metrics.

    Attributes:
        state: as above.
        reason: one word, None while connected or connecting.
        error: what is wrong now, in a sentence; None while connected or connecting.
        since: when the present connection or outage began; None while connecting.
        failures: tries that failed in the present outage.
        last_error: the newest failure in a sentence, also when it is over; None when there never was one.
        last_error_at: when that was.
        sent: events that went out since the start, those sent again included.
        resent: how many of them went out again because Redis held an older cursor, or somebody asked.
        rewinds: how often that happened.
        last_sent_at: when the last event went out.
    """

    state: RedisState
    reason: str | None
    error: str | None
    since: float | None
    failures: int
    last_error: str | None
    last_error_at: float | None
    sent: int
    resent: int
    rewinds: int
    last_sent_at: float | None


@define(eq=False)
class ForwarderState:
    """The forwarder's knowledge of Redis; every method leaves it consistent. One for each time that a log is opened.

    Attributes:
        failed_ever: tries that failed since the start.
        known: the highest number ever handed to Redis, or known to be out. A cursor beyond it is not our work.
        latency: how long events took from being accepted until Redis said that it has them; what goes out again is not
            counted again.
    """

    connected: bool = field(default=False, init=False)
    reason: str | None = field(default=None, init=False)
    last_error: str | None = field(default=None, init=False)
    last_error_at: float | None = field(default=None, init=False)
    since: float | None = field(default=None, init=False)
    failures: int = field(default=0, init=False)
    failed_ever: int = field(default=0, init=False)
    sent: int = field(default=0, init=False)
    resent: int = field(default=0, init=False)
    rewinds: int = field(default=0, init=False)
    last_sent_at: float | None = field(default=None, init=False)
    asked_at: float | None = field(default=None, init=False)
    known: int = field(default=0, init=False)
    latency: Latency = field(factory=Latency, init=False)
    _told: dict[str, float] = field(factory=dict, init=False)  # when each reason was last told
    _told_now: set[str] = field(factory=set, init=False)  # of the present outage

    def asking(self, now: float) -> None:
        """Note that a call goes out."""
        self.asked_at = now

    def answered(self) -> None:
        """Note that it came back."""
        self.asked_at = None

    def works(self, at: float) -> int | None:
        """Note that Redis does its work. Return how many tries had failed before; None when that is no news.

        It is none when Redis did so all along, or when nobody was told that it did not.
        """
        if self.connected:
            return None
        failures, self.failures = self.failures, 0
        self.connected, self.reason, self.since = True, None, at
        return failures if self._told_now or not failures else None

    def failed(self, error: RedisUnavailable, at: float) -> bool:
        """Note a failure. Return whether it is news: for a reason that was not told in the present outage, nor of late.

        What was told of late, of an outage that is over, is told again as soon as TOLD_AGAIN_AFTER has passed.
        """
        if self.connected or self.failures == 0:
            self.since = at
            self._told_now.clear()
        of_late = at - self._told.get(error.reason, -TOLD_AGAIN_AFTER) < TOLD_AGAIN_AFTER
        news = error.reason not in self._told_now and not of_late
        if news:
            self._told[error.reason] = at
            self._told_now.add(error.reason)
        self.connected, self.reason, self.asked_at = False, error.reason, None
        self.last_error, self.last_error_at = str(error), at
        self.failures += 1
        self.failed_ever += 1
        return news

    def went_out(self, count: int, at: float) -> None:
        """Note that events went out."""
        self.sent += count
        self.last_sent_at = at

    def rewound(self, count: int) -> None:
        """Note that events that were out must go out again."""
        self.rewinds += 1
        self.resent += count

    def describe(self, now: float) -> RedisView:
        """Return how things stand."""
        state, reason, error = RedisState.CONNECTING, None, None
        silence = 0.0 if self.asked_at is None else now - self.asked_at
        if silence > SILENT_AFTER:
            # The same word as when the call fails in the end: it is the same reason.
            state, reason, error = RedisState.HUNG, "timeout", f"Redis has not answered for {silence:.1f} s"
        elif self.connected:
            state = RedisState.CONNECTED
        elif self.reason is not None:
            state, reason, error = RedisState.UNAVAILABLE, self.reason, self.last_error
        return RedisView(
            state=state,
            reason=reason,
            error=error,
            since=self.since,
            failures=self.failures,
            last_error=self.last_error,
            last_error_at=self.last_error_at,
            sent=self.sent,
            resent=self.resent,
            rewinds=self.rewinds,
            last_sent_at=self.last_sent_at,
        )
