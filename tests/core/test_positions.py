"""Positions survive a log being set back: nothing new is ever taken for seen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from synceventsd.core.positions import Epoch, Epochs, GapReason, Position, parse_position, resume

EPOCHS = Epochs((Epoch("aaaaaaaaaa", 1), Epoch("bbbbbbbbbb", 11), Epoch("cccccccccc", 11), Epoch("dddddddddd", 21)))


def test_a_position_is_named_by_the_epoch_that_accepted_the_event() -> None:
    assert EPOCHS.at(10) == Position("aaaaaaaaaa", 10)
    assert EPOCHS.at(11) == Position("cccccccccc", 11)
    assert EPOCHS.at(25) == Position("dddddddddd", 25)
    assert EPOCHS.at(0) == Position("aaaaaaaaaa", 0)


def test_a_cursor_counts_up_to_the_end_of_its_epoch_in_this_log() -> None:
    assert EPOCHS.out(Position("aaaaaaaaaa", 7), last=30, own_mark=0) == 7
    assert EPOCHS.out(Position("aaaaaaaaaa", 99), last=30, own_mark=0) == 10
    assert EPOCHS.out(Position("dddddddddd", 99), last=30, own_mark=0) == 30
    assert EPOCHS.out(Position("eeeeeeeeee", 99), last=30, own_mark=4) == 4
    assert EPOCHS.out(None, last=30, own_mark=4) == 4


def test_a_reader_goes_on_right_after_its_position_or_is_told_of_the_gap() -> None:
    def at(text: str, oldest: int = 1) -> tuple[int, GapReason | None]:
        found = resume(text, EPOCHS, oldest, 30)
        return found.after, found.gap

    assert at("aaaaaaaaaa-7") == (7, None)
    assert at("aaaaaaaaaa-0") == (0, None)
    assert at("aaaaaaaaaa-7", oldest=8) == (7, None)
    assert at("aaaaaaaaaa-7", oldest=9) == (8, GapReason.EXPIRED)
    assert at("aaaaaaaaaa-12") == (10, GapReason.SET_BACK)
    assert at("dddddddddd-31") == (30, GapReason.SET_BACK)
    assert at("eeeeeeeeee-3") == (0, GapReason.OTHER_LOG)
    assert at("eeeeeeeeee-3", oldest=5) == (4, GapReason.OTHER_LOG)


@given(st.text(max_size=40))
def test_an_id_that_is_not_ours_is_a_first_visit_and_never_an_error(text: str) -> None:
    found = resume(text, EPOCHS, 1, 30)
    assert found.first_visit == (parse_position(text) is None)


@given(st.integers(0, 10**15))
def test_a_position_reads_back_as_it_was_written(seq: int) -> None:
    position = Position("0123456789", seq)
    assert parse_position(str(position)) == position


@given(
    lengths=st.lists(st.integers(0, 20), min_size=2, max_size=6),
    kept=st.data(),
    ahead=st.integers(0, 60),
)
def test_after_a_set_back_no_new_event_is_taken_for_sent(lengths: list[int], kept: st.DataObject, ahead: int) -> None:
    """A log of several runs is set back to any point; then a new run appends, while Redis holds an older cursor."""
    firsts = [1 + sum(lengths[:index]) for index in range(len(lengths))]
    runs = [Epoch(f"{index:010x}", first) for index, first in enumerate(firsts)]
    end = sum(lengths)
    point = kept.draw(st.integers(0, end))
    survivors = [run for run in runs if run.first <= point + 1]
    cursor_run = kept.draw(st.sampled_from(runs))
    cursor = Position(cursor_run.name, min(cursor_run.first - 1 + ahead, end))
    restored = Epochs((*survivors, Epoch("ffffffffff", point + 1)))
    out = restored.out(cursor, last=point + 30, own_mark=kept.draw(st.integers(0, point)))
    assert out <= point


@given(
    steps=st.lists(st.tuples(st.sampled_from(["accept", "send", "again", "restart"]), st.integers(1, 30)), max_size=40)
)
def test_what_is_to_be_sent_again_stays_so_until_it_was_and_nothing_else_is(steps: list[tuple[str, int]]) -> None:
    """The model: how often each event is still owed, against what the cursor and the epochs say is out."""
    epochs, last, named = [Epoch(f"{0:010x}", 1)], 0, 1
    cursor = Position(epochs[0].name, 0)
    out = 0  # the model's
    for step, count in steps:
        log = Epochs(tuple(epochs))
        assert log.out(cursor, last, own_mark=0) == out
        assert log.still_out(cursor) == out
        assert log.of_this_run(log.current.name)
        if step == "accept":
            last += count
        elif step == "send":
            out = min(last, out + count)
            cursor = Position(log.current.name, out)
        else:
            after = None if step == "restart" else min(count, last) - 1
            if after is not None and after < 0:
                continue
            epochs.append(Epoch(f"{named:010x}", last + 1, after))
            named += 1
            out = out if after is None else min(out, after)
    begun = max(number for number, epoch in enumerate(epochs) if epoch.again_after is None)
    run = [epoch.name for epoch in epochs if Epochs(tuple(epochs)).of_this_run(epoch.name)]
    assert run == [epoch.name for epoch in epochs[begun:]]
