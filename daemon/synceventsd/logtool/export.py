"""`log export`: the events as they were accepted, a line each, for a file or a pipe.

Rule of this file: what is written is what was accepted, byte for byte, or it is not written and said so.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from attrs import define, field

from synceventsd.eventlog.onlooker import Onlooker
from synceventsd.eventlog.stretch import Block, beyond, bounds


@define(eq=False)
class Export:
    """One pass over a range of the log.

    Attributes:
        progress: called now and then with how many numbers were passed, and of how many.
        missing: called for each range that is not in the output, with the reason.
        written: how many events were written.
        incomplete: whether anything was missing.
    """

    onlooker: Onlooker
    progress: Callable[[int, int], object]
    missing: Callable[[int, int, str], object]
    written: int = field(default=0, init=False)
    incomplete: bool = field(default=False, init=False)
    _taken: int = field(default=0, init=False)

    def run(self, first: int | None, last: int | None, output: BinaryIO) -> None:
        """Write the events `first` to `last`; by default from the oldest to the newest that there is at the beginning.

        Raises:
            OSError: it cannot be written. And as `Onlooker.look`.
        """
        oldest, newest = self.onlooker.look(bounds)
        begin = oldest if first is None else first
        end = newest if last is None else min(last, newest)
        if last is not None and last > newest:
            self._miss(max(begin, newest + 1), last, f"not there yet: the newest event is {newest}")
        after, complete = begin - 1, False
        while after < end and not complete:
            stretch = self.onlooker.look(lambda db, start=after: beyond(db, start))  # type: ignore[misc]
            for block in stretch.blocks:
                after = self._take(block, after, end, stretch.deleted, output)
            complete = stretch.complete
            self.progress(min(after, end) - begin + 1, end - begin + 1)
        if after < end:
            self._miss(after + 1, end, "not in the log any more")
        output.flush()

    def _take(self, block: Block, after: int, end: int, deleted: int, output: BinaryIO) -> int:
        """Write what of the block follows event `after`; return the number that was reached."""
        if block.first > after + 1 and after < end:
            why = "deleted by retention" if deleted > after else "not in the log"
            self._miss(after + 1, min(block.first - 1, end), why)
            after = block.first - 1
        upto = min(block.last, end)
        if upto <= after:
            return max(after, block.last)
        # A checksum does not cover the number that a block begins with.
        fault = block.fault or ("its numbers were given out before" if block.first <= self._taken else None)
        self._taken = block.last
        if fault is not None:
            self._miss(after + 1, upto, f"damaged: {fault}")
        else:
            lines = block.lines[after + 1 - block.first : upto + 1 - block.first]
            output.write(b"\n".join(lines) + b"\n")
            self.written += len(lines)
        return block.last

    def _miss(self, first: int, last: int, why: str) -> None:
        if first <= last:
            self.incomplete = True
            self.missing(first, last, why)


@contextmanager
def file_at_once(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that appears under its name only when all is written and synced; else nothing is left behind.

    Only its owner may read it: events hold customers' data.

    Raises:
        OSError: it cannot be written.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
