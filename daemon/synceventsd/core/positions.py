"""Positions that survive a log being set back: epoch and number.

Every start of the daemon writes a new epoch (random name, first number) before the first append. A number alone means
nothing after a restore, because the log gives the same numbers out again; an epoch's name is never given out twice.
What somebody else remembers (the cursor in Redis, a reader's Last-Event-ID) is resolved against the list of epochs.
Sending again begins an epoch too: it says from where on what was out under earlier epochs counts as out no more.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from enum import Enum
from typing import Final

from attrs import field, frozen

# 40 random bits: a log sees a few thousand starts in its life, two equal names then have odds of one in 100,000.
EPOCH_BYTES: Final = 5

_POSITION = re.compile(r"([0-9a-f]{10})-(0|[1-9][0-9]{0,17})", re.ASCII)


@frozen
class Position:
    """A place in a log: right after event number `seq`, as the daemon of `epoch` counted."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


def parse_position(text: str) -> Position | None:
    """Return the position, or None where the text is not one of ours."""
    match = _POSITION.fullmatch(text)
    return None if match is None else Position(match[1], int(match[2]))


@frozen
class Epoch:
    """One run of the daemon, or the rest of a run from the moment on that events were to be sent again.

    Attributes:
        name: random.
        first: number of the first event that it may have accepted.
        again_after: what follows this number goes out again, whatever went out under earlier epochs; None for an
            epoch that a start began.
    """

    name: str
    first: int
    again_after: int | None = None


@frozen
class Epochs:
    """All epochs of a log, oldest first, with strictly rising or equal first numbers; the last one is running."""

    items: tuple[Epoch, ...]
    _ends: dict[str, int | None] = field(init=False, repr=False, eq=False)
    _firsts: list[int] = field(init=False, repr=False, eq=False)
    _caps: dict[str, int | None] = field(init=False, repr=False, eq=False)
    _run: frozenset[str] = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        ends: dict[str, int | None] = {}
        for epoch, following in zip(self.items, (*self.items[1:], None), strict=False):
            ends[epoch.name] = None if following is None else following.first - 1
        object.__setattr__(self, "_ends", ends)
        object.__setattr__(self, "_firsts", [epoch.first for epoch in self.items])
        caps: dict[str, int | None] = {}
        run: set[str] = set()
        cap, started = None, False
        for epoch in reversed(self.items):
            caps[epoch.name] = cap
            if epoch.again_after is not None:
                cap = epoch.again_after if cap is None else min(cap, epoch.again_after)
            if not started:
                run.add(epoch.name)
                started = epoch.again_after is None
        object.__setattr__(self, "_caps", caps)
        object.__setattr__(self, "_run", frozenset(run))

    @property
    def current(self) -> Epoch:
        """Return the running epoch."""
        return self.items[-1]

    def at(self, seq: int) -> Position:
        """Return the position right after event `seq`, named by the epoch that accepted the event.

        The event's own epoch, not the running one: so the position stays good when the log is set back to a point
        between the two.
        """
        index = bisect_right(self._firsts, seq) - 1
        return Position(self.items[max(index, 0)].name, seq)

    def end_of(self, name: str, last: int) -> int | None:
        """Return the number of the epoch's last event in this log, or None where this log does not know the epoch."""
        if name not in self._ends:
            return None
        end = self._ends[name]
        return last if end is None else end

    def of_this_run(self, name: str) -> bool:
        """Return whether the epoch belongs to the running daemon: its start began it, or sending again since."""
        return name in self._run

    def still_out(self, position: Position) -> int:
        """Return up to which number what was out at `position` still counts as out, now that later epochs began."""
        cap = self._caps.get(position.epoch)
        return position.seq if cap is None else min(position.seq, cap)

    def out(self, cursor: Position | None, last: int, own_mark: int) -> int:
        """Return up to which number everything is out, given the cursor that Redis holds.

        The smallest of the cursor, its epoch's end in this log (numbers above were given out again since) and where
        later epochs begin to send again. For a cursor that is missing or of an epoch that this log does not know: the
        log's own mark, so that events may go out twice but none is skipped.
        """
        end = None if cursor is None else self.end_of(cursor.epoch, last)
        return own_mark if cursor is None or end is None else min(self.still_out(cursor), end)


class GapReason(Enum):
    """Why a reader cannot go on right after its position."""

    EXPIRED = "retention"  # older than what is kept
    OTHER_LOG = "unknown_log"  # an epoch that this log never had, or has lost
    SET_BACK = "log_set_back"  # a number that its epoch does not reach in this log any more
    NOT_OURS = "invalid_id"  # not an id that this daemon gives out
    DAMAGED = "damaged"  # the log lost events that had been accepted


@frozen
class Resume:
    """Where a reader goes on: right after `after`; `gap` says why that may not be right after where it was.

    `first_visit` means that the position tells nothing, so the reader is treated as on a first visit.
    """

    after: int
    gap: GapReason | None = None
    first_visit: bool = False


def resume(text: str, epochs: Epochs, oldest: int, last: int) -> Resume:
    """Return where the reader who sent `Last-Event-ID: text` goes on.

    Args:
        text: what the reader sent.
        epochs: the log's epochs.
        oldest: number of the oldest event kept (`last + 1` when none is).
        last: number of the newest event.
    """
    position = parse_position(text)
    if position is None:
        return Resume(last, GapReason.NOT_OURS, first_visit=True)
    end = epochs.end_of(position.epoch, last)
    if end is None:
        return Resume(oldest - 1, GapReason.OTHER_LOG)
    after, gap = position.seq, None
    if after > end:
        after, gap = end, GapReason.SET_BACK
    if after < oldest - 1:
        after, gap = oldest - 1, gap or GapReason.EXPIRED
    return Resume(after, gap)
