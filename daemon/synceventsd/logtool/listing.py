"""`log list`: which events there are, a short line each; nothing of their data but its size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from attrs import frozen

from synceventsd.core.envelope import Envelope, decode_envelope
from synceventsd.eventlog.onlooker import Onlooker
from synceventsd.eventlog.stretch import Block, Stretch, beyond, down_from
from synceventsd.logtool.text import at, one_word


@frozen
class Wanted:
    """Which events are listed; None: whatever.

    Attributes:
        first, last: numbers, both included.
        limit: at most so many; the newest ones where there is no `first`, else the oldest.
    """

    first: int | None
    last: int | None
    limit: int | None
    business: int | None
    integration: int | None
    event_type: str | None

    def matches(self, seq: int, head: Envelope) -> bool:
        """Return whether an event is one of them."""
        return (
            (self.first is None or seq >= self.first)
            and (self.last is None or seq <= self.last)
            and (self.business is None or head.business_id == self.business)
            and (self.integration is None or head.integration_id == self.integration)
            and (self.event_type is None or head.event_type == self.event_type)
        )


@frozen
class Listed:
    """One event: its header, and how large it is in bytes."""

    seq: int
    accepted_at: float
    head: Envelope
    size: int

    def line(self) -> str:
        """Return the line for people: number, time, type, integration, business, id, bytes."""
        head = self.head
        business = "-" if head.business_id is None else head.business_id
        kind, name = one_word(head.event_type), one_word(str(head.id))
        return f"{self.seq} {at(self.accepted_at)} {kind} {head.integration_id} {business} {name} {self.size}"

    def json(self) -> str:
        """Return the line for machines."""
        return json.dumps(
            {
                "seq": self.seq,
                "accepted_at": at(self.accepted_at),
                "type": self.head.event_type,
                "integration_id": self.head.integration_id,
                "business_id": self.head.business_id,
                "id": str(self.head.id),
                "bytes": self.size,
            }
        )


def listed(onlooker: Onlooker, wanted: Wanted, damaged: Callable[[Block], object]) -> Iterator[Listed]:
    """Yield what is wanted, oldest first; `damaged` is told of blocks that do not read. Raises as `Onlooker.look`."""
    if wanted.first is not None:
        yield from _forwards(onlooker, wanted, damaged)
        return
    yield from reversed(list(_backwards(onlooker, wanted, damaged)))


def _forwards(onlooker: Onlooker, wanted: Wanted, damaged: Callable[[Block], object]) -> Iterator[Listed]:
    left = wanted.limit
    after, complete = (wanted.first or 1) - 1, False
    while not complete and (wanted.last is None or after < wanted.last):
        stretch = onlooker.look(lambda db, start=after: beyond(db, start))  # type: ignore[misc]
        for block in stretch.blocks:
            for event in _matching(block, wanted, damaged):
                if left == 0:
                    return
                yield event
                left = None if left is None else left - 1
            after = block.last
        complete = stretch.complete


def _backwards(onlooker: Onlooker, wanted: Wanted, damaged: Callable[[Block], object]) -> Iterator[Listed]:
    left = wanted.limit
    start, complete = 2**63 - 1 if wanted.last is None else wanted.last, False
    while not complete and start > 0:

        def page(db: Any, start: int = start) -> Stretch:
            return down_from(db, start, wanted.business)

        stretch = onlooker.look(page)
        for block in stretch.blocks:
            for event in reversed(list(_matching(block, wanted, damaged))):
                if left == 0:
                    return
                yield event
                left = None if left is None else left - 1
            start = block.first - 1
        complete = stretch.complete


def _matching(block: Block, wanted: Wanted, damaged: Callable[[Block], object]) -> Iterator[Listed]:
    if block.fault is not None:
        damaged(block)
    for seq, line in enumerate(block.lines, block.first):
        try:
            head = decode_envelope(line)
        except ValueError:  # its checksum is right: it is for `verify` to say so
            continue
        if wanted.matches(seq, head):
            yield Listed(seq, block.accepted_at, head, len(line))
