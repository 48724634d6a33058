"""Isolation: a reader of one business never gets another's event, whatever else it asks for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.events import line

from synceventsd.core.envelope import decode_envelope
from synceventsd.core.filters import Filter

businesses = st.none() | st.integers(1, 3)
filters = st.builds(
    Filter,
    business_id=businesses,
    integration_id=st.none() | st.integers(0, 2),
    event_types=st.none()
    | st.frozensets(st.sampled_from(["integration.sync.failed", "integration.sync.completed", "no.such"])),
    order_ids=st.none() | st.frozensets(st.sampled_from(["order-1", "order-2", "7"])),
)
heads = st.builds(
    lambda number, event_type, integration, business, metadata: decode_envelope(
        line(number, event_type, integration, business, metadata=metadata)
    ),
    st.integers(1, 3),
    st.sampled_from(["integration.sync.failed", "integration.sync.completed"]),
    st.integers(0, 2),
    businesses,
    st.sampled_from([{}, {"order_id": "order-2"}, {"order_id": 7}, {"order_id": None}, {"order_id": True}]),
)


@given(filters, heads)
def test_another_business_s_event_never_matches(filter_: Filter, head: object) -> None:
    if filter_.business_id is not None and head.business_id not in (None, filter_.business_id):  # type: ignore[attr-defined]
        assert not filter_.matches(head)  # type: ignore[arg-type]


@given(filters, heads)
def test_a_filter_can_only_take_away(filter_: Filter, head: object) -> None:
    if filter_.matches(head):  # type: ignore[arg-type]
        assert Filter(filter_.business_id).matches(head)  # type: ignore[arg-type]


@given(filters)
def test_narrowing_keeps_the_business(filter_: Filter) -> None:
    assert filter_.narrowed(1, ["a"], None).business_id == filter_.business_id


def test_an_order_is_found_in_data_and_in_metadata_as_text_or_number() -> None:
    head = decode_envelope(line(1, data={"order_id": 5}, metadata={"order_id": "x"}))
    assert Filter(None, order_ids=frozenset(("5",))).matches(head)
    assert Filter(None, order_ids=frozenset(("x",))).matches(head)
    assert not Filter(None, order_ids=frozenset(("y",))).matches(head)
    assert not Filter(None, order_ids=frozenset()).matches(head)


def test_an_unknown_event_type_matches_nothing() -> None:
    assert not Filter(None, event_types=frozenset(("no.such",))).matches(decode_envelope(line(1)))
