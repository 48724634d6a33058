"""The oracle sees what it is there to see: each kind of harm, done to a flawless run, is a flaw."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.faults.oracle import UNKNOWN, Told, compare, envelope, event, expected_counts, kind_of, name_of, status_flaws

LAST = 120
STORED = [number for number in range(LAST) if kind_of(number) != UNKNOWN]
TOLD = {7: Told(STORED, set(range(LAST)) - set(STORED), LAST)}
CHANNEL = [event(7, number) for number in STORED]
SEEN = [(name_of(7, number), seq) for seq, number in enumerate(STORED, 1)]


def test_a_flawless_run_has_no_flaw() -> None:
    verdict = compare(TOLD, CHANNEL, SEEN)
    assert (verdict.flaws, verdict.events, verdict.rejects, verdict.lost, verdict.doubled) == ([], 118, 2, 0, 0)


@pytest.mark.parametrize(
    ("harm", "flaw"),
    [
        (lambda heard: heard.pop(5), "missing"),
        (lambda heard: heard.insert(9, heard[8]), "went out again"),
        (lambda heard: heard.append(heard.pop(5)), "out of order"),
        (lambda heard: heard.append(event(7, 49)), "were rejected"),
        (lambda heard: heard.append(event(8, 0)), "never published"),
        (lambda heard: heard.__setitem__(5, envelope(7, 5) + b" "), "other bytes"),
    ],
)
def test_each_harm_to_the_channel_is_a_flaw(harm: Callable[[list[bytes]], object], flaw: str) -> None:
    heard = list(CHANNEL)
    harm(heard)
    assert flaw in " ".join(compare(TOLD, heard, SEEN).flaws)
    assert flaw in " ".join(compare(TOLD, heard).flaws)


def test_repeats_are_counted_and_may_be_allowed_but_a_jump_may_not() -> None:
    verdict = compare(TOLD, [*CHANNEL[:50], *CHANNEL[30:]], SEEN, repeats=20)
    assert (verdict.flaws, verdict.doubled) == ([], 20)
    jumped = [*CHANNEL[:50], *CHANNEL[30:40], *CHANNEL[45:]]
    assert "skipped" in " ".join(compare(TOLD, jumped, SEEN, repeats=20).flaws)


@pytest.mark.parametrize("seen", [SEEN[1:], SEEN[:-1], [*SEEN[:3], SEEN[4], SEEN[3], *SEEN[5:]], [*SEEN, SEEN[-1]]])
def test_a_reader_that_saw_something_else_is_a_flaw(seen: list[tuple[str, int]]) -> None:
    assert any("reader" in flaw for flaw in compare(TOLD, CHANNEL, seen).flaws)


def test_a_reject_that_was_not_told_is_a_flaw() -> None:
    told = {7: Told([*STORED, 49], TOLD[7].refused - {49}, LAST)}
    assert "wrong rejects" in " ".join(compare(told, CHANNEL, SEEN).flaws)


def test_a_sync_status_that_counts_otherwise_is_a_flaw() -> None:
    names = [name for name, _ in SEEN]
    state = expected_counts(7, names)
    assert state["total_orders"] == len(STORED) - 1
    assert status_flaws(7, names, {"sync_state": state}) == []
    assert status_flaws(7, names, {"sync_state": state | {"updated_orders": 3}}) != []
    assert status_flaws(7, names, {"sync_state": None}) != []
