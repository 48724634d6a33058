"""The cursor in Redis: what it means for the next batch. The scripts in `redis_sink` decide the same, inside Redis.

The cursor's text is a position, `<epoch>-<number>`: everything up to that number is out. Rule of this file: when in
doubt whether the cursor counts our events, an event goes out twice rather than never.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from attrs import frozen

from synceventsd.core.positions import Epochs, parse_position

_KEY: Final = "synceventsd:cursor:{%s}"  # the braces are a hash tag: a cluster keeps what carries it on one node


def cursor_key(log_id: str) -> str:
    """Return the name of the key that holds the cursor of a log."""
    return _KEY % log_id


@frozen
class Batch:
    """Consecutive events on their way to Redis.

    Attributes:
        epoch: the running epoch; only a cursor of this epoch lets the batch through.
        known: the highest number that this process ever handed to Redis before this batch, or knew to be out.
        first: number of the first event.
        lines: the events; none at all asks whether Redis would take some, and publishes nothing.
    """

    epoch: str
    known: int
    first: int
    lines: Sequence[bytes] = ()

    @property
    def last(self) -> int:
        """Return the number of the last event; `first - 1` when there is none."""
        return self.first + len(self.lines) - 1


class Verdict(Enum):
    """What became of a batch."""

    DONE = "done"  # everything up to the answer's number is out
    BEHIND = (
        "behind"  # nothing was sent: the cursor went back to the answer's number, what follows it must go out again
    )
    AHEAD = "ahead"  # nothing was sent: the cursor counts events that this process never sent
    MOVED = "moved"  # nothing was sent: the cursor is gone, or was written by somebody else


@frozen
class Answer:
    """What Redis decided.

    Attributes:
        seq: the cursor's number; means nothing where the cursor moved.
    """

    verdict: Verdict
    seq: int


@frozen
class Send:
    """The batch may go out, without its first `skip` events, which are out already."""

    skip: int


def decide(raw: bytes | None, batch: Batch) -> Answer | Send:
    """Return what is to be done with a batch when the cursor holds `raw` (None: there is no cursor)."""
    cursor = None if raw is None else parse_position(raw.decode(errors="replace"))
    if cursor is None or cursor.epoch != batch.epoch:
        return Answer(Verdict.MOVED, 0)
    if cursor.seq > max(batch.known, batch.first - 1):
        return Answer(Verdict.AHEAD, cursor.seq)
    if batch.first > cursor.seq + 1:
        return Answer(Verdict.BEHIND, cursor.seq)
    if batch.last <= cursor.seq:
        return Answer(Verdict.DONE, cursor.seq)
    return Send(cursor.seq + 1 - batch.first)


def resolve(raw: bytes | None, epochs: Epochs, last: int, own_mark: int, known: int) -> int:
    """Return up to which number everything is out, given what the cursor holds on connecting.

    Args:
        raw: the cursor's text; None when there is none.
        epochs: the log's epochs.
        last: number of the log's newest event.
        own_mark: up to where the log itself knows events to be out.
        known: the highest number that this process ever handed to Redis or knew to be out.
    """
    cursor = None if raw is None else parse_position(raw.decode(errors="replace"))
    if cursor is not None and epochs.of_this_run(cursor.epoch) and cursor.seq > known:
        # Written under our name, but not by us as we are: this machine was set back to a snapshot while we ran. The
        # numbers up to the cursor may by now belong to other events.
        return own_mark
    return epochs.out(cursor, last, own_mark)


def repeated(raw: bytes | None, epochs: Epochs, last: int, own_mark: int, known: int) -> int:
    """Return how many events that are out, or may be, go out again after `resolve`, whose arguments these are.

    None where the cursor says what is out. Else all that was handed to Redis beyond the point where it goes on: what
    became of a batch whose answer was lost, only the cursor knew.
    """
    out = resolve(raw, epochs, last, own_mark, known)
    cursor = None if raw is None else parse_position(raw.decode(errors="replace"))
    if out >= own_mark and cursor is not None and cursor.seq == out and epochs.end_of(cursor.epoch, last) is not None:
        return 0
    return max(known, own_mark) - out
