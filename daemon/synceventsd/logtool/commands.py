"""The commands `synceventsd log stat|list|export|verify|retry-from`: arguments, words, exit statuses.

The exit statuses are told by `synceventsd log --help`; those beyond 2 are those of sysexits.h. What takes long to
import is imported by the command that needs it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn

import click

from synceventsd.config import Config, ConfigError, load
from synceventsd.logtool.text import at, bytes_of, events

if TYPE_CHECKING:
    from synceventsd.eventlog.onlooker import Onlooker

WRONG: Final = 1
DATA: Final = 65
NO_INPUT: Final = 66
UNAVAILABLE: Final = 69
IO: Final = 74
AGAIN: Final = 75
NO_PERMISSION: Final = 77
CONFIG: Final = 78

_STATUSES = """\b
Exit status:
   0 well                                     69 no daemon answers at the socket
   1 damage, events missing, or refused       74 reading or writing failed
   2 the command line is wrong                75 not just now: try again
  65 not a log that this program can read     77 this user may not
  66 there is no log                          78 a setting is wrong
"""

_EXAMPLES = f"""\b
Examples:
  synceventsd log stat
  synceventsd log list --business 42 --limit 5
  synceventsd log export --from 1000 -o events.jsonl
  synceventsd log verify
  synceventsd log retry-from 1000

