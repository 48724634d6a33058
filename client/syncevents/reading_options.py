"""What all commands that read have in common: where the daemon is, who asks, and how they end.

Rule of this file: a token is never an argument, because everybody can see those in the list of processes.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from attrs import frozen

from syncevents.errors import NotUnderstood, Refused
from syncevents.reading import DEFAULT_URL
from syncevents.reading.asking import Address, parse_url

EXIT_FAILED: Final = 1
EXIT_UNAVAILABLE: Final = 69
EXIT_FORBIDDEN: Final = 77
EXIT_INTERRUPTED: Final = 130

ENDINGS: Final = """\b
The daemon:
  --url, or $SYNCEVENTS_URL       http://host:port, with its base path, or unix:/path
  --token-file, or $SYNCEVENTS_TOKEN
                                  where it wants tokens; `synceventsd token` makes them.
                                  The file is read anew for each connection.

\b
Exit status:
  0    ended well, also because nobody read the output on
  1    the daemon refused, or what answered is none
  2    wrong arguments
  69   the daemon cannot be reached
  77   the token is missing, has expired, or does not open this
  130  interrupted by Ctrl-C
"""

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Unreachable(Exception):
    """The daemon cannot be reached; the text says why."""


@frozen
class Where:
    """Where the daemon is, and who asks."""

    url: str
    token_file: Path | None

    @property
    def address(self) -> Address:
        """The URL, taken apart."""
        return parse_url(self.url)

    def token(self) -> str | None:
        """Return the token of this moment: the file's, else that of the environment, else none."""
        if self.token_file is None:
            return os.environ.get("SYNCEVENTS_TOKEN") or None
        try:
            return self.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise click.ClickException(f"--token-file {self.token_file} cannot be read: {error}") from None


def where_options(function: _Function) -> _Function:
    """Add --url and --token-file to a command, which gets them as `url` and `token_file`."""
    function = click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="File with a token.  [default: $SYNCEVENTS_TOKEN, else none]",
    )(function)
    return click.option(
        "--url",
        envvar="SYNCEVENTS_URL",
        default=DEFAULT_URL,
        metavar="URL",
        help=f"Where the daemon answers.  [default: $SYNCEVENTS_URL, else {DEFAULT_URL}]",
    )(function)


@contextmanager
def endings() -> Iterator[None]:
    """End the program as `ENDINGS` says, with one line on standard error where something went wrong."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # of standard output; those of connections are the readers' business
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the exit
        sys.exit(0)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except Unreachable as error:
        _end(str(error), EXIT_UNAVAILABLE)
    except Refused as error:
        _end(str(error), EXIT_FORBIDDEN if error.status in (401, 403) else EXIT_FAILED)
    except NotUnderstood as error:
        _end(str(error), EXIT_FAILED)


class Patience:
    """What a command does when its stream is lost: at first it gives up, later it says so and waits."""

    def __init__(self, address: Address, tell: Callable[[str], None]) -> None:
        self._opened = False
        self._address = address
        self._tell = tell
        self._told = False

    def lost(self, reason: str, pause: float) -> None:
        """Take note of it; raises Unreachable where the stream never was open."""
        if not self._opened:
            raise Unreachable(f"no daemon answers at {self._address}: {reason}")
        if not self._told:
            self._told = True
            self._tell(f"the connection is lost ({reason}); trying again until it is back")

    def found(self) -> None:
        """Take note that the stream is open, and say so after a loss."""
        self._opened = True
        if self._told:
            self._told = False
            self._tell("connected again")


def tell(text: str) -> None:
    """Write a line to standard error."""
    click.echo(f"syncevents: {text}", err=True)


def _end(text: str, status: int) -> None:
    tell(text)
    sys.exit(status)
