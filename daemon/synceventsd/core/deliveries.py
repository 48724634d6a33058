"""What a reader gets next: the events of some groups that match its filter, as much as one write takes.

Rule of this file: whatever the filter, and wherever a delivery ends, the next one begins right behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Final

from attrs import define, frozen

from synceventsd.core.filters import Filter
from synceventsd.core.model import STRETCH_BYTES, Group, Stretch
from synceventsd.core.positions import GapReason, Position

# How many events that do not match are looked at before everybody else has a turn: a millisecond or two.
MOST_PASSED: Final = 1000


@frozen
class Gap:
    """Events that the reader should have had are not there; it goes on with event number `resumes_at`."""

    reason: GapReason
    resumes_at: int


@define(eq=False)
class Delivery:
    """What a reader gets next: at most one of `gap` and `runs`; neither when there was nothing for a while.

    Several readers may be given the same one; nobody changes it.

    `runs` are groups, each with those of its events that match; their frames are shared by all readers.
    `position` is where the reader is once it has taken this.
    """

    runs: Sequence[tuple[Group, Stretch]]
    gap: Gap | None
    position: Position

    @cached_property
    def sse(self) -> bytes:
        """Return the events' frames for the event stream, joined once for all who get this delivery."""
        return b"".join([group.sse(stretch) for group, stretch in self.runs])


def take(groups: Sequence[Group], filter_: Filter, after: int, upto: int) -> tuple[list[tuple[Group, Stretch]], int]:
    """Return the matching events beyond `after`, up to a batch's size, and the number up to which all was looked at.

    Where most of them do not match, only so many are looked at in one step.
    """
    runs: list[tuple[Group, Stretch]] = []
    room, patience = STRETCH_BYTES, MOST_PASSED
    for group in groups:
        if room <= 0:  # a stretch was as large as that: what follows it was not looked at
            return runs, group.first - 1
        if filter_.takes_all:
            for stretch in group.stretches(filter_.business_id, after):
                room -= stretch.size
                if runs and room < 0:
                    return runs, group.first + stretch[0] - 1
                runs.append((group, stretch))
            continue
        found: list[int] = []
        candidates = group.indexes(filter_.business_id, after)
        before = room
        for index, size in zip(candidates, group.sizes(candidates), strict=True):
            if filter_.matches(group.head(index)):
                found.append(index)
                room -= size
            else:
                patience -= 1
            if room <= 0 or patience <= 0:
                upto = group.first + index
                break
        if found:
            runs.append((group, Stretch(found, before - room)))
        if room <= 0 or patience <= 0:
            break
    return runs, upto


def deliveries(
    groups: Sequence[Group], filter_: Filter, after: int, last: int, position: Callable[[int], Position]
) -> list[Delivery]:
    """Return all that matches beyond event number `after`, in batches; `groups` reach up to number `last`."""
    found = []
    while after < last:
        runs, after = take(groups, filter_, after, last)
        if runs:
            found.append(Delivery(runs, None, position(after)))
    return found
