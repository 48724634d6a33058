"""What was read of a connection and is not handed in yet.

Rule of this file: it is kept as text, and cut into lines a little at a time, because short lines take forty times as
much memory as their text. A publisher that is read no further for a while must not cost more than what it sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import define, field

from syncevents.wire import LineSplitter

SPLIT_BYTES: Final = 32 * 1024


@define(eq=False)
class Ahead:
    """Text, and the few lines that were cut off it. It holds at most one read, and one unfinished line."""

    _splitter: LineSplitter
    _text: memoryview = field(default=memoryview(b""), init=False)
    _lines: list[bytes] = field(factory=list, init=False)

    @property
    def too_large(self) -> bool:
        """Whether a line was met that is longer than `max_frame`; nothing after it is taken."""
        return self._splitter.too_large

    def feed(self, data: bytes) -> None:
        """Add what was read; only when `take` has said that nothing is left."""
        self._text = memoryview(data)

    def end(self, counts: Callable[[bytes], bool]) -> None:
        """Note the end of the input: what is left is a line without its newline, if it counts as one."""
        self._lines = [line for line in self._splitter.finish() if counts(line)]

    def take(self, most: int) -> list[bytes]:
        """Return the next lines, at most so many; none when nothing but a piece of a line is left."""
        while not self._lines and self._text:
            piece, self._text = bytes(self._text[:SPLIT_BYTES]), self._text[SPLIT_BYTES:]
            self._lines = self._splitter.feed(piece)
        lines, self._lines = self._lines[:most], self._lines[most:]
        return lines
