"""What /status can say of Redis: the present reason, at once also while a call hangs, and what went wrong last."""

from __future__ import annotations

from synceventsd.core.errors import RedisUnavailable
from synceventsd.forwarder_state import SILENT_AFTER, ForwarderState, RedisState


def down(state: ForwarderState, reason: str, at: float = 0.0) -> bool:
    return state.failed(RedisUnavailable(reason, f"Redis is {reason}"), at)


def test_before_the_first_answer_it_is_connecting() -> None:
    view = ForwarderState().describe(now=5.0)
    assert (view.state, view.reason, view.error, view.since) == (RedisState.CONNECTING, None, None, None)


def test_an_outage_has_one_beginning_and_counts_its_tries() -> None:
    state = ForwarderState()
    state.works(at=10.0)
    for at in (20.0, 21.0, 22.0):
        down(state, "refused", at)
    view = state.describe(now=0.0)
    assert (view.state, view.reason, view.error) == (RedisState.UNAVAILABLE, "refused", "Redis is refused")
    assert (view.since, view.failures, view.last_error_at) == (20.0, 3, 22.0)


def test_each_reason_is_news_once_an_outage() -> None:
    state = ForwarderState()
    assert [down(state, reason) for reason in ("refused", "refused", "loading", "refused", "loading")] == [
        True,
        False,
        True,
        False,
        False,
    ]
    state.works(at=1.0)
    assert down(state, "refused", at=60.0)


def test_a_reason_that_comes_and_goes_is_told_now_and_then_and_so_is_its_end() -> None:
    state = ForwarderState()
    told = []
    for tenth in range(300):  # for half a minute, five times a second
        told += ["lost"] * down(state, "cursor", at=tenth / 10)
        if tenth % 2:
            told += ["recovered"] * (state.works(at=tenth / 10) is not None)
    assert told == ["lost", "recovered"] * 3


def test_an_outage_soon_after_another_one_is_told_when_it_lasts() -> None:
    state = ForwarderState()
    assert down(state, "refused", at=100.0)
    state.works(at=101.0)
    assert [down(state, "refused", at) for at in (102.0, 109.0, 110.5, 120.0, 200.0)] == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert state.works(at=201.0) == 5


def test_recovery_tells_how_many_tries_failed_and_only_once() -> None:
    state = ForwarderState()
    down(state, "oom")
    down(state, "oom")
    assert [state.works(at=3.0), state.works(at=4.0)] == [2, None]
    view = state.describe(now=0.0)
    assert (view.state, view.reason, view.error, view.since) == (RedisState.CONNECTED, None, None, 3.0)
    assert view.last_error == "Redis is oom"


def test_a_call_that_is_out_for_long_is_told_as_hung_until_it_is_answered() -> None:
    state = ForwarderState()
    state.works(at=1.0)
    state.asking(now=100.0)
    assert state.describe(now=100.0 + SILENT_AFTER / 2).state is RedisState.CONNECTED
    view = state.describe(now=101.5)
    assert (view.state, view.reason, view.error) == (RedisState.HUNG, "timeout", "Redis has not answered for 1.5 s")
    state.answered()
    assert state.describe(now=102.0).state is RedisState.CONNECTED
    state.asking(now=103.0)
    down(state, "timeout")
    assert state.describe(now=105.0).state is RedisState.UNAVAILABLE


def test_what_went_out_and_what_went_out_again_is_counted() -> None:
    state = ForwarderState()
    state.went_out(10, at=1.0)
    state.rewound(4)
    state.went_out(4, at=2.0)
    view = state.describe(now=0.0)
    assert (view.sent, view.resent, view.rewinds, view.last_sent_at) == (14, 4, 1, 2.0)
