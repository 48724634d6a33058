"""The sync status as a fold: what an integration's events say about its syncs.

`fold` is a pure function of the state before and one event, so the status can be rebuilt from the log at any time, and
the order of the log is all that counts: the clock only says when something was last heard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from attrs import evolve, frozen
from msgspec import Raw

from synceventsd.core.envelope import Envelope, kinds_of

NULL: Final = Raw(b"null")
MAX_DIGITS: Final = 18  # of a counter: what fits into 64 bits, as the Go readers have it
STARTED: Final = "integration.sync.started"
COMPLETED: Final = "integration.sync.completed"
FAILED: Final = "integration.sync.failed"
_COUNTER: Final = {
    "integration.sync.order.created": "created_orders",
    "integration.sync.order.updated": "updated_orders",
    "integration.sync.order.rejected": "rejected_orders",
}
_TURNS: Final = frozenset((STARTED, COMPLETED, FAILED))
_COUNTS: Final = ("total_orders", "created_orders", "updated_orders", "rejected_orders")


@frozen
class Run:
    """A sync that is going on."""

    integration_type: str
    started_at: str
    params: Raw
    created_orders: int = 0
    updated_orders: int = 0
    rejected_orders: int = 0


@frozen
class SyncState:
    """What is known of the syncs of one integration for one business (None: global events).

    Attributes:
        heard_at: when the latest event that belongs here was accepted, in seconds since 1970.
        sync_seq: number of the event that began the latest sync, or ended one that nobody had seen begin; the largest
            one says whose sync is the integration's latest.
        ended_at: when the end of the latest finished sync was accepted, in seconds since 1970; 0 when there is none.
        run: the sync that is going on, or None.
        last_sync: summary of the latest finished one as JSON, `null` when there is none.
    """

    integration_id: int
    business_id: int | None
    heard_at: float = 0.0
    sync_seq: int = 0
    started: bool = False
    completed: bool = False
    failed: bool = False
    run: Run | None = None
    last_sync: Raw = NULL
    ended_at: float = 0.0


def fold(state: SyncState, head: Envelope, seq: int, accepted_at: float) -> SyncState:
    """Return the state after one more event of the same integration and business.

    A second start without an end replaces the run: the process that began the first one is gone.
    """
    if head.event_type in _COUNTER:
        return count(state, head.event_type, 1, accepted_at)
    if head.event_type == STARTED:
        return evolve(state, heard_at=accepted_at, sync_seq=seq, started=True, run=_begin(head))
    if head.event_type == COMPLETED:
        return _ended(state, head, seq, accepted_at, "completed")
    if head.event_type == FAILED:
        return _ended(state, head, seq, accepted_at, "failed")
    return state  # an extra type: passed on, but no part of a sync


def _ended(state: SyncState, head: Envelope, seq: int, accepted_at: float, how: str) -> SyncState:
    return evolve(
        state,
        heard_at=accepted_at,
        sync_seq=seq if state.run is None else state.sync_seq,
        run=None,
        last_sync=Raw(msgspec.json.encode(_summary(state.run, head, how))),
        ended_at=accepted_at,
        **{how: True},
    )


def count(state: SyncState, event_type: str, times: int, accepted_at: float) -> SyncState:
    """Return the state after `times` events of one order type.

    Orders outside a run count for nothing but show that the integration is alive.
    """
    counter = _COUNTER[event_type]
    run = state.run and evolve(state.run, **{counter: getattr(state.run, counter) + times})
    return evolve(state, heard_at=accepted_at, run=run)


Key = tuple[int, int | None]  # integration and business


def fold_all(
    states: Mapping[Key, SyncState], heads: Sequence[Envelope], first: int, accepted_at: float
) -> dict[Key, SyncState]:
    """Return what changes in `states` by consecutive events, the first of which has number `first`.

    Orders are counted by kind, not folded one by one, between the events that begin or end a sync: 0.3 us an event
    against 4 us.
    """
    changed: dict[Key, SyncState] = {}

    def state_of(key: Key) -> SyncState:
        return changed.get(key) or states.get(key) or SyncState(*key)

    kinds = kinds_of(heads)
    if _TURNS.isdisjoint(event_type for event_type, _, _ in kinds):
        for (event_type, integration, business), times in kinds.items():
            if event_type in _COUNTER:
                place = (integration, business)
                changed[place] = count(state_of(place), event_type, times, accepted_at)
        return changed
    for seq, head in enumerate(heads, first):
        place = (head.integration_id, head.business_id)
        changed[place] = fold(state_of(place), head, seq, accepted_at)
    return changed


def view(states: Iterable[SyncState], now: float, stalled_after: float) -> dict[str, Any]:
    """Return the answer for one integration.

    Args:
        states: its states, of one business or of all that may be seen; the latest sync among them counts.
        now: seconds since 1970.
        stalled_after: seconds without an event after which a running sync is called stalled.
    """
    known = list(states)
    latest = max(known, key=lambda state: state.sync_seq, default=None)
    run = None if latest is None else latest.run
    return {
        "success": True,
        "in_progress": run is not None,
        "stalled": latest is not None and is_stalled(latest, now, stalled_after),
        "sync_state": None if latest is None or run is None else _running(latest, run),
        "business_id": None if latest is None else latest.business_id,
        "last_started": any(state.started for state in known),
        "last_completed": any(state.completed for state in known),
        "last_failed": any(state.failed for state in known),
        "last_sync": NULL if latest is None else latest.last_sync,
    }


def is_stalled(state: SyncState, now: float, stalled_after: float) -> bool:
    """Return whether a sync is going on of which nothing was accepted for `stalled_after` seconds."""
    return state.run is not None and now - state.heard_at >= stalled_after


def _running(state: SyncState, run: Run) -> dict[str, Any]:
    return {
        "integration_id": state.integration_id,
        "integration_type": run.integration_type,
        "status": "in_progress",
        "started_at": run.started_at,
        "params": run.params,
        **_counts(run),
    }


def _counts(run: Run) -> dict[str, int]:
    total = run.created_orders + run.updated_orders + run.rejected_orders
    return {
        "total_orders": total,
        "created_orders": run.created_orders,
        "updated_orders": run.updated_orders,
        "rejected_orders": run.rejected_orders,
    }


def _begin(head: Envelope) -> Run:
    data = _decode(head.data)
    return Run(
        integration_type=_text(data.integration_type),
        started_at=_text(data.started_at) or str(head.timestamp),
        params=_object(data.params),
    )


def _summary(run: Run | None, head: Envelope, status: str) -> dict[str, Any]:
    """Return the summary of a finished sync: what its last event says, else what was counted."""
    data = _decode(head.data)
    counted: Mapping[str, int] = {} if run is None else _counts(run)
    summary: dict[str, Any] = {
        "integration_id": head.integration_id,
        "integration_type": _text(data.integration_type) or (run.integration_type if run else ""),
        "status": status,
        "started_at": run.started_at if run else None,
        "finished_at": _text(data.completed_at if status == "completed" else data.failed_at) or str(head.timestamp),
        "params": run.params if run else Raw(b"{}"),
    }
    for key in _COUNTS:
        told = _whole_number(getattr(data, key))
        summary[key] = counted.get(key, 0) if told is None else told
    if status == "failed":
        summary["error"] = _text(data.error)
    return summary


class _Data(msgspec.Struct):
    """What is looked at in an event's `data`, each still raw.

    Raw, because JSON holds numbers that Python's decoders refuse (1e999, an integer of 5000 digits): an event with one
    somewhere is accepted, and must not stop the fold.
    """

    integration_type: Raw = Raw()
    started_at: Raw = Raw()
    completed_at: Raw = Raw()
    failed_at: Raw = Raw()
    params: Raw = Raw()
    error: Raw = Raw()
    total_orders: Raw = Raw()
    created_orders: Raw = Raw()
    updated_orders: Raw = Raw()
    rejected_orders: Raw = Raw()


_decode = msgspec.json.Decoder(_Data).decode


def _text(raw: Raw) -> str:
    text = bytes(raw)
    return msgspec.json.decode(text, type=str) if text.startswith(b'"') else ""


def _object(raw: Raw) -> Raw:
    text = bytes(raw)  # a copy: a view would keep the whole line in memory
    return Raw(text if text.startswith(b"{") else b"{}")


def _whole_number(raw: Raw) -> int | None:
    text = bytes(raw)
    return int(text) if text.isdigit() and len(text) <= MAX_DIGITS else None
