"""What a connection hands in at once, and what becomes of it: groups of the log, rejects, lines of the ledger.

Rule of this file: no clock and no I/O; what is decided about a lot makes a new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from attrs import define, field, frozen

from synceventsd.core.envelope import Envelope, Fault, echo
from synceventsd.core.ledger import Incident
from synceventsd.core.model import Group

# One row of the log: small enough to be read in a short slice, large enough that its fixed cost is spread.
MAX_GROUP_EVENTS: Final = 1024
MAX_GROUP_BYTES: Final = 512 * 1024

LINE_OVERHEAD: Final = 400  # bytes that a line takes in memory beside its text: the decoded envelope, or the reject


@frozen
class Rejected:
    """A line that is not stored, with its number."""

    line: int
    fault: Fault


class Source(Protocol):
    """A connection, as the committer sees it."""

    @property
    def producer(self) -> str | None:
        """The producer's id; None for an anonymous connection."""

    @property
    def uid(self) -> int:
        """The user at the other end."""

    def settled(self, upto: int, rejects: Sequence[Rejected]) -> None:
        """Learn that all lines up to `upto` are dealt with for good."""


@define(eq=False)
class Lot:
    """What a connection hands in at once: lines `first` to `upto`, each either an event or a reject.

    `size` is the text of the events. `handed_in_at` is `trio.current_time()`, noted by the committer.
    """

    source: Source
    first: int
    upto: int
    lines: list[bytes]
    heads: list[Envelope]
    rejects: list[Rejected]
    size: int
    handed_in_at: float = field(default=0.0, init=False)

    @property
    def cost(self) -> int:
        """Return about how much memory it takes until it is settled."""
        return self.size + LINE_OVERHEAD * (self.upto - self.first + 1)


def compose(lots: Sequence[Lot], first: int, epoch: str, at: float) -> list[Group]:
    """Cut the events of all lots, in order, into groups that begin at number `first`."""
    groups: list[Group] = []
    lines: list[bytes] = []
    heads: list[Envelope] = []
    size = 0

    def end_group() -> None:
        nonlocal first, lines, heads, size
        groups.append(Group(first, epoch, at, lines, heads, size=size))
        first, lines, heads, size = first + len(lines), [], [], 0

    for lot in lots:
        if len(lines) + len(lot.lines) <= MAX_GROUP_EVENTS and size + lot.size <= MAX_GROUP_BYTES:
            lines += lot.lines  # nearly always; to do it line by line costs 0.3 us an event
            heads += lot.heads
            size += lot.size
            continue
        for line, head in zip(lot.lines, lot.heads, strict=True):
            if lines and (len(lines) >= MAX_GROUP_EVENTS or size + len(line) > MAX_GROUP_BYTES):
                end_group()
            lines.append(line)
            heads.append(head)
            size += len(line)
    if lines:
        end_group()
    return groups


def fitting(lots: Sequence[Lot], room: int) -> int:
    """Return how many of the lots, from the first on, fit into so many bytes; those without events always do."""
    for count, lot in enumerate(lots):
        room -= lot.size
        if lot.size and room < 0:
            return count
    return len(lots)


def without(lot: Lot, faults: Mapping[int, Fault]) -> Lot:
    """Return the lot with the events at these indexes rejected."""
    if not faults:
        return lot
    known = {reject.line for reject in lot.rejects}
    numbers = [number for number in range(lot.first, lot.upto + 1) if number not in known]
    more = [Rejected(numbers[index], fault) for index, fault in faults.items()]
    kept = [index for index in range(len(lot.lines)) if index not in faults]
    lines = [lot.lines[index] for index in kept]
    heads = [lot.heads[index] for index in kept]
    rejects = sorted((*lot.rejects, *more), key=lambda reject: reject.line)
    return Lot(lot.source, lot.first, lot.upto, lines, heads, rejects, sum(map(len, lines)))


def refused(lot: Lot, code: str, error: str) -> Lot:
    """Return the lot with every event of it rejected."""
    return without(lot, {index: Fault(code, error, echo(head.id)) for index, head in enumerate(lot.heads)})


def incidents_of(lot: Lot) -> list[Incident]:
    """Return what the ledger says of a lot: one incident for each code among its rejects."""
    counts = Counter(reject.fault.code for reject in lot.rejects)
    newest = {reject.fault.code: reject for reject in lot.rejects}
    who = "an anonymous publisher" if lot.source.producer is None else f"producer {lot.source.producer}"
    return [
        Incident(code, count, lot.source.uid, detail=f"line {newest[code].line} of {who}: {newest[code].fault.error}")
        for code, count in counts.items()
    ]
