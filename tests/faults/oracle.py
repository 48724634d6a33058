"""What publishers were told, against what the Redis channel, the readers and the sync status say.

Rule of this file: no I/O. An event is made from its publisher and its number alone, so that its bytes, its fate and its
share in the sync status are known wherever it turns up.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import define, field, frozen

BUSINESS: Final = 42
PREFIX: Final = "integration.sync."
UNKNOWN: Final = "order.misspelt"  # the daemon rejects it
REJECT_EVERY: Final = 50  # how often one comes
AT: Final = "2026-11-24T02:30:15.123456+00:00"
COUNTERS: Final = {
    "order.created": "created_orders",
    "order.updated": "updated_orders",
    "order.rejected": "rejected_orders",
}


def integration_of(publisher: int) -> int:
    return 13 + publisher


def kind_of(number: int) -> str:
    """Return what a publisher's n-th event is: a start, then orders of all kinds, now and then one to be rejected."""
    if number == 0:
        return "started"
    if number % REJECT_EVERY == REJECT_EVERY - 1:
        return UNKNOWN
    return "order.updated" if number % 5 == 3 else "order.rejected" if number % 11 == 7 else "order.created"


def refused_among(count: int) -> int:
    """Return how many of a publisher's first `count` events are rejected."""
    return count // REJECT_EVERY


def name_of(publisher: int, number: int) -> str:
    return f"{publisher}/{number}"


def event(publisher: int, number: int) -> bytes:
    """Return that event, of the usual size."""
    return envelope(publisher, number, kind_of(number))


def envelope(publisher: int, number: int, kind: str = "order.created") -> bytes:
    """Return an event of one kind; an order if nothing is said."""
    data: dict[str, Any] = {"order_id": f"{number}", "order_number": f"#{number}", "pad": "x" * 300}
    if kind == "started":
        data = {"integration_id": integration_of(publisher), "integration_type": "shop", "started_at": AT, "params": {}}
    whole = {
        "id": name_of(publisher, number),
        "event_type": PREFIX + kind,
        "integration_id": integration_of(publisher),
        "business_id": BUSINESS,
        "timestamp": AT,
        "data": data,
    }
    return json.dumps(whole, separators=(",", ":")).encode()


@define
class Told:
    """What one publisher sent, and what it was told.

    Attributes:
        stored: numbers of the events that it was told are stored, in its order.
        refused: numbers of those that it was told are not.
        sent: how many it may have sent: those that it was told nothing about may be stored, or not.
    """

    stored: list[int] = field(factory=list)
    refused: set[int] = field(factory=set)
    sent: int = 0


@frozen
class Verdict:
    """What the comparison found. `flaws` is empty when every promise held.

    Attributes:
        lost: events told to be stored that the channel did not carry.
        doubled: how many messages were repeats of earlier ones.
    """

    events: int
    rejects: int
    lost: int
    doubled: int
    flaws: Sequence[str]


def compare(
    told: Mapping[int, Told],
    channel: Sequence[bytes],
    seen: Sequence[tuple[str, int]] | None = None,
    *,
    repeats: int = 0,
) -> Verdict:
    """Compare.

    Args:
        told: by publisher.
        channel: what Redis carried.
        seen: a reader's events, name and number in the log, from the log's first one on.
        repeats: how many messages may be repeats, each run of them beginning anew at an earlier event.
    """
    names = [str(json.loads(text)["id"]) for text in channel]
    first = list(dict.fromkeys(names))
    doubled = len(names) - len(first)
    lost = {name_of(who, number) for who, mine in told.items() for number in mine.stored} - set(first)
    flaws = [*_of_fate(told, first, lost), *_of_bytes(channel, names)]
    if doubled > repeats:
        twice = [name for name, times in Counter(names).items() if times > 1]
        flaws.append(f"{doubled} messages went out again, {repeats} may; for example {twice[:3]}")
    flaws += _of_order(told, first, "the channel")
    if seen is not None:
        flaws += _of_reader(first, names, seen)
    return Verdict(
        events=sum(len(mine.stored) for mine in told.values()),
        rejects=sum(len(mine.refused) for mine in told.values()),
        lost=len(lost),
        doubled=doubled,
        flaws=flaws,
    )


def _of_fate(told: Mapping[int, Told], heard: Sequence[str], lost: set[str]) -> Iterator[str]:
    if lost:
        yield f"{len(lost)} events that were acknowledged are missing, for example {sorted(lost)[:3]}"
    for who, mine in told.items():
        fated = {number for number in (*mine.stored, *mine.refused) if kind_of(number) == UNKNOWN}
        if fated != mine.refused:
            yield f"publisher {who} was told of the wrong rejects: {sorted(fated ^ mine.refused)[:3]}"
    possible = {name_of(who, n) for who, mine in told.items() for n in range(mine.sent) if kind_of(n) != UNKNOWN}
    strange = set(heard) - possible
    if strange:
        yield f"{len(strange)} events were never published, or were rejected: {sorted(strange)[:3]}"


def _of_bytes(channel: Sequence[bytes], names: Sequence[str]) -> Iterator[str]:
    for text, name in zip(channel, names, strict=True):
        publisher, number = map(int, name.split("/"))
        if text not in (event(publisher, number), envelope(publisher, number)):
            yield f"event {name} has other bytes than were sent"
            return


def _of_order(told: Mapping[int, Told], names: Sequence[str], where: str) -> Iterator[str]:
    for who in told:
        mine = [int(name.split("/")[1]) for name in names if name.startswith(f"{who}/")]
        if mine != sorted(mine):
            yield f"publisher {who}: out of order on {where}"


def _of_reader(first: Sequence[str], names: Sequence[str], seen: Sequence[tuple[str, int]]) -> Iterator[str]:
    if [seq for _, seq in seen] != list(range(1, len(seen) + 1)):
        yield "the reader's numbers are not 1, 2, 3, ..."
    if [name for name, _ in seen] != list(first):
        yield f"the reader saw {len(seen)} events, the channel carried {len(first)}, or in another order"
    number = dict(seen)
    carried = [number.get(name, 0) for name in names]
    if any(now > before + 1 for before, now in zip((0, *carried), carried, strict=False)):
        yield "the channel skipped an event"


def expected_counts(publisher: int, names: Sequence[str]) -> dict[str, int]:
    """Return what the sync status must count for a publisher whose sync goes on, by the events that are in the log."""
    kinds = Counter(kind_of(int(name.split("/")[1])) for name in names if name.startswith(f"{publisher}/"))
    counts = {counter: kinds[kind] for kind, counter in COUNTERS.items()}
    return counts | {"total_orders": sum(counts.values())}


def status_flaws(publisher: int, names: Sequence[str], answer: Mapping[str, Any]) -> list[str]:
    """Compare the sync status of a publisher's integration with what is in the log."""
    wanted, state = expected_counts(publisher, names), answer["sync_state"]
    if state is None:
        return [f"publisher {publisher}: no sync goes on, says the sync status"]
    found = {key: state[key] for key in wanted}
    return [] if found == wanted else [f"publisher {publisher}: the sync status says {found}, the log {wanted}"]
