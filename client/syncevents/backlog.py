"""What the publishing threads and the sender thread share: the queue, the counters and the rejects.

Rule of this file: every change happens under `lock`, which nobody holds while waiting or calling foreign code.
An exception may come out of a signal handler between any two steps; the steps stand so that it leaves no lie.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

from attrs import frozen

from syncevents.errors import QueueFull, Rejected
from syncevents.events import SyncEvent
from syncevents.wire import Reject

MAX_REJECTS: Final = 1000
"""How many rejects are kept for the next flush: a publisher that never flushes must not grow."""

Overflow = Literal["raise", "drop"]

Typed = tuple[SyncEvent, int, int | None, float]
"""Data, integration id, business id, time of the call in seconds since 1970. A tuple: it is made on every call."""

log = logging.getLogger("syncevents")


@frozen
class Statistics:
    """A publisher's counters at one moment, since it was made; in a forked child since the fork.

    `pending`: events not acknowledged yet. `acked`: events that are dealt with, the `rejected` ones included.
    `dropped`: events that found the queue full. `reconnects`: welcomes after the first. `incidents`: how often the
    daemon's state turned out to be set back or forgotten. `last_error`: why there is no connection; None while there
    is one, or while none was needed.
    """

    pending: int
    acked: int
    rejected: int
    dropped: int
    reconnects: int
    incidents: int
    last_error: str | None


class Backlog:
    """The bounded queue in front of the sender, and what became of its events.

    Events are counted 1, 2, 3, ... in the order in which they were queued (their ordinals); everything up to `settled`
    is dealt with. `taken - settled` is bounded by `max_pending`. `ring` is called when something was queued and the
    sender sleeps or does not run yet, and returns why it cannot run, or None; `on_progress`, in the sender's thread,
    when events were settled, and in the one that stops.
    """

    def __init__(self, max_pending: int, overflow: Overflow, ring: Callable[[], str | None]) -> None:
        # Re-entrant, so that a signal handler or a destructor may publish while its own thread is in here.
        self.lock = threading.RLock()
        self.queue: deque[Typed | bytes] = deque()
        self._fed = 0
        self.settled = 0
        self.closed = False
        self.stopping = False
        self.asleep = True
        self.on_progress: Callable[[], None] | None = None
        self._ring = ring
        self._max_pending = max_pending
        self._overflow = overflow
        self._changed = threading.Condition(self.lock)
        self._dropped = 0
        self._rejected = 0
        self._rejects: deque[Reject] = deque(maxlen=MAX_REJECTS)
        self._rejects_since_flush = 0
        self._welcomes = 0
        self._incidents = 0
        self._last_error: str | None = None

    def put(self, item: Typed | bytes) -> bool:
        """Queue an event; past the bound raise `QueueFull`, or drop it and return False."""
        error = None
        with self.lock:
            if self.closed:
                raise RuntimeError("this publisher is closed")
            full = self._fed + len(self.queue) - self.settled >= self._max_pending
            if not full:
                # One step, that no exception from a signal handler can cut in two: what is taken is derived.
                self.queue.append(item)
                if self.asleep:
                    # In this order, so that after such an exception the next event rings again; with the lock held,
                    # so that the sender cannot fall asleep in between.
                    error = self._ring()
                    self.asleep = error is not None
        if error is not None and self.disconnected(error):
            log.warning("events wait: %s", error)
        if full:
            self._overflowed()
        return not full

    @property
    def taken(self) -> int:
        """How many events were queued so far."""
        with self.lock:
            return self._fed + len(self.queue)

    def feed(self, most: int) -> list[Typed | bytes]:
        """Take the oldest events out of the queue; in the sender's thread, which runs no signal handlers."""
        with self.lock:
            items = [self.queue.popleft() for _ in range(min(most, len(self.queue)))]
            self._fed += len(items)
            return items

    def fall_asleep(self) -> bool:
        """Let the next event ring; False when there is something to do first."""
        with self.lock:
            self.asleep = not self.queue and not self.stopping
            return self.asleep

    def stay_awake(self) -> None:
        """Let no event ring: the sender looks at the queue by itself."""
        with self.lock:
            self.asleep = False

    def connected(self, incidents: int) -> bool:
        """Note a welcome, and how many incidents there were by then; True when an error was noted before."""
        with self.lock:
            recovered = self._last_error is not None
            self._incidents = incidents
            self._welcomes += 1
            self._last_error = None
            return recovered

    def disconnected(self, error: str) -> bool:
        """Note why there is no connection; True when that was not known yet."""
        with self.lock:
            news = error != self._last_error
            self._last_error = error
            return news

    def reject(self, rejects: list[Reject]) -> None:
        """Keep what was rejected for the next flush."""
        with self.lock:
            self._rejects.extend(rejects)
            self._rejected += len(rejects)
            self._rejects_since_flush += len(rejects)

    def settle(self, ordinal: int) -> None:
        """Everything up to `ordinal` is dealt with: wake who waits for it."""
        if ordinal == self.settled:
            return
        with self.lock:
            self.settled = ordinal
            self._changed.notify_all()
        if self.on_progress is not None:
            self.on_progress()

    def stop(self) -> None:
        """Take nothing more, and tell the sender and all who wait to end."""
        with self.lock:
            self.closed = self.stopping = True
            self._changed.notify_all()
        if self.on_progress is not None:
            self.on_progress()  # who waits in an event loop ends as well

    def wait_settled(self, ordinal: int, timeout: float | None) -> bool:
        """Wait until everything up to `ordinal` is dealt with; False after `timeout` seconds, or when stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self.settled >= ordinal or self.stopping, _bounded(timeout))
            return self.settled >= ordinal

    def wait_for_room(self, timeout: float | None) -> bool:
        """Wait until one more event fits; False when `timeout` seconds passed."""
        with self._changed:
            return self._changed.wait_for(self.has_room, _bounded(timeout))

    def has_room(self) -> bool:
        """Whether one more event fits, or would be refused for another reason."""
        return self.taken - self.settled < self._max_pending or self.closed

    def raise_rejects(self) -> None:
        """Raise `Rejected` for what was rejected since the last call, if anything was."""
        with self.lock:
            rejects, count = tuple(self._rejects), self._rejects_since_flush
            self._rejects.clear()
            self._rejects_since_flush = 0
        if count:
            raise Rejected(rejects, count)

    def statistics(self) -> Statistics:
        """Return the counters of this moment."""
        with self.lock:
            return Statistics(
                pending=self.taken - self.settled,
                acked=self.settled,
                rejected=self._rejected,
                dropped=self._dropped,
                reconnects=max(0, self._welcomes - 1),
                incidents=self._incidents,
                last_error=self._last_error,
            )

    def _overflowed(self) -> None:
        if self._overflow == "raise":
            raise QueueFull(f"{self._max_pending} events wait for their acknowledgement: {self._why()}")
        with self.lock:
            self._dropped += 1
            first = self._dropped == 1
        if first:
            log.warning(
                "an event was dropped: %d wait for their acknowledgement (%s); told once, statistics() counts",
                self._max_pending,
                self._why(),
            )

    def _why(self) -> str:
        return self._last_error or "the daemon is slower than the publishing"


def _bounded(timeout: float | None) -> float | None:
    """Return a timeout that the system's clocks can hold; who says infinity does not mind three years."""
    return None if timeout is None else min(timeout, 1e8)
