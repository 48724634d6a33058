"""The syncs of all integrations at a glance, for `/status` and the page.

Rule of this file: what it returns is bounded, however many syncs there are and however long the texts are that
publishers sent.
"""

from __future__ import annotations

from collections.abc import Collection
from heapq import nlargest
from typing import Any, Final

import msgspec

from synceventsd.core.syncstate import Run, SyncState, is_stalled

MOST_RUNNING: Final = 50
MOST_FINISHED: Final = 20
MAX_TEXT: Final = 300  # characters, of an error for example


def overview(states: Collection[SyncState], now: float, stalled_after: float) -> dict[str, Any]:
    """Return the running syncs, those that began last first, and the finished ones, those that ended last first.

    Args:
        states: of all integrations and businesses.
        now: seconds since 1970.
        stalled_after: seconds without an event after which a running sync is called stalled.
    """
    running = [state for state in states if state.run is not None]
    newest = nlargest(MOST_RUNNING, running, key=lambda state: state.sync_seq)
    finished = [state for state in states if state.completed or state.failed]
    latest = nlargest(MOST_FINISHED, finished, key=lambda state: state.ended_at)
    return {
        "running": [_running(state, state.run, now, stalled_after) for state in newest if state.run is not None],
        "stalled": sum(is_stalled(state, now, stalled_after) for state in running),
        "finished": [_finished(state) for state in latest],
    }


def _running(state: SyncState, run: Run, now: float, stalled_after: float) -> dict[str, Any]:
    return {
        "integration_id": state.integration_id,
        "business_id": state.business_id,
        "integration_type": run.integration_type[:MAX_TEXT],
        "started_at": run.started_at[:MAX_TEXT],
        "begun_at_seq": state.sync_seq,
        "total_orders": run.created_orders + run.updated_orders + run.rejected_orders,
        "created_orders": run.created_orders,
        "updated_orders": run.updated_orders,
        "rejected_orders": run.rejected_orders,
        "heard_at": state.heard_at,
        "stalled": is_stalled(state, now, stalled_after),
    }


class _Summary(msgspec.Struct):
    """What is shown of a summary; its `params` may be as long as a frame."""

    status: str
    integration_type: str = ""
    started_at: str | None = None
    finished_at: str = ""
    total_orders: int = 0
    created_orders: int = 0
    updated_orders: int = 0
    rejected_orders: int = 0
    error: str | None = None


_decode = msgspec.json.Decoder(_Summary).decode


def _finished(state: SyncState) -> dict[str, Any]:
    summary = _decode(state.last_sync)
    return {
        "integration_id": state.integration_id,
        "business_id": state.business_id,
        "integration_type": summary.integration_type[:MAX_TEXT],
        "status": summary.status,
        "started_at": summary.started_at and summary.started_at[:MAX_TEXT],
        "finished_at": summary.finished_at[:MAX_TEXT],
        "ended_at": state.ended_at,
        "total_orders": summary.total_orders,
        "created_orders": summary.created_orders,
        "updated_orders": summary.updated_orders,
        "rejected_orders": summary.rejected_orders,
        "error": summary.error and summary.error[:MAX_TEXT],
    }
