"""Latency: buckets add up, each event counts once, whatever the clock does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from synceventsd.core.latency import BOUNDS, Latency, acceptances
from synceventsd.core.model import Group

GROUPS = [Group(1, "e", 10.0, [b"x"] * 3), Group(4, "e", 11.0, [b"x"]), Group(5, "e", 12.0, [b"x"] * 4)]


@given(st.lists(st.tuples(st.floats(-10, 10_000), st.integers(1, 1000)), max_size=20))
def test_a_bucket_counts_the_events_that_took_at_most_so_long(observed: list[tuple[float, int]]) -> None:
    latency = Latency()
    for seconds, events in observed:
        latency.observe(seconds, events)
    for bound, count in latency.cumulative():
        assert count == sum(events for seconds, events in observed if max(seconds, 0.0) <= float(bound))


def test_the_bounds_are_texts_that_prometheus_reads_and_the_last_one_is_infinite() -> None:
    bounds = [bound for bound, _ in Latency().cumulative()]
    assert [float(bound) for bound in bounds] == [*BOUNDS, float("inf")]
    assert bounds[-1] == "+Inf"


@given(st.integers(0, 9), st.integers(0, 9))
def test_every_event_of_a_range_is_counted_with_its_groups_time(after: int, last: int) -> None:
    wanted = [group.accepted_at for group in GROUPS for n in range(group.first, group.last + 1) if after < n <= last]
    found = acceptances(GROUPS, after, last)
    assert [at for at, count in found for _ in range(count)] == wanted
