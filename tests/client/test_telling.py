"""How events and syncs are told: pure functions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from syncevents import EventType, Gap, Received
from syncevents.progress import Progress, ended_line, ended_object, started_line
from syncevents.reading.values import parse_json
from syncevents.telling import event_json, event_line, gap_line, printable, span, to_json

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def event(kind: str, business: int | None = 42, at: datetime = NOW, integration: int = 13, **data: Any) -> Received:
    return Received("e", kind, integration, business, at, data, {}, 7, "x-7")


def answer(business: int | None = 42, *, stalled: bool = False, **counters: int) -> dict[str, Any]:
    return {"business_id": business, "stalled": stalled, "sync_state": counters}


NOBODY = {"business_id": 42, "stalled": False, "sync_state": None}


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text()))
def test_nothing_that_a_publisher_writes_ends_a_line_or_speaks_to_the_terminal(
    kind: str, reason: str, data: dict[str, str]
) -> None:
    for each in (event(kind), event(EventType.SYNC_ORDER_REJECTED, reason=reason), event(kind)):
        assert event_line(each).isprintable()
    assert started_line(event(EventType.SYNC_STARTED, integration_type=reason)).isprintable()
    assert gap_line(Gap(reason, 1, "")).isprintable()
    assert len(event_json(Received("e", kind, 1, None, NOW, data, {}, 7, "x")).splitlines()) == 1


json_text = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(json_text)
def test_json_keeps_every_value_and_every_digit(value: Any) -> None:
    text = to_json({"v": value})
    assert parse_json(text)["v"] == value
    assert "\n" not in text


def test_an_amount_is_told_with_the_digits_it_came_with() -> None:
    told = event(EventType.SYNC_ORDER_CREATED, order_number="#7", total_amount=Decimal("12.50"), currency="EUR")
    assert '"total_amount":12.50,' in event_json(told)
    assert "#7         12.50 EUR" in event_line(told)
    assert to_json(float("inf")) == "1e999"
    assert json.loads(to_json(float("-inf"))) == float("-inf")


def test_a_span_is_told_in_the_unit_that_fits() -> None:
    assert [span(seconds) for seconds in (-1, 0.52, 9.99, 59.9, 61, 3599, 7261)] == [
        "0.0 s",
        "0.5 s",
        "10.0 s",
        "59 s",
        "1 min 1 s",
        "59 min 59 s",
        "2 h 1 min",
    ]
    assert printable("a\x1b[31m\n") == "a\\u001b[31m\\u000a"


def test_a_sync_is_followed_from_its_start_to_its_end() -> None:
    progress = Progress()
    assert progress.heard(event(EventType.SYNC_STARTED, integration_type="shopify")) is None
    progress.asked((13, 42), answer(total_orders=10, created_orders=6, updated_orders=3, rejected_orders=1), 100.0)
    progress.asked((13, 42), answer(total_orders=30, created_orders=20, updated_orders=8, rejected_orders=2), 104.0)
    later = NOW + timedelta(seconds=75)
    (line,) = progress.lines(later)
    assert line.endswith("13/42 shopify  30 orders: 20 created, 8 updated, 2 rejected, 5.0/s, 1 min 15 s")
    head, row = progress.table(later)
    numbers = ["13", "42", "shopify", "30", "20", "8", "2", "5.0/s", "1", "min", "15", "s"]
    assert row.split() == numbers
    assert len(head) == len(row)
    ending = event(EventType.SYNC_COMPLETED, at=later, total_orders=31, created_orders=21, updated_orders=8)
    ended = progress.heard(ending)
    assert ended is not None
    words = "13/42 shopify  completed after 1 min 15 s: 31 orders: 21 created, 8 updated, 0 rejected"
    assert ended_line(ended, ending).endswith(words)
    told = ended_object(ended, ending)
    assert (told["status"], told["total_orders"], told["rejected_orders"], told["elapsed"]) == ("completed", 31, 2, 75)
    assert progress.table(later) == ["no sync is going on"]


def test_the_rate_is_that_of_the_last_seconds() -> None:
    progress = Progress()
    progress.heard(event(EventType.SYNC_STARTED))
    for second in range(60):
        progress.asked((13, 42), answer(total_orders=min(second, 30) * 10), 100.0 + second)
    assert progress.runs[(13, 42)].rate == 0
    progress.asked((13, 42), answer(total_orders=300), 159.0)  # the clock stood still: nothing is divided by 0
    assert progress.runs[(13, 42)].rate == 0


def test_a_stalled_sync_is_marked() -> None:
    progress = Progress()
    progress.heard(event(EventType.SYNC_STARTED))
    progress.asked((13, 42), answer(stalled=True), 1.0)
    assert progress.table(NOW)[1].endswith("  STALLED")
    assert progress.lines(NOW)[0].endswith(", STALLED")
    assert progress.objects(NOW)[0]["stalled"] is True


def test_a_failed_sync_is_told_with_its_error() -> None:
    progress = Progress()
    progress.heard(event(EventType.SYNC_STARTED, integration_type="woo"))
    ending = event(EventType.SYNC_FAILED, error="no\nroute")
    ended = progress.heard(ending)
    assert ended is not None
    assert ended_line(ended, ending).endswith("13/42 woo  failed after 0.0 s: no\\u000aroute")
    assert ended_object(ended, ending)["error"] == "no\nroute"


def test_a_sync_whose_end_is_on_its_way_is_kept_and_one_whose_end_was_missed_is_not() -> None:
    progress = Progress()
    progress.heard(event(EventType.SYNC_STARTED))
    progress.asked((13, 42), NOBODY, 1.0)
    assert progress.runs
    progress.asked((13, 42), NOBODY, 2.0)
    assert not progress.runs
    progress.asked((13, 42), NOBODY, 3.0)  # nothing is known of it any more


def test_another_businesss_counters_are_not_taken_for_a_global_syncs() -> None:
    progress = Progress()
    progress.heard(event(EventType.SYNC_STARTED, None))
    progress.asked((13, None), answer(42, total_orders=9), 1.0)
    assert progress.runs[(13, None)].total_orders == 0
    assert progress.table(NOW)[1].split()[:2] == ["13", "-"]
