"""`/status` in a word: stuck is said when events wait for a Redis that does not answer, and only then."""

from __future__ import annotations

from typing import Any

import pytest

from synceventsd.core.health import Health, duration, judge, lines, size


def answer(state: str = "connected", count: int = 0, age: float | None = None, **more: Any) -> dict[str, Any]:
    redis = {"state": state, "reason": None, "error": None} | more.pop("redis", {})
    waiting = {"count": count, "bytes": 0, "oldest_age_seconds": age}
    return {"ready": True, "not_ready_reason": None, "redis": redis, "waiting": waiting} | more


REFUSED = {"reason": "refused", "error": "Redis at redis://h refuses the connection; start it"}


@pytest.mark.parametrize(
    ("status", "health", "words"),
    [
        (answer(), Health.OK, "sent on to Redis"),
        (answer("off", 0), Health.OK, "off"),
        (answer(count=5, age=0.2), Health.OK, "sent on"),
        (answer(count=5, age=90.0), Health.OK, "catching up: 5"),
        (answer("unavailable", 0, redis=REFUSED), Health.OK, "nothing waits, but Redis is unavailable (refused)"),
        (answer("unavailable", 7, 42.0, redis=REFUSED), Health.STUCK, "7 wait for Redis, the oldest for 42 s"),
        (answer("hung", 7, 0.3), Health.OK, "hung"),
        (answer("hung", 7, 1.5), Health.STUCK, "hung"),
        (answer("connecting", 7, None), Health.STUCK, "7 wait"),
        (answer(ready=False, not_ready_reason="the buffer is full"), Health.NOT_READY, "the buffer is full"),
        ({}, Health.NOT_READY, "does not say why"),
    ],
)
def test_the_judgement_says_where_and_why(status: dict[str, Any], health: Health, words: str) -> None:
    judgement = judge(status)
    assert judgement.health is health
    assert words in judgement.text
    told = lines(status)
    assert len(told) == 10
    assert told[0] == f"{health.value}: {judgement.text}"


def test_the_reason_and_the_remedy_of_redis_are_repeated() -> None:
    assert judge(answer("unavailable", 7, 42.0, redis=REFUSED)).text.endswith(
        "Redis is unavailable (refused): Redis at redis://h refuses the connection; start it"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (90_000, "1 d 1 h")]
)
def test_durations_are_said_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (4 * 2**30, "4.0 GiB"), (2**52, "4096.0 TiB")]
)
def test_sizes_are_said_in_the_largest_unit(count: int, text: str) -> None:
    assert size(count) == text
