"""Checksums are CRC-32 as zlib makes it, whichever library makes them: a log can be carried to another machine."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synceventsd.eventlog import checksums


@given(st.lists(st.binary(max_size=40), min_size=1), st.integers(1, 2**62))
def test_a_lines_sum_is_zlibs_of_the_line_and_its_number(lines: list[bytes], first: int) -> None:
    sums = checksums.sums_of(first, lines)
    assert sums == b"".join(
        struct.pack("=I", zlib.crc32(line, number & 0xFFFFFFFF)) for number, line in enumerate(lines, first)
    )
    assert checksums.matching_lines(first, sums, b"\n".join(lines)) == lines or any(b"\n" in line for line in lines)


@given(st.integers(1, 2**62), st.integers(1, 1024), st.floats(0, 2**40), st.binary(), st.binary())
def test_a_rows_sum_is_zlibs_of_all_of_it(first: int, count: int, at: float, packed: bytes, text: bytes) -> None:
    whole = struct.pack("<qqdq", first, count, at, 7) + packed + text
    assert checksums.of_row(first, count, at, 7, packed, text) == zlib.crc32(whole)


def test_the_fast_library_is_used_where_there_is_a_wheel_of_it() -> None:
    pytest.importorskip("isal")
    assert checksums.crc32 is not zlib.crc32
