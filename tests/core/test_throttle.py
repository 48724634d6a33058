"""A user's lines come no faster than the rate, and none is ever refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from synceventsd.core.throttle import BURST, begin, lines_at_once


@given(rate=st.integers(1, 10**6), takes=st.lists(st.tuples(st.floats(0, 5), st.integers(1, 1000)), max_size=40))
def test_who_waits_as_told_never_gets_more_than_the_rate_and_a_burst(rate: int, takes: list[tuple[float, int]]) -> None:
    start = now = 100.0
    account, taken = begin(rate, now), 0
    for idle, lines in takes:
        now += idle
        now += account.pause(now)
        assert taken <= (now - start + BURST) * rate * (1 + 1e-9) + 1e-6
        account = account.take(lines, now)
        taken += lines
    now += account.pause(now)
    assert taken <= (now - start + BURST) * rate * (1 + 1e-9) + 1e-6


def test_a_second_s_worth_is_taken_at_once_after_a_quiet_time_and_then_there_is_a_pause() -> None:
    account = begin(128, 64.0).take(128, 64.0)
    assert account.pause(64.0) == 0
    assert account.take(16, 64.0).pause(64.0) == 0.125


def test_a_pause_is_news_once_until_the_user_was_quiet() -> None:
    account = begin(10, 0.0).take(10, 0.0)
    assert not account.slowed
    account = account.take(5, 0.0)
    assert account.slowed
    account = account.take(1, 0.7)  # paid, yet not quiet
    assert account.slowed
    account = account.take(1, 60.0)
    assert not account.slowed


def test_little_is_taken_at_once_where_the_rate_is_small() -> None:
    assert [lines_at_once(rate, 250) for rate in (1, 100, 10**6)] == [1, 10, 250]
