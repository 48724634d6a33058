"""SQLite's write-ahead log, as far as one must know it to tell damage: sqlite.org/fileformat2.html, section 4.

SQLite ends the WAL at the first frame whose checksum does not match, and says nothing. That is right for the torn end
that a loss of power leaves, but a flipped bit in the middle would cost every commit behind it. Each frame carries the
salts of its WAL, so that the commits behind such a frame can be seen.

Rule of this file: it only reads.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attrs import frozen

_HEADER: Final = struct.Struct(">8I")  # magic, version, page size, checkpoint, two salts, two sums
_FRAME: Final = struct.Struct(">6I")  # page, size of the database after a commit or 0, two salts, two sums
_MAGIC: Final = 0x377F0682 | (sys.byteorder == "big")  # the checksums go over words of this machine's order
PAGE: Final = 4096  # the log never has another page size
_SIZE: Final = _FRAME.size + PAGE
_MASK: Final = 0xFFFFFFFF


@frozen
class Frame:
    """One page as a commit wrote it; the page's text begins at `at` in the file."""

    page: int
    size_after: int
    salts: tuple[int, int]
    sums: tuple[int, int]
    at: int


def committed(path: Path) -> list[Frame]:
    """Return all frames up to the end of the newest commit, whether SQLite would read them or not."""
    return [] if not path.exists() else _committed(path.read_bytes())[1]


def hides_commits(path: Path) -> bool:
    """Return whether something is broken before the end of the newest commit, so that SQLite would not read that."""
    text = path.read_bytes() if path.exists() else b""
    header_sound, frames = _committed(text)
    if not frames:
        return False
    if not header_sound:
        return True
    salts, sums = frames[-1].salts, _HEADER.unpack_from(text)[6:]
    for frame in frames:
        sums = _sum_up(sums, text[frame.at - _FRAME.size :][:8])
        sums = _sum_up(sums, text[frame.at : frame.at + PAGE])
        if frame.sums != sums or frame.salts != salts:
            return True
    return False


def _committed(text: bytes) -> tuple[bool, list[Frame]]:
    """Return whether the header is sound, and the frames."""
    frames = []
    for start in range(_HEADER.size, len(text) - _SIZE + 1, _SIZE):
        page, size_after, *rest = _FRAME.unpack_from(text, start)
        frames.append(Frame(page, size_after, (rest[0], rest[1]), (rest[2], rest[3]), start + _FRAME.size))
    if not frames:
        return True, []
    magic, _, _, _, *salts, first, second = _HEADER.unpack_from(text)
    sound = magic == _MAGIC and _sum_up((0, 0), text[:24]) == (first, second)
    # The frames of an earlier WAL may follow, or be all there is; they are in the database already.
    wanted = (salts[0], salts[1]) if sound else frames[0].salts
    ends = [number for number, frame in enumerate(frames) if frame.size_after and _alike(frame.salts, wanted)]
    return sound, frames[: ends[-1] + 1] if ends else []


def _alike(salts: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Return whether a frame belongs to the WAL with these salts, one flipped bit granted."""
    return salts[0] == wanted[0] or salts[1] == wanted[1]


def _sum_up(sums: Sequence[int], text: bytes) -> tuple[int, int]:
    low, high = sums
    words = memoryview(text).cast("I")
    for even, odd in zip(words[::2], words[1::2], strict=True):
        low = (low + even + high) & _MASK
        high = (high + odd + low) & _MASK
    return low, high
