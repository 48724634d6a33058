"""The cursor: what is out never goes out again, what is not is never skipped, a foreign cursor is not believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synceventsd.core.batches import cut
from synceventsd.core.cursor import Answer, Batch, Send, Verdict, decide, repeated, resolve
from synceventsd.core.model import Group
from synceventsd.core.positions import Epoch, Epochs

OURS, OLDER, OTHER = "aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc"
EPOCHS = Epochs((Epoch(OLDER, 1), Epoch(OURS, 101)))


def batch(first: int, count: int, known: int) -> Batch:
    return Batch(OURS, known, first, [b"{}"] * count)


@given(cursor=st.integers(0, 60), first=st.integers(1, 60), count=st.integers(0, 60), known=st.integers(0, 200))
def test_exactly_what_follows_the_cursor_is_sent_or_the_batch_is_refused(
    cursor: int, first: int, count: int, known: int
) -> None:
    decision = decide(f"{OURS}-{cursor}".encode(), batch(first, count, known))
    match decision:
        case Send(skip):
            assert first + skip == cursor + 1
            assert 0 <= skip < count
        case Answer(Verdict.DONE, seq):
            assert seq == cursor
            assert first - 1 <= cursor
            assert first + count - 1 <= cursor
        case Answer(Verdict.BEHIND, seq):
            assert seq == cursor < first - 1
        case Answer(verdict, seq):
            assert verdict is Verdict.AHEAD
            assert seq == cursor > known


@pytest.mark.parametrize(
    "raw",
    [None, b"", b"7", b"aaaaaaaaaa", b"aaaaaaaaaa-", b"aaaaaaaaaa-07", b"\xff", b"cccccccccc-3"],
)
def test_anything_but_a_position_of_the_running_epoch_lets_nothing_through(raw: bytes | None) -> None:
    assert decide(raw, batch(1, 3, 100)) == Answer(Verdict.MOVED, 0)


@pytest.mark.parametrize(
    ("raw", "out"),
    [
        (f"{OLDER}-90", 90),
        (f"{OLDER}-150", 100),  # the older epoch ended there in this log: numbers above were given out again
        (f"{OURS}-120", 120),
        (f"{OURS}-160", 130),  # never sent by this process: the log's own mark
        (f"{OTHER}-999", 130),
        ("rubbish", 130),
        (None, 130),
    ],
)
def test_on_connecting_no_number_that_may_mean_another_event_counts_as_out(raw: str | None, out: int) -> None:
    found = resolve(None if raw is None else raw.encode(), EPOCHS, last=200, own_mark=130, known=150)
    assert found == out


def groups(*sizes: int, first: int = 1) -> list[Group]:
    made = []
    for size in sizes:
        made.append(Group(first, OURS, 0.0, [b"%d" % number for number in range(first, first + size)]))
        first += size
    return made


@given(
    sizes=st.lists(st.integers(1, 8), max_size=8),
    after=st.integers(0, 70),
    max_events=st.integers(1, 20),
    max_bytes=st.integers(1, 40),
)
def test_a_batch_is_the_next_events_without_a_gap_as_many_as_fit(
    sizes: list[int], after: int, max_events: int, max_bytes: int
) -> None:
    lines = cut(groups(*sizes), after, max_events, max_bytes)
    last = sum(sizes)
    assert lines == [b"%d" % number for number in range(after + 1, after + 1 + len(lines))]
    assert bool(lines) == (after < last)
    assert len(lines) <= max_events
    assert len(lines) == 1 or sum(map(len, lines)) <= max_bytes
    if after + len(lines) < last and len(lines) < max_events:
        assert sum(map(len, lines)) + len(b"%d" % (after + len(lines) + 1)) > max_bytes


def test_nothing_is_cut_across_a_gap() -> None:
    torn = [*groups(3), *groups(3, first=7)]
    assert cut(torn, 1) == [b"2", b"3"]
    assert cut(torn, 3) == []
    assert cut(torn, 6) == [b"7", b"8", b"9"]


@pytest.mark.parametrize(
    ("raw", "again"),
    [
        (f"{OURS}-150", 0),  # it says how far Redis is: what it does not count was not done
        (f"{OURS}-160", 0),
        (f"{OURS}-140", 20),  # set back: all from there on, what is in doubt included
        (f"{OLDER}-90", 70),
        (None, 10),  # lost: from the log's mark on, what was handed over since is in doubt
        ("garbage", 10),
        (f"{OTHER}-155", 10),
    ],
)
def test_what_may_go_out_again_is_counted_never_too_low(raw: str | None, again: int) -> None:
    text = None if raw is None else raw.encode()
    assert repeated(text, EPOCHS, last=200, own_mark=150, known=160) == again
