"""Events for tests, and how to put them into a log without a socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from synceventsd.core.envelope import KNOWN_TYPES, Fault, Stamp
from synceventsd.core.linecheck import read_event
from synceventsd.eventlog import EventLog, Lot, Rejected, open_log
from synceventsd.eventlog.committer import Retention
from synceventsd.eventlog.schema import Durability

CREATED = "integration.sync.order.created"
ROOMY = Retention(2**32, 2**30, 7 * 86400.0)
AT = "2026-11-24T02:30:15.123456+00:00"


def line(
    number: int = 1, event_type: str = CREATED, integration: int = 13, business: int | None = 42, **more: Any
) -> bytes:
    """Return one envelope in its compact form; `more` replaces or adds top-level keys."""
    envelope: dict[str, Any] = {"id": f"event-{number}", "event_type": event_type, "integration_id": integration}
    if business is not None:
        envelope["business_id"] = business
    envelope |= {"timestamp": AT, "data": {"order_id": f"order-{number}", "order_number": f"#{number}"}} | more
    return json.dumps(envelope, separators=(",", ":")).encode()


@define(eq=False)
class Hand:
    """Stands for a publisher's connection: hands in lines and notes what it is told."""

    log: EventLog
    producer: str | None = None
    uid: int = 1000
    numbered: int = 0
    dealt: int = 0
    rejects: list[Rejected] = field(factory=list)

    def settled(self, upto: int, rejects: Sequence[Rejected]) -> None:
        self.dealt = upto
        self.rejects.extend(rejects)

    def hand_in(self, *lines: bytes) -> None:
        """Hand in lines as a connection does, valid or not."""
        lot = Lot(self, self.numbered + 1, self.numbered + len(lines), [], [], [], 0)
        for number, text in enumerate(lines, self.numbered + 1):
            found = read_event(text, KNOWN_TYPES, lambda: Stamp("added-id", AT))
            if isinstance(found, Fault):
                lot.rejects.append(Rejected(number, found))
            else:
                lot.lines.append(found[0])
                lot.heads.append(found[1])
                lot.size += len(found[0])
        self.numbered = lot.upto
        self.log.committer.hand_in(lot)

    async def append(self, *lines: bytes) -> None:
        """Hand in lines and wait until they are dealt with."""
        self.hand_in(*lines)
        await self.log.committer.wait_settled(self)


@asynccontextmanager
async def a_log(
    state: Path, *, retention: Retention = ROOMY, forwarding: bool = False, durability: Durability = "process"
) -> AsyncIterator[EventLog]:
    """Open a log with its committer; no sync status follows it, so retention need not wait for one."""
    async with open_log(state, durability, retention, forwarding=forwarding) as log, trio.open_nursery() as nursery:
        nursery.start_soon(log.committer.run)
        log._syncs_upto = 2**60
        yield log
        nursery.cancel_scope.cancel()
