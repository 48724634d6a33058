"""Standard output, as a person or a program sees it.

Rule of this file: only here is decided whether colours are shown and whether lines can be written over.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from typing import Final

_UP: Final = "\x1b[{}A"
_CLEAR_LINE: Final = "\x1b[K"
_CLEAR_BELOW: Final = "\x1b[J"


def can_redraw() -> bool:
    """Return whether standard output is a terminal on which lines can be written over."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def shows_colours() -> bool:
    """Return whether standard output shows colours and nobody asked for none (https://no-color.org)."""
    return can_redraw() and not os.environ.get("NO_COLOR")


class Board:
    """Lines that stay, and below them a block that is written over, each time in one write: it does not flicker."""

    def __init__(self) -> None:
        self._height = 0

    def draw(self, lasting: Sequence[str], block: Sequence[str]) -> None:
        """Add lines that stay, and replace the block; what does not fit the terminal is left out."""
        size = shutil.get_terminal_size()
        room = max(1, size.lines - 1)
        shown = block if len(block) <= room else [*block[: room - 1], f"... and {len(block) - room + 1} lines more"]
        up = ("\r" + _UP.format(self._height)) if self._height else ""
        lines = "".join(f"{line}{_CLEAR_LINE}\n" for line in [*lasting, *shown])
        self._height = len(shown)
        sys.stdout.write(f"{up}{lines}{_CLEAR_BELOW}")
        sys.stdout.flush()
