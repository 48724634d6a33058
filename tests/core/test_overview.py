"""The overview of all syncs says what the sync status says, and is bounded."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from tests.events import line

from synceventsd.core.envelope import Envelope, decode_envelope
from synceventsd.core.overview import MAX_TEXT, MOST_FINISHED, MOST_RUNNING, overview
from synceventsd.core.syncstate import SyncState, fold_all

SYNC = "integration.sync."
STARTED = {"integration_type": "shopify", "started_at": "2026-11-24T02:30:00Z", "params": {"status": "any"}}


def head(kind: str, integration: int = 13, business: int | None = 42, **more: Any) -> Envelope:
    return decode_envelope(line(1, SYNC + kind, integration, business, **more))


def shown(states: dict[Any, SyncState], now: float = 100.0) -> dict[str, Any]:
    """Return the overview as it is seen from outside."""
    found: dict[str, Any] = json.loads(msgspec.json.encode(overview(states.values(), now, 60.0)))
    return found


def test_a_running_sync_is_shown_with_its_counts_until_it_ends() -> None:
    states = fold_all({}, [head("started", data=STARTED), head("order.created"), head("order.rejected")], 7, 50.0)
    assert shown(states)["running"] == [
        {
            "integration_id": 13,
            "business_id": 42,
            "integration_type": "shopify",
            "started_at": "2026-11-24T02:30:00Z",
            "begun_at_seq": 7,
            "total_orders": 2,
            "created_orders": 1,
            "updated_orders": 0,
            "rejected_orders": 1,
            "heard_at": 50.0,
            "stalled": False,
        }
    ]
    states |= fold_all(states, [head("failed", data={"error": "no route"})], 10, 55.0)
    assert shown(states)["running"] == []
    (finished,) = shown(states)["finished"]
    assert (finished["status"], finished["error"], finished["ended_at"]) == ("failed", "no route", 55.0)
    assert (finished["created_orders"], finished["total_orders"], finished["integration_type"]) == (1, 2, "shopify")


def test_a_sync_of_which_nothing_came_for_long_is_stalled() -> None:
    states = fold_all({}, [head("started", data=STARTED)], 1, 50.0)
    assert (shown(states, 109.9)["stalled"], shown(states, 109.9)["running"][0]["stalled"]) == (0, False)
    assert (shown(states, 110.0)["stalled"], shown(states, 110.0)["running"][0]["stalled"]) == (1, True)


def test_of_many_syncs_the_latest_are_shown_and_every_stalled_one_is_counted() -> None:
    states = fold_all({}, [head("started", number, data=STARTED) for number in range(200)], 1, 50.0)
    found = shown(states, 1000.0)
    assert [sync["integration_id"] for sync in found["running"]] == list(range(199, 199 - MOST_RUNNING, -1))
    assert found["stalled"] == 200
    for number in range(100):
        states |= fold_all(states, [head("completed", number)], 300 + number, 60.0 + number)
    assert [sync["integration_id"] for sync in shown(states)["finished"]] == list(range(99, 99 - MOST_FINISHED, -1))


def test_texts_of_any_length_are_cut() -> None:
    long = "x" * 100_000
    data = {"integration_type": long, "started_at": long, "params": {"status": long}}
    states = fold_all({}, [head("started", data=data)], 1, 50.0)
    assert len(shown(states)["running"][0]["integration_type"]) == MAX_TEXT
    states |= fold_all(states, [head("failed", data={"error": long, "failed_at": long})], 2, 51.0)
    assert len(json.dumps(shown(states))) < 3000


def test_numbers_that_python_does_not_decode_do_not_hide_a_finished_sync() -> None:
    text = (
        line(1, SYNC + "started", data={"params": {"n": 0}})
        .replace(b'"n": 0', b'"n": 1e999')
        .replace(b'"n":0', b'"n":1e999')
    )
    states = fold_all({}, [decode_envelope(text), head("completed")], 1, 50.0)
    assert shown(states)["finished"][0]["status"] == "completed"
