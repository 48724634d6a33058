"""What the demo prints: lines that stay, and on a terminal one line below them that is written anew.

Rule of this file: the only one that knows whether a person watches.
"""

import shutil
import sys
import time
from typing import Final

import click

from syncevents.terminal import can_redraw, shows_colours

_COLOURS: Final = {"redis": "red", "sse": "green", "status": "cyan"}
_REFRESH: Final = 0.1  # seconds; often enough to look alive
_REPORT_EVERY: Final = 5.0  # seconds between two progress lines where nobody watches


class Screen:
    """Standard output."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._live = can_redraw()
        self._colours = shows_colours()
        self._progress = ""
        self._drawn = False
        self._written_at = time.monotonic()

    @property
    def sample_every(self) -> float:
        """Seconds between two orders that are shown: what one can follow, or what a log file bears."""
        return 2.0 if self.is_terminal else _REPORT_EVERY

    def line(self, text: str = "") -> None:
        """Write a line that stays."""
        self._write(f"{text}\n")

    def heading(self, text: str) -> None:
        """Write a line that stands out."""
        self.line(click.style(text, bold=True) if self._colours else text)

    def view(self, source: str, text: str) -> None:
        """Write what one of the watchers saw."""
        name = f"{source:<6}"
        self.line(f"{click.style(name, fg=_COLOURS[source], bold=True) if self._colours else name} | {text}")

    def error(self, text: str) -> None:
        """Write a line to standard error."""
        shown, self._progress = self._progress, ""
        self._write("")
        click.echo(text, err=True)
        self._progress = shown

    def progress(self, text: str) -> None:
        """Say how far it is: in place on a terminal, else as a line now and then."""
        now = time.monotonic()
        if now - self._written_at < (_REFRESH if self._live else _REPORT_EVERY):
            return
        self._written_at = now
        if self._live:
            self._progress = text
            self._write("")
        else:
            self.line(text)

    def end_progress(self) -> None:
        """Take the line below away."""
        self._progress = ""
        self._write("")

    def _write(self, text: str) -> None:
        """Write lines, and the progress below them where it is shown."""
        clear = "\r\x1b[K" if self._drawn else ""
        self._drawn = bool(self._progress)
        below = self._progress[: shutil.get_terminal_size().columns - 1] if self._drawn else ""
        sys.stdout.write(f"{clear}{text}{below}")
        sys.stdout.flush()