{_STATUSES}"""

_config = click.option(
    "--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="TOML file with settings."
)
_state_dir = click.option("--state-dir", metavar="DIR", help="Directory of the event log (storage.state_dir).")
_json = click.option("--json", "as_json", is_flag=True, help="For machines.")
_number = click.IntRange(1, 2**63 - 1)
_from = click.option("--from", "first", type=_number, metavar="SEQ", help="Number of the first event.")
_to = click.option("--to", "last", type=_number, metavar="SEQ", help="Number of the last event.")


@click.group(name="log", epilog=_EXAMPLES, short_help="Look at the event log; send events again.")
def log_group() -> None:
    """Look at the event log, while the daemon runs or does not; have events sent to Redis again.

    The log is read where --state-dir, $SYNCEVENTSD_STORAGE_STATE_DIR or --config say, by root or the daemon's own
    user. Nothing but retry-from changes anything, and retry-from asks the daemon to.
    """


@log_group.command(epilog="\b\nExample:\n  synceventsd log stat --json | jq .waiting")
@_state_dir
@_config
@_json
def stat(state_dir: str | None, file: Path | None, as_json: bool) -> None:
    """Tell what the log holds: numbers, times, sizes, what waits for Redis, and what is remembered beside the events.

    "forwarded" is as a running daemon saved it, at most about a second ago.
    """
    from attrs import asdict

    from synceventsd.eventlog.facts import gather

    with _looking(state_dir, file) as onlooker:
        facts = gather(onlooker)
    if as_json:
        click.echo(json.dumps(asdict(facts) | {"first_at": at(facts.first_at), "newest_at": at(facts.newest_at)}))
        return
    rows = {
        "file": f"{facts.file}, {bytes_of(facts.file_bytes)}, and {bytes_of(facts.wal_bytes)} of WAL",
        "daemon": "runs" if facts.running else "does not run",
        "log id": facts.log_id,
        "epochs": f"{facts.epochs}, the newest is {facts.epoch}",
        "first event": f"{_or_none(facts.first)}, accepted {at(facts.first_at)}",
        "newest event": f"{_or_none(facts.newest)}, accepted {at(facts.newest_at)}",
        "kept": f"{facts.events} events, {bytes_of(facts.text_bytes)} of text",
        "forwarded": f"up to {facts.forwarded}; {facts.waiting} wait",
        "producers": f"{facts.producers}, {facts.rejects} rejects remembered",
        "sync states": str(facts.syncs),
        "ledger": f"{facts.ledger} entries",
    }
    for name, text in rows.items():
        click.echo(f"{name + ':':14}{text}")
    if facts.suspect:
        click.echo("damage was met while writing: the next start of the daemon salvages the log")


@log_group.command(name="list", epilog="\b\nExample:\n  synceventsd log list --from 1000 --to 1099 --limit 0")
@_from
@_to
@click.option(
    "--limit", type=click.IntRange(0), default=20, show_default=True, metavar="N", help="At most so many; 0: all."
)
@click.option("--business", type=click.IntRange(1, 2**32 - 1), metavar="ID", help="Only events of this business.")
@click.option("--integration", type=click.IntRange(0, 2**32 - 1), metavar="ID", help="Only of this integration.")
@click.option("--type", "event_type", metavar="TYPE", help="Only of this type, such as integration.sync.started.")
@_state_dir
@_config
@_json
def list_events(
    first: int | None,
    last: int | None,
    limit: int,
    business: int | None,
    integration: int | None,
    event_type: str | None,
    state_dir: str | None,
    file: Path | None,
    as_json: bool,
) -> None:
    """List events, a line each: number, time of acceptance, type, integration, business (- for none), id, bytes.

    With --from the oldest that match from there on, without it the newest; always in rising order.
    """
    from synceventsd.logtool.listing import Wanted, listed

    _check_range(first, last)
    damaged: list[tuple[int, int]] = []
    wanted = Wanted(first, last, limit or None, business, integration, event_type)
    with _looking(state_dir, file) as onlooker:
        for event in listed(onlooker, wanted, lambda block: damaged.append((block.first, block.last))):
            click.echo(event.json() if as_json else event.line())
    for begin, end in damaged:
        click.echo(f"synceventsd: {events(begin, end)}: damaged; see `synceventsd log verify`", err=True)
    sys.exit(WRONG if damaged else 0)


@log_group.command(
    epilog="\b\nExample:\n  synceventsd log export --from 1000 | syncevents publish --socket /tmp/other.sock -"
)
@_from
@_to
@click.option("-o", "--output", default="-", metavar="FILE|-", help="Where to; a file appears when it is complete.")
@_state_dir
@_config
def export(first: int | None, last: int | None, output: str, state_dir: str | None, file: Path | None) -> None:
    """Write events as they were accepted, byte for byte, a line each; `syncevents publish` takes them again.

    What is not there or does not read is told on standard error, and the exit status is 1. A file is made readable
    for its owner only.
    """
    from synceventsd.logtool.export import Export, file_at_once

    _check_range(first, last)
    progress = _Progress("events exported")

    def missing(begin: int, end: int, why: str) -> None:
        progress.tell(f"synceventsd: {events(begin, end)}: {why}")

    with _looking(state_dir, file) as onlooker:
        run = Export(onlooker, progress.show, missing)
        target: AbstractContextManager[BinaryIO] = (
            nullcontext(sys.stdout.buffer) if output == "-" else file_at_once(Path(output))
        )
        try:
            with target as stream:
                run.run(first, last, stream)
        except BrokenPipeError:
            raise  # click's to tell: whoever read has had enough
        except OSError as error:
            _fail(f"{output} cannot be written: {error.strerror}", IO)
    progress.end(f"{run.written} events exported")
    sys.exit(WRONG if run.incomplete else 0)


@log_group.command(epilog="\b\nExample:\n  synceventsd log verify || synceventsd log export -o what-reads.jsonl")
@_state_dir
@_config
@_json
def verify(state_dir: str | None, file: Path | None, as_json: bool) -> None:
    """Read the whole log and tell what is damaged: checksums, counts, numbers, sizes, index, and SQLite's own check.

    It reads in short slices beside a running daemon. Exit status 0 when all is well, 1 when not.
    """
    from attrs import asdict

    from synceventsd.eventlog.audit import Audit

    progress = _Progress("events checked")
    with _looking(state_dir, file) as onlooker:
        audit = Audit(onlooker, progress.show)
        audit.run()
    progress.end("")
    if as_json:
        counts = {"groups": audit.groups, "events": audit.events, "bytes": audit.size}
        found = [asdict(finding) for finding in audit.findings]
        click.echo(json.dumps({"ok": not found, **counts, "findings": found, "notes": audit.notes}))
    else:
        for finding in audit.findings:
            where = "" if finding.first is None else f"{events(finding.first, finding.last)}: "
            click.echo(f"{finding.what}: {where}{finding.detail}")
        for note in audit.notes:
            click.echo(f"note: {note}")
        click.echo(f"{audit.events} events in {audit.groups} groups read, {bytes_of(audit.size)} of text")
        click.echo(_ADVICE if audit.findings else "all is well")
    sys.exit(WRONG if audit.findings else 0)


_ADVICE = """\
something is wrong: `synceventsd log export` saves what reads; a running daemon steps over damage and tells its readers.
To have the log salvaged: stop the daemon, `touch events.db-suspect` beside events.db, and start it again; the damaged
file is moved aside. Or stop it and put back a backup."""


@log_group.command(epilog="\b\nExample:\n  synceventsd log retry-from 1000 --socket /run/synceventsd/synceventsd.sock")
@click.argument("seq", type=_number)
@click.option("--socket", metavar="PATH", help="The daemon's socket (ingest.socket).")
@click.option(
    "--timeout", type=click.FloatRange(0.1), default=30, show_default=True, metavar="SECONDS", help="For the answer."
)
@_config
@_json
def retry_from(seq: int, socket: str | None, timeout: float, file: Path | None, as_json: bool) -> None:
    """Have the daemon send the events from number SEQ on to Redis again, in order, at redis.backlog_rate.

    Only root and the daemon's own user may. Once it has answered it will be done, also when Redis is down now or the
    daemon is killed; it stands in the ledger, and what is accepted afterwards goes out once, behind it.
    """
    from synceventsd.logtool import asking

    config = _load(file, "ingest.socket", socket)
    try:
        answer = asking.ask_to_retry(config.ingest.socket, seq, timeout)
    except asking.NotReached as error:
        _fail(str(error), UNAVAILABLE)
    except asking.NotAllowed as error:
        _fail(str(error), NO_PERMISSION)
    except asking.NotAnswered as error:
        _fail(f"{error}: look at `ledger` in /status before you ask again", AGAIN)
    except (asking.Refused, asking.NotUnderstood) as error:
        _fail(f"refused: {error}", WRONG)
    if as_json:
        click.echo(json.dumps({"first": answer.first, "last": answer.last}))
    else:
        click.echo(f"{events(answer.first, answer.last)} will go out to Redis again")


# What the commands share


@contextmanager
def _looking(state_dir: str | None, file: Path | None) -> Iterator[Onlooker]:
    """Yield the onlooker of the log; what goes wrong with it becomes a line and an exit status."""
    from synceventsd.core.errors import LogDamaged, StorageUnavailable
    from synceventsd.eventlog.onlooker import LogForbidden, LogForeign, LogMissing, Onlooker

    config = _load(file, "storage.state_dir", state_dir)
    try:
        with closing(Onlooker(config.storage.state_dir)) as onlooker:
            yield onlooker
    except LogMissing as error:
        _fail(f"{error}; name its directory with --state-dir, or the daemon's file with --config", NO_INPUT)
    except LogForbidden as error:
        _fail(str(error), NO_PERMISSION)
    except LogForeign as error:
        _fail(str(error), DATA)
    except LogDamaged as error:
        _fail(f"the log does not read: {error}; see `synceventsd log verify --help`", DATA)
    except StorageUnavailable as error:
        _fail(f"the log cannot be read now: {error}", AGAIN)


def _load(file: Path | None, setting: str, given: str | None) -> Config:
    try:
        return load({} if given is None else {setting: given}, os.environ, file)
    except ConfigError as error:
        _fail_all(error.problems, CONFIG)


def _check_range(first: int | None, last: int | None) -> None:
    if first is not None and last is not None and first > last:
        raise click.UsageError(f"--from {first} comes after --to {last}.")


def _or_none(number: int | None) -> str:
    return "none" if number is None else str(number)


def _fail(line: str, status: int) -> NoReturn:
    _fail_all((line,), status)


def _fail_all(lines: tuple[str, ...], status: int) -> NoReturn:
    for line in lines:
        click.echo(f"synceventsd: {line}", err=True)
    sys.exit(status)


class _Progress:
    """A line on a terminal that is written over; nothing where standard error is none."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shows = sys.stderr is not None and sys.stderr.isatty()  # None where the caller closed it

    def show(self, done: int, of: int) -> None:
        if self._shows:
            click.echo(f"\r{done} of {of} {self._what}\x1b[K", err=True, nl=False)

    def tell(self, line: str) -> None:
        click.echo(f"\r\x1b[K{line}" if self._shows else line, err=True)

    def end(self, line: str) -> None:
        if self._shows:
            click.echo(f"\r\x1b[K{line}", err=True, nl=bool(line))
