"""What one transaction of the writer writes."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from synceventsd.core.ledger import Changes
from synceventsd.core.model import Group


@frozen
class ProducerCount:
    """How many lines of a producer are dealt with for good."""

    producer: str
    uid: int
    accepted: int


@frozen
class RejectRow:
    """A line of a producer that was not stored, kept so that it can be told again."""

    producer: str
    line: int
    event_id: str | None
    code: str
    error: str


@frozen
class Commit:
    """Everything that one transaction writes.

    `forget_before`: producers last seen before then (seconds since 1970) are forgotten, with their rejects.
    """

    at: float
    groups: Sequence[Group] = ()
    producers: Sequence[ProducerCount] = ()
    rejects: Sequence[RejectRow] = ()
    forwarded: int = 0
    seen: Sequence[tuple[str, int]] = ()  # producer, acked: said hello since the last commit
    ledger: Changes = Changes()  # noqa: RUF009 (immutable)
    forget_before: float | None = None
