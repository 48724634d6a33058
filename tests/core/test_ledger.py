"""The ledger: it grows little, and no count is ever lost."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from synceventsd.core import ledger
from synceventsd.core.ledger import MAX_ENTRIES, PAUSE, Book, Changes, Entry, Incident


def saved(rows: dict[int, Entry], changes: Changes) -> None:
    """What the store does."""
    for key in changes.gone:
        rows.pop(key, None)
    rows.update({entry.id: entry for entry in changes.entries})


def test_what_goes_on_is_one_entry_that_grows() -> None:
    book = Book()
    assert book.note(Incident("invalid_json", 3, 7, detail="one"), 100.0)
    assert not book.note(Incident("invalid_json", 2, 7, detail="two"), 100.0 + PAUSE)
    (entry,) = book.newest(10)
    assert (entry.count, entry.at, entry.until, entry.detail) == (5, 100.0, 100.0 + PAUSE, "two")


def test_another_user_another_reason_and_a_pause_begin_another_entry() -> None:
    book = Book()
    assert book.note(Incident("invalid_json", 1, 7), 0.0)
    assert book.note(Incident("invalid_json", 1, 8), 0.0)
    assert book.note(Incident("forbidden", 1, 7), 0.0)
    assert book.note(Incident("invalid_json", 1, 7), PAUSE + 1)
    assert len(book.newest(10)) == 4


def test_ranges_that_touch_are_one_and_others_are_not() -> None:
    book = Book()
    book.note(Incident("sent_again", 10, first=1, last=10), 0.0)
    book.note(Incident("sent_again", 10, first=11, last=20), 0.0)
    book.note(Incident("sent_again", 1, first=30, last=30), 0.0)
    assert sorted((entry.first, entry.last, entry.count) for entry in book.entries) == [(1, 20, 20), (30, 30, 1)]


def test_the_same_range_is_written_once_where_the_work_may_be_done_again() -> None:
    book = Book()
    hole = Incident("damaged", 3, first=4, last=6, once=True)
    assert book.note(hole, 0.0)
    assert not book.note(hole, 9999.0)
    assert book.totals == {"damaged": 3}


def test_saving_an_entry_twice_changes_nothing() -> None:
    book, rows = Book(), {}
    book.note(Incident("invalid_json", 3, 7), 0.0)
    first = book.take()
    saved(rows, first)
    saved(rows, first)
    assert rows[1].count == 3
    book.saved(first)
    assert not book.unsaved


def test_what_could_not_be_saved_or_grew_meanwhile_is_saved_the_next_time() -> None:
    book, rows = Book(), {}
    book.note(Incident("invalid_json", 3, 7), 0.0)
    book.take()  # and the write failed
    second = book.take()
    book.note(Incident("invalid_json", 1, 7), 1.0)
    saved(rows, second)
    book.saved(second)
    assert (rows[1].count, book.unsaved) == (3, True)
    saved(rows, book.take())
    assert rows[1].count == 4


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["invalid_json", "forbidden", "damaged", "sent_again"]),
            st.integers(1, 5),
            st.none() | st.integers(0, 40),
            st.floats(0, 2000),
            st.booleans(),
        ),
        max_size=120,
    ),
    st.integers(10, 20),
)
def test_counts_by_reason_outlive_every_merging_and_every_restart(
    incidents: list[tuple[str, int, int | None, float, bool]], most: int
) -> None:
    rows: dict[int, Entry] = {}
    book, now, expected = Book(), 0.0, Counter[str]()
    before, ledger.MAX_ENTRIES = ledger.MAX_ENTRIES, most
    try:
        for reason, count, uid, pause, restart in incidents:
            now += pause
            book.note(Incident(reason, count, uid), now)
            expected[reason] += count
            assert len(book.entries) <= most
            if restart:
                saved(rows, book.take())
                book = Book()
                book.load(rows[key] for key in sorted(rows))
    finally:
        ledger.MAX_ENTRIES = before
    saved(rows, book.take())
    assert sum((Counter({entry.reason: entry.count}) for entry in rows.values()), Counter()) == expected
    assert book.totals == expected
    assert rows == {entry.id: entry for entry in book.entries}


def test_a_flood_of_entries_stays_bounded() -> None:
    book = Book()
    for uid in range(5 * MAX_ENTRIES):
        book.note(Incident("forbidden", 1, uid), float(uid))
    assert len(book.entries) <= MAX_ENTRIES
    assert book.totals == {"forbidden": 5 * MAX_ENTRIES}
