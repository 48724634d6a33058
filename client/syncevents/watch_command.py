"""The command `syncevents watch`: the syncs that are going on, with their progress.

Rule of this file: a thread reads the stream and only hands over what came; everything else is the main thread's, so
that Ctrl-C, a closed pipe and the clock are seen at once.
"""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import click

from syncevents.checks import MAX_ID
from syncevents.errors import NotUnderstood, Refused
from syncevents.events import EventType
from syncevents.progress import LIFECYCLE, Progress, Run, ended_line, ended_object, run_object, started_line
from syncevents.reading import iter_events
from syncevents.reading.eventstream import EventStream
from syncevents.reading.values import Gap, Received
from syncevents.reading_options import ENDINGS, Patience, Unreachable, Where, endings, tell, where_options
from syncevents.sync_status_command import ask
from syncevents.telling import gap_line, to_json
from syncevents.terminal import Board, can_redraw, shows_colours

_REPLAY: Final = 1000  # starts and ends of syncs; enough to find what goes on; the daemon has to look for them
_REDRAW: Final = 1.0  # seconds on a terminal
_REPORT: Final = 5.0  # seconds between two lines elsewhere
_JOIN: Final = 2.0  # seconds

_EPILOG: Final = f"""\b
Examples:
  syncevents watch                      every shop; on a terminal a table that is kept up to date
  syncevents watch --business 42        one shop
  syncevents watch | tee syncs.log      a line when a sync begins or ends, and every {_REPORT:g} s for each
  syncevents watch --json | jq .rate    the same for programs: one JSON object a line

\b
RATE is orders a second over the last 10 s. STALLED: nothing was heard of it for long
(the daemon's status.stalled_after). It goes on until Ctrl-C, and reconnects by itself.
Syncs that began before it are found among the newest {_REPLAY} starts and ends.

{ENDINGS}"""

Note = Received | Gap | Exception | str  # text: what to tell of the connection


@click.command(epilog=_EPILOG, short_help="Show the progress of all syncs.")
@click.option("-b", "--business", type=click.IntRange(1, MAX_ID), metavar="N", help="Only its syncs and global ones.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "-n",
    "--interval",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help=f"How often progress is shown.  [default: {_REDRAW:g} on a terminal, else {_REPORT:g}]",
)
@where_options
def watch(business: int | None, as_json: bool, interval: float | None, url: str, token_file: Path | None) -> None:
    """Show the syncs that are going on: how many orders, how fast, for how long, and which of them stall."""
    where = Where(url, token_file)
    redraws = can_redraw() and not as_json
    with endings():
        inbox: SimpleQueue[Note] = SimpleQueue()
        patience = Patience(where.address, inbox.put)
        stream = iter_events(
            business_id=business,
            event_types=LIFECYCLE,
            replay=_REPLAY,
            url=url,
            token=where.token,
            on_open=patience.found,
            on_retry=patience.lost,
        )
        with _following(stream, inbox):
            view = _Table() if redraws else _Lines(as_json=as_json)
            _Watch(where, inbox, view).run(interval or (_REDRAW if redraws else _REPORT))


@contextmanager
def _following(stream: EventStream, inbox: "SimpleQueue[Note]") -> Iterator[None]:
    """Read the stream in a thread until the block is left."""

    def follow() -> None:
        try:
            for item in stream:
                inbox.put(item)
        except (Refused, NotUnderstood, Unreachable, ValueError, click.ClickException) as error:
            inbox.put(error)

    thread = threading.Thread(target=follow, name="syncevents-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stream.close()
        thread.join(_JOIN)


class _Watch:
    """What is known, and how it is shown."""

    def __init__(self, where: Where, inbox: "SimpleQueue[Note]", view: "_Table | _Lines") -> None:
        self._where = where
        self._inbox = inbox
        self._view = view
        self._progress = Progress()
        self._began = datetime.now(UTC)

    def run(self, interval: float) -> None:
        """Show what comes, for ever."""
        while True:
            deadline = time.monotonic() + interval
            self._ask_all()
            self._view.show(self._progress, datetime.now(UTC))
            while (left := deadline - time.monotonic()) > 0:
                with suppress(Empty):
                    self._take(self._inbox.get(timeout=left))

    def _take(self, note: Note) -> None:
        if isinstance(note, Exception):
            raise note
        if isinstance(note, Gap | str):
            self._view.notice(note if isinstance(note, str) else gap_line(note))
            return
        ended = self._progress.heard(note)
        if note.timestamp < self._began:  # of the replay: it only says what is going on
            return
        if ended is not None:
            self._view.ended(ended, note)
        elif (run := self._progress.runs.get((note.integration_id, note.business_id))) is not None:
            self._view.started(run, note)

    def _ask_all(self) -> None:
        token = self._where.token()
        for key in list(self._progress.runs):
            with suppress(Unreachable, Refused):  # the stream tells of that; a business's token opens no global sync
                answer = ask(self._where.address, *key, token)
                self._progress.asked(key, answer, time.monotonic())


class _Table:
    """On a terminal: a table that is written over; what ended stays above it."""

    def __init__(self) -> None:
        self._board = Board()
        self._lasting: list[str] = []
        self._colours = shows_colours()

    def started(self, run: Run, event: Received) -> None:
        """Nothing: it stands in the table."""

    def ended(self, run: Run, event: Received) -> None:
        """Remember the line for the next time."""
        line = ended_line(run, event)
        failed = event.type == EventType.SYNC_FAILED
        self._lasting.append(click.style(line, fg="red" if failed else "green") if self._colours else line)

    def notice(self, text: str) -> None:
        """Remember the line for the next time."""
        self._lasting.append(f"syncevents: {text}")

    def show(self, progress: Progress, now: datetime) -> None:
        """Write it."""
        width = shutil.get_terminal_size().columns
        head, *rows = (line[: width - 1] for line in progress.table(now))
        block = [self._head(head), *map(self._row, rows)]
        lasting, self._lasting = self._lasting, []
        self._board.draw(lasting, block)

    def _head(self, line: str) -> str:
        return click.style(line, bold=True) if self._colours else line

    def _row(self, line: str) -> str:
        return click.style(line, fg="yellow") if self._colours and line.endswith("STALLED") else line


class _Lines:
    """Elsewhere: a line, of text or JSON, for each thing that is told."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def started(self, run: Run, event: Received) -> None:
        """Tell of a sync that began."""
        click.echo(to_json(run_object(run, "started", event.timestamp)) if self._as_json else started_line(event))

    def ended(self, run: Run, event: Received) -> None:
        """Tell of a sync that ended."""
        click.echo(to_json(ended_object(run, event)) if self._as_json else ended_line(run, event))

    def notice(self, text: str) -> None:
        """Tell of the connection, or of a gap."""
        tell(text)

    def show(self, progress: Progress, now: datetime) -> None:
        """Tell of all that are going on."""
        lines = map(to_json, progress.objects(now)) if self._as_json else progress.lines(now)
        for line in lines:
            click.echo(line)
