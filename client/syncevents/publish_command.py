"""The command `syncevents publish`: envelopes from a file or a pipe, and what became of them.

Rule of this file: the memory it takes does not depend on the length of the input.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, Final

import click

from syncevents._version import __version__
from syncevents.errors import Rejected
from syncevents.publisher import Publisher
from syncevents.wire import Reject

_MAX_LINE: Final = 16 << 20  # bytes; no sensible `ingest.max_frame` takes a longer line, so it is not held in memory
_MAX_PENDING: Final = 1000  # so that a queue of long lines fits into memory, too
_PROGRESS_EVERY: Final = 10000  # lines


@click.command(short_help="Send envelopes from a file or a pipe.")
@click.argument("file", type=click.File("rb"), default="-")
@click.option(
    "--socket",
    "socket_path",
    metavar="PATH",
    help="The daemon's socket.  [default: $SYNCEVENTS_SOCKET, else the system's]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="Give up when nothing was acknowledged for so long.",
)
def publish(file: BinaryIO, socket_path: str | None, timeout: float) -> None:
    """Send the envelopes in FILE, one JSON object a line, and wait until they are stored.

    FILE defaults to -, the standard input. Exit status 1 when a line was rejected, each told on standard error, or
    when the daemon did not acknowledge in time.
    """
    run = _Run(file, timeout)
    try:
        run.publisher = Publisher(
            socket_path,
            client=f"syncevents-publish/{__version__}",
            max_pending=_MAX_PENDING,
            on_reject=run.tell_rejected,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        run.send_all()
    except TimeoutError as error:
        raise click.ClickException(f"{error}. What is not acknowledged may be stored or not.") from None
    except OSError as error:
        raise click.ClickException(f"{getattr(file, 'name', 'the input')} cannot be read on: {error}") from None
    finally:
        with suppress(Rejected, TimeoutError):
            run.publisher.close(timeout=0)
    sys.exit(1 if run.rejected else 0)


class _Run:
    """One pass over the input."""

    publisher: Publisher

    def __init__(self, file: BinaryIO, timeout: float) -> None:
        self.rejected = 0
        self._file = file
        self._timeout = timeout
        self._published = 0
        # The input's line numbers of the publish calls. A call's slot is used again only when as many calls later
        # found room, that is, after this one was settled: so the sender's thread reads it without a lock.
        self._line_numbers = [0] * _MAX_PENDING
        self._shows_progress = sys.stderr is not None and sys.stderr.isatty()  # None where the caller closed it

    def send_all(self) -> None:
        """Send all lines; raises TimeoutError when nothing was acknowledged for the timeout."""
        for number, line in _read_lines(self._file):
            if line is None:
                self._tell(number, "frame_too_large", f"the line has more than {_MAX_LINE} bytes")
            elif line.strip(b"\r\n"):
                self._send(number, line)
            if self._shows_progress and number % _PROGRESS_EVERY == 0:
                click.echo(
                    f"\r{number} lines read, {self.publisher.statistics().acked} acknowledged", err=True, nl=False
                )
        self._wait_for_acks()
        if self._shows_progress:
            acked = self.publisher.statistics().acked
            click.echo(f"\r{acked} lines acknowledged, {self.rejected} rejected\x1b[K", err=True)

    def tell_rejected(self, reject: Reject) -> None:
        """Tell of an event that the daemon, or its `max_frame`, refused; called in the sender's thread."""
        self._tell(self._line_numbers[reject.line % _MAX_PENDING], reject.code, reject.error)

    def _send(self, number: int, line: bytes) -> None:
        while not self.publisher.wait_for_room(self._timeout):
            self._flush(0)
        self._line_numbers[(self._published + 1) % _MAX_PENDING] = number
        try:
            self.publisher.publish_envelope(line)
        except ValueError as error:
            self._tell(number, "invalid_event", str(error))
            return
        self._published += 1

    def _wait_for_acks(self) -> None:
        while True:
            acked = self.publisher.statistics().acked
            try:
                return self._flush(self._timeout)
            except TimeoutError:
                if self.publisher.statistics().acked == acked:
                    raise

    def _flush(self, seconds: float) -> None:
        with suppress(Rejected):  # told already, one by one
            self.publisher.flush(seconds)

    def _tell(self, number: int, code: str, error: str) -> None:
        self.rejected += 1
        clear = "\r\x1b[K" if self._shows_progress else ""
        click.echo(f"{clear}line {number}: {code}: {error}", err=True)


def _read_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield number and bytes of each line; None for the bytes of one that is too long."""
    number = 0
    while line := file.readline(_MAX_LINE):
        number += 1
        if len(line) < _MAX_LINE or line.endswith(b"\n"):
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_MAX_LINE)
        yield number, None
