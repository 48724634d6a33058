"""Whatever the sizes, owners and filters: a reader gets every event that matches, once, in order, and nothing else."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.events import CREATED, line

from synceventsd.core.deliveries import Delivery, deliveries, take
from synceventsd.core.filters import Filter
from synceventsd.core.model import Group
from synceventsd.core.positions import Position

EPOCH = "0123456789"
FAILED = "integration.sync.failed"
EVENTS = st.tuples(st.sampled_from([None, 1, 2]), st.sampled_from([CREATED, FAILED]), st.sampled_from([0, 300, 1200]))
FILTERS = st.builds(
    Filter, st.sampled_from([None, 1, 2, 3]), st.none(), st.none() | st.just(frozenset([FAILED])), st.none()
)
LARGE = (1, CREATED, 1200)
SMALL, OTHER = (1, CREATED, 0), (2, CREATED, 0)


def groups_of(events: list[list[tuple[int | None, str, int]]], *, indexed: bool) -> list[Group]:
    groups: list[Group] = []
    first = 1
    for some in events:
        lines = [line(first + i, kind, business=b, data={"x": "x" * size}) for i, (b, kind, size) in enumerate(some)]
        groups.append(Group(first, EPOCH, 0.0, lines))
        if indexed:  # as those that were committed just now are
            assert groups[-1].by_business
        first += len(lines)
    return groups


def seqs(found: Delivery) -> list[int]:
    return [group.first + index for group, indexes in found.runs for index in indexes]


@given(
    events=st.lists(st.lists(EVENTS, min_size=1, max_size=8), min_size=1, max_size=6),
    wanted=FILTERS,
    after=st.integers(0, 20),
    indexed=st.booleans(),
    passed=st.integers(1, 3),
)
@example(  # a stretch that fills a delivery by itself
    events=[[LARGE], [OTHER], [SMALL]], wanted=Filter(1), after=0, indexed=True, passed=3
)
def test_reading_on_gives_exactly_what_matches(
    events: list[list[tuple[int | None, str, int]]], wanted: Filter, after: int, indexed: bool, passed: int
) -> None:
    groups = groups_of(events, indexed=indexed)
    last = groups[-1].last
    after = min(after, last)
    matching = [
        group.first + index
        for group in groups
        for index in range(len(group.lines))
        if group.first + index > after and wanted.matches(group.head(index))
    ]
    with pytest.MonkeyPatch.context() as patch:
        for module in ("core.model", "core.deliveries"):
            patch.setattr(f"synceventsd.{module}.STRETCH_BYTES", 1000)
        patch.setattr("synceventsd.core.deliveries.MOST_PASSED", passed)
        position = after
        seen: list[int] = []
        while position < last:
            runs, upto = take([group for group in groups if group.last > position], wanted, position, last)
            found = seqs(Delivery(runs, None, Position(EPOCH, upto)))
            assert upto > position
            assert all(position < seq <= upto for seq in found)
            seen += found
            position = upto
        assert seen == matching
        told = deliveries([group for group in groups if group.last > after], wanted, after, last, position_of)
        assert [seq for delivery in told for seq in seqs(delivery)] == matching
        text = b"".join(delivery.sse for delivery in told)
        assert [int(part.split(b"\n")[0].rsplit(b"-", 1)[1]) for part in text.split(b"\n\n")[:-1]] == matching


def test_readers_of_other_businesses_leave_nothing_in_the_groups_they_pass() -> None:
    groups = groups_of([[(1, CREATED, 0), (2, CREATED, 0)] for _ in range(100)], indexed=True)

    def walk(businesses: range) -> None:
        for business in businesses:
            assert bool(deliveries(groups, Filter(business), 0, 200, position_of)) is (business < 3)

    walk(range(1, 4))
    tracemalloc.start()
    try:
        walk(range(1, 203))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000  # 200 readers in 100 groups: five bytes each


def position_of(seq: int) -> Position:
    return Position(EPOCH, seq)
