"""A group and its row are the same, whatever was damaged: what a row gives was written by us, and whole.

Checksums are CRC-32 as zlib makes it, whichever library makes them: a log can be carried to another machine.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from synceventsd.core.model import GLOBAL
from synceventsd.eventlog import rows
from synceventsd.eventlog.lots import MAX_GROUP_EVENTS
from synceventsd.eventlog.rows import TEXT, head_of, lines_of, remains_of, row_of, sums_of

LINES = st.binary(max_size=40).filter(lambda line: b"\n" not in line)
EVENTS = st.lists(st.tuples(st.sampled_from([GLOBAL, 7, 8, 2**32 - 1]), LINES), min_size=1, max_size=20)
FIRSTS = st.integers(1, 2**62)
NAMES = rows.GROUP_COLUMNS.split(", ")


def made(events: list[tuple[int, bytes]], first: int) -> tuple[Any, ...]:
    return row_of(first, 1.5, 7, [owner for owner, _ in events], [line for _, line in events])


def head_in(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*row[:TEXT], *row[TEXT + 1 :])


@given(EVENTS, FIRSTS)
def test_a_row_gives_back_its_events_in_order(events: list[tuple[int, bytes]], first: int) -> None:
    row = made(events, first)
    assert lines_of(row) == remains_of(row) == [line for _, line in events]
    assert len(row[TEXT]) == sum(len(line) + 1 for _, line in events) - 1
    assert dict(zip(NAMES, row, strict=True))["count"] == len(events)


@given(EVENTS, FIRSTS, st.sampled_from([7, 8, 9, 2**32 - 1]))
def test_a_business_gets_its_events_and_the_global_ones_and_reads_no_others(
    events: list[tuple[int, bytes]], first: int, business: int
) -> None:
    row = made(events, first)
    read = 0

    def text(start: int, size: int) -> bytes:
        nonlocal read
        read += size
        return bytes(row[TEXT][start : start + size])

    head = head_of(head_in(row))
    assert head is not None
    part = head.part(business, text)
    assert part is not None
    assert dict(part.found) == {
        index: line for index, (owner, line) in enumerate(events) if owner in (GLOBAL, business)
    }
    assert len(part) == len(events)
    assert read <= sum(len(line) + 1 for line in part.found.values())


@given(EVENTS, FIRSTS, st.data())
def test_a_flipped_bit_is_noticed_and_costs_no_more_than_the_event_it_is_in(
    events: list[tuple[int, bytes]], first: int, data: st.DataObject
) -> None:
    row = list(made(events, first))
    column = data.draw(st.sampled_from([name for name in NAMES if name != "first"]))
    place = NAMES.index(column)
    if isinstance(row[place], bytes):
        broken = bytearray(row[place])
        if not broken:
            return
        bit = data.draw(st.integers(0, 8 * len(broken) - 1))
        broken[bit // 8] ^= 1 << bit % 8
        row[place] = bytes(broken)
    elif isinstance(row[place], float):
        row[place] = 2.5
    else:
        row[place] ^= 1 << data.draw(st.integers(0, 40))
    assert lines_of(row) is None
    if column != "lines":
        assert head_of(head_in(tuple(row))) is None
    kept = remains_of(row)
    assert len(kept) == len(events)
    lost = [index for index, line in enumerate(kept) if line is None]
    assert all(line in (None, events[index][1]) for index, line in enumerate(kept))
    # A flipped bit in the text may make or take a line end, and then it is in two.
    assert len(lost) <= {"lines": 2, "sums": 1}.get(column, 0)


@given(EVENTS, FIRSTS, st.sampled_from([7, 8]), st.data())
def test_a_business_never_gets_what_was_not_written(
    events: list[tuple[int, bytes]], first: int, business: int, data: st.DataObject
) -> None:
    row = made(events, first)
    if not row[TEXT]:
        return
    text = bytearray(row[TEXT])
    bit = data.draw(st.integers(0, 8 * len(text) - 1))
    text[bit // 8] ^= 1 << bit % 8
    head = head_of(head_in(row))
    assert head is not None
    part = head.part(business, lambda start, size: bytes(text[start : start + size]))
    assert part is None or all(line == events[index][1] for index, line in part.found.items())
    for cut in range(0, len(text), 7):  # pages of it are not there
        short = head.part(business, lambda start, size: row[TEXT][:cut][start : start + size])  # noqa: B023 (called here)
        assert short is None or all(line == events[index][1] for index, line in short.found.items())


VALUES = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.binary(max_size=20) | st.text(max_size=5)


@given(st.lists(VALUES, min_size=len(NAMES), max_size=len(NAMES)))
@example([1, 1, 1.0, 1, 1, b"\0", b"x", b"\0\0\0\0", b""])
def test_nothing_that_a_damaged_row_may_hold_raises(row: list[Any]) -> None:
    row[0] = 1  # the key, which SQLite keeps an integer
    assert lines_of(row) is None
    assert head_of(head_in(tuple(row))) is None
    assert not any(remains_of(row))


def test_no_damage_makes_a_group_larger_than_groups_are() -> None:
    row = list(made([(7, b"x")], 1))
    row[TEXT + 1] *= 10_000
    assert remains_of(row) == [b"x"] + [None] * (MAX_GROUP_EVENTS - 1)


def test_rows_of_older_programs_read_as_they_were_written() -> None:
    lines = [b"b", b"a", b"c"]
    whose = array("I", [8, 7, 8]).tobytes()
    text, sums = b"\n".join(lines), sums_of(5, lines)
    summed = zlib.crc32(text, zlib.crc32(whose + sums, zlib.crc32(struct.pack("<qqdq", 5, 3, 1.5, 7))))
    row = (5, 3, 1.5, 7, summed, whose, text, sums, None)
    assert lines_of(row) == remains_of(row) == lines
    assert head_of(head_in(row)) is None
    assert lines_of((5, 3, 1.5, 7, summed ^ 1, whose, text, sums, None)) is None
    oldest = (5, 3, 1.5, 7, zlib.crc32(text), whose, text, None, None)
    assert lines_of(oldest) == lines
    assert lines_of((*oldest[:1], 2, *oldest[2:])) is None


@given(st.lists(st.binary(max_size=40), min_size=1), FIRSTS)
def test_a_lines_sum_is_zlibs_of_the_line_and_its_number(lines: list[bytes], first: int) -> None:
    assert sums_of(first, lines) == b"".join(
        struct.pack("=I", zlib.crc32(line, number & 0xFFFFFFFF)) for number, line in enumerate(lines, first)
    )


@given(EVENTS, FIRSTS)
def test_a_rows_sum_is_zlibs_of_all_but_the_text(events: list[tuple[int, bytes]], first: int) -> None:
    row = made(events, first)
    whole = struct.pack("<qqdq", first, len(events), 1.5, 7) + row[TEXT - 1] + row[TEXT + 1] + row[TEXT + 2]
    assert row[TEXT - 2] == zlib.crc32(whole)


def test_the_fast_library_is_used_where_there_is_a_wheel_of_it() -> None:
    pytest.importorskip("isal")
    assert rows.crc32 is not zlib.crc32
