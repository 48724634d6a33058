"""The commands of the program `syncevents`.

Rule of this file: commands whose extra is not `[cli]` are imported when they are called, and say which one they need.
"""

import sys
from bisect import bisect
from collections.abc import Iterator
from typing import BinaryIO, Final

import click

from syncevents._version import __version__
from syncevents.errors import Rejected
from syncevents.publisher import Publisher
from syncevents.wire import Reject

_MAX_LINE: Final = 16 << 20  # bytes; longer lines are not even read: no sensible `ingest.max_frame` takes them
_MAX_PENDING: Final = 1000  # so that long lines, too, fit into memory
_PROGRESS_EVERY: Final = 10000  # events


@click.group()
@click.version_option(__version__)
def program() -> None:
    """Publish order-sync events to synceventsd, the daemon on this machine."""


@program.command()
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--socket", "socket_path", metavar="PATH", help="The daemon's socket. Default: $SYNCEVENTS_SOCKET.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=10,
    show_default=True,
    help="Give up when nothing was acknowledged for so many seconds.",
)
def publish(file: BinaryIO, socket_path: str | None, timeout: float) -> None:
    """Send the envelopes in FILE (JSON lines; - is the standard input) and wait until they are stored.

    Exit status 1 when one was rejected, each told on standard error, or when the daemon did not acknowledge in time.
    """
    run = _Run()
    try:
        publisher = Publisher(socket_path, client=f"syncevents-publish/{__version__}", max_pending=_MAX_PENDING,
                              on_reject=run.tell_reject)
    except ValueError as error:
        raise click.UsageError(f"--socket: {error}") from None
    try:
        run.send(file, publisher, timeout)
    except TimeoutError as error:
        raise click.ClickException(f"{error}; what is not acknowledged may be stored or not") from None
    sys.exit(1 if run.rejected else 0)


class _Run:
    """One pass over the input: which publish call was which line of it, and what was rejected."""

    def __init__(self) -> None:
        self.rejected = 0
        self._sent = 0
        # Where lines that are not sent (empty, or too long) shift the numbers: from this call on, so many lines more.
        self._shift_from = [1]
        self._shift = [0]
        self._shows_progress = sys.stderr.isatty()

    def send(self, file: BinaryIO, publisher: Publisher, timeout: float) -> None:
        """Send all lines; raises TimeoutError when the daemon acknowledges nothing for `timeout` seconds."""
        for number, line in _read_lines(file):
            if line is None:
                self._tell(number, None, "frame_too_large", f"the line has more than {_MAX_LINE} bytes")
                continue
            self._publish(number, line, publisher, timeout)
        self._finish(publisher, timeout)
