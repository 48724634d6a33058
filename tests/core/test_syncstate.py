"""The sync status is what the log says, however its events are cut into groups."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.events import line

from synceventsd.core.envelope import KNOWN_TYPES, Envelope, decode_envelope
from synceventsd.core.syncstate import Key, SyncState, fold_all, view

SYNC = "integration.sync."
STARTED = {
    "integration_id": 13,
    "integration_type": "shopify",
    "params": {"status": "any"},
    "started_at": "2026-11-24T02:30:00Z",
}
COMPLETED = {
    "integration_id": 13,
    "integration_type": "shopify",
    "total_orders": 9,
    "created_orders": 4,
    "updated_orders": 3,
    "rejected_orders": 2,
    "duration": 5,
    "completed_at": "2026-11-24T02:31:00Z",
}


def head(kind: str, integration: int = 13, business: int | None = 42, **more: Any) -> Envelope:
    return decode_envelope(line(1, SYNC + kind, integration, business, **more))


def shown(heads: list[Envelope], now: float = 100.0, business: int | None = None) -> dict[str, Any]:
    states = fold_all({}, heads, 1, 50.0)
    return as_json(view((s for key, s in states.items() if business in (None, key[1])), now, 900.0))


def as_json(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the answer as it is seen from outside."""
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(answer))
    return decoded


def test_an_integration_never_heard_of_is_all_false_and_null() -> None:
    answer = view([], 0.0, 900.0)
    assert (answer["success"], answer["in_progress"], answer["sync_state"]) == (True, False, None)
    assert (answer["last_started"], answer["last_completed"], answer["last_failed"]) == (False, False, False)


def test_while_a_sync_runs_its_orders_are_counted() -> None:
    answer = shown(
        [
            head("started", data=STARTED),
            head("order.created"),
            head("order.updated"),
            head("order.rejected"),
            head("order.created"),
        ]
    )
    assert answer["in_progress"] is True
    assert answer["sync_state"] == {
        "integration_id": 13,
        "integration_type": "shopify",
        "status": "in_progress",
        "started_at": "2026-11-24T02:30:00Z",
        "params": {"status": "any"},
        "total_orders": 4,
        "created_orders": 2,
        "updated_orders": 1,
        "rejected_orders": 1,
    }
    assert (answer["last_started"], answer["last_completed"], answer["last_failed"]) == (True, False, False)


def test_a_finished_sync_leaves_its_own_summary() -> None:
    answer = shown([head("started", data=STARTED), head("order.created"), head("completed", data=COMPLETED)])
    assert (answer["in_progress"], answer["sync_state"], answer["last_completed"]) == (False, None, True)
    assert (answer["last_sync"]["status"], answer["last_sync"]["total_orders"]) == ("completed", 9)


def test_a_failed_sync_tells_the_error_and_what_was_counted() -> None:
    answer = shown([head("started", data=STARTED), head("order.created"), head("failed", data={"error": "no key"})])
    assert (answer["in_progress"], answer["last_failed"]) == (False, True)
    assert (answer["last_sync"]["error"], answer["last_sync"]["created_orders"]) == ("no key", 1)


def test_orders_outside_a_sync_begin_none() -> None:
    answer = shown([head("order.created")])
    assert (answer["in_progress"], answer["last_started"]) == (False, False)


def test_a_second_start_begins_at_zero() -> None:
    answer = shown([head("started", data=STARTED), head("order.created"), head("started", data=STARTED)])
    assert answer["sync_state"]["total_orders"] == 0


def test_numbers_that_python_does_not_decode_stop_nothing_and_are_shown_as_they_came() -> None:
    wild = decode_envelope(line(1, SYNC + "started", data={"params": {"status": 7}}).replace(b":7}", b":1e999}"))
    shown_at_first = msgspec.json.encode(view(fold_all({}, [wild], 1, 5.0).values(), 6.0, 900.0))
    assert b'"params":{"status":1e999}' in shown_at_first
    (state,) = fold_all({}, [wild, head("failed", data={"error": "x", "total_orders": 10**30})], 1, 5.0).values()
    loaded = msgspec.json.decode(msgspec.json.encode(state), type=SyncState)
    assert b'"params":{"status":1e999}' in msgspec.json.encode(view([loaded], 6.0, 900.0))


def test_the_latest_sync_is_the_one_that_began_last_even_when_an_older_one_ends_after() -> None:
    events = [
        head("started", business=1, data=STARTED),
        head("started", business=2, data=STARTED | {"integration_type": "woocommerce"}),
        head("completed", business=1, data=COMPLETED),
    ]
    assert shown(events)["sync_state"]["integration_type"] == "woocommerce"
    assert shown(events)["last_completed"] is True


def test_without_a_business_the_latest_sync_counts_whichever_it_belongs_to() -> None:
    events = [
        head("started", business=1, data=STARTED),
        head("started", business=2, data=STARTED | {"integration_type": "woocommerce"}),
        head("order.created", business=1),
    ]
    assert shown(events)["sync_state"]["integration_type"] == "woocommerce"
    assert shown(events, business=1)["sync_state"]["created_orders"] == 1


def test_a_sync_that_nothing_is_heard_of_is_stalled_and_still_in_progress() -> None:
    started = [head("started", data=STARTED)]
    assert (shown(started, now=949.0)["stalled"], shown(started, now=949.0)["in_progress"]) == (False, True)
    assert (shown(started, now=950.0)["stalled"], shown(started, now=950.0)["in_progress"]) == (True, True)


events = st.builds(
    head,
    st.sampled_from([kind.removeprefix(SYNC) for kind in sorted(KNOWN_TYPES)] + ["order.created"] * 6),
    integration=st.integers(1, 2),
    business=st.sampled_from([None, 1, 2]),
    data=st.sampled_from([STARTED, COMPLETED, {"error": "x"}, {"params": 1, "started_at": 5, "total_orders": True}]),
)


@given(st.lists(events, max_size=40), st.lists(st.integers(1, 9)))
def test_any_cut_into_groups_gives_the_same_states(heads: list[Envelope], sizes: list[int]) -> None:
    one_by_one: dict[Key, SyncState] = {}
    for seq, one in enumerate(heads, 1):
        one_by_one |= fold_all(one_by_one, [one], seq, 5.0)
    grouped: dict[Key, SyncState] = {}
    start = 0
    for size in [*sizes, len(heads) + 1]:
        grouped |= fold_all(grouped, heads[start : start + size], start + 1, 5.0)
        start += size
    assert grouped == one_by_one


@given(st.lists(events, max_size=10))
def test_a_saved_state_loads_as_it_was(heads: list[Envelope]) -> None:
    for state in fold_all({}, heads, 1, 5.0).values():
        assert msgspec.json.decode(msgspec.json.encode(state), type=SyncState) == state
        assert json.loads(msgspec.json.encode(state))
