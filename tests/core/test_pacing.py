"""Pacing: a backlog shrinks no faster than asked, never stops shrinking, and new events do not slow it down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synceventsd.core.pacing import BURST, STEP, begin

RATES = st.integers(1, 10**6)
STEPS = st.lists(st.tuples(st.floats(0.0, 0.5), st.integers(0, 2000)), max_size=60)


@given(rate=RATES, backlog=st.integers(0, 10**6), steps=STEPS)
def test_the_backlog_shrinks_by_at_most_the_rate_and_one_burst(
    rate: int, backlog: int, steps: list[tuple[float, int]]
) -> None:
    now, last, sent = 0.0, backlog, 0
    pace = begin(rate, now, last)
    for seconds, accepted in steps:
        now, last = now + seconds, last + accepted
        pace = pace.advance(now, last)
        if last > sent:
            count = pace.grant(last - sent).count
            pace, sent = pace.spend(count), sent + count
        assert sent - (last - backlog) <= max(1.0, rate * BURST) + rate * now + 1e-6 * rate


@given(rate=RATES, backlog=st.integers(1, 3000))
def test_waiting_as_long_as_told_always_grants_something(rate: int, backlog: int) -> None:
    now, waiting = 0.0, backlog
    pace = begin(rate, now, backlog)
    for _ in range(200):
        if waiting == 0:
            break
        granted = pace.grant(waiting)
        if granted.count == 0:
            assert granted.pause > 0
            now += granted.pause + 1e-6
            pace = pace.advance(now, backlog)
            granted = pace.grant(waiting)
        assert 1 <= granted.count <= waiting
        pace, waiting = pace.spend(granted.count), waiting - granted.count


@pytest.mark.parametrize(("rate", "longest"), [(10**6, STEP), (10_000, STEP), (50, STEP), (10, 0.1), (1, 1.0)])
def test_pauses_are_short_and_a_low_rate_sends_one_at_a_time(rate: int, longest: float) -> None:
    pace = begin(rate, 0.0, 10**7)
    pace = pace.spend(pace.grant(10**7).count)
    granted = pace.grant(10**7)
    assert granted.count == 0
    assert granted.pause <= longest + 1e-9


def test_a_handful_goes_out_at_once() -> None:
    assert begin(10_000, 5.0, 1000).grant(1000).count == 1000
    assert begin(10_000, 5.0, 5000).grant(5000).count == 1000
    assert begin(1, 5.0, 1).grant(1).count == 1


def test_idle_time_piles_up_no_more_than_a_burst() -> None:
    pace = begin(1000, 0.0, 50_000)
    assert pace.advance(3600.0, 50_000).grant(50_000).count == 100


def test_events_accepted_meanwhile_are_granted_on_top_whatever_the_rate() -> None:
    pace = begin(10, 0.0, 10_000).spend(1).advance(0.0, 10_500)
    assert pace.grant(10_499).count == 500


def test_a_clock_that_stands_still_or_goes_back_takes_nothing_away() -> None:
    pace = begin(1000, 10.0, 500)
    assert pace.advance(9.0, 500) == pace
