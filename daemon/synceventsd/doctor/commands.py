"""The commands `synceventsd status` and `synceventsd doctor`: arguments, words, exit statuses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from synceventsd.config import Config, ConfigError, load
from synceventsd.core.health import Health, judge, lines

WRONG: Final = 1
UNAVAILABLE: Final = 69
NO_PERMISSION: Final = 77
CONFIG: Final = 78

_COLOURS: Final = {"OK": "green", "NOT READY": "red", "EVENTS STUCK": "red", "WARN": "yellow", "FAIL": "red"}

_config = click.option(
    "--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="TOML file with settings."
)
_json = click.option("--json", "as_json", is_flag=True, help="For machines.")

_STATUS_EPILOG = """\b
Examples:
  synceventsd status
  synceventsd status --url http://127.0.0.1:8787
  synceventsd status --json | jq .waiting

\b
Exit status:
   0 OK                                       69 no daemon answers there
   1 NOT READY or EVENTS STUCK                77 a token is wanted, and its key may not be read
   2 the command line is wrong                78 a setting is wrong
"""

_DOCTOR_EPILOG = """\b
Examples:
  synceventsd doctor
  sudo -u synceventsd synceventsd doctor --config /etc/synceventsd/synceventsd.toml
  synceventsd doctor --json | jq '.findings[] | select(.level != "OK")'

\b
Exit status:
   0 nothing failed; there may be warnings
   1 something failed
   2 the command line is wrong
  78 a setting is wrong
"""


@click.command(epilog=_STATUS_EPILOG, short_help="Ask the running daemon how it is.")
@click.option("--url", metavar="URL", help="Where HTTP is, as http://HOST:PORT[/BASE] (default: http.bind).")
@click.option("--http", metavar="HOST:PORT|unix:PATH", help="The same, as `run` has it (http.bind).")
@click.option(
    "--timeout", type=click.FloatRange(0.1), default=10, show_default=True, metavar="SECONDS", help="For the answer."
)
@_config
@_json
def status(url: str | None, http: str | None, timeout: float, file: Path | None, as_json: bool) -> None:
    """Ask the running daemon how it is: ready, stuck, what waits, who is connected.

    The first line says OK, NOT READY or EVENTS STUCK, with where and why. Where tokens are wanted, one is made with
    the key in http.token_secret_file.
    """
    from synceventsd.doctor import asking

    if url is not None and http is not None:
        raise click.UsageError("--url and --http exclude each other.")
    config = _load(file, {} if http is None else {"http.bind": http})
    try:
        place = asking.own_place(config.http) if url is None else asking.place_of(url)
    except ValueError as error:
        raise click.BadParameter(f"--url {url}: {error}.") from error
    if place is None:
        _fail("http.bind = none: the daemon answers nobody; `synceventsd log stat` looks at the log", UNAVAILABLE)
    try:
        answer = asking.ask(place, "/status", asking.own_token(config.http), timeout)
    except asking.NotReached as error:
        _fail(f"{error}; `synceventsd doctor` looks further", UNAVAILABLE)
    except asking.NotOurs as error:
        _fail(str(error), UNAVAILABLE)
    except asking.NotAllowed as error:
        _fail(str(error), NO_PERMISSION)
    judgement = judge(answer)
    if as_json:
        click.echo(json.dumps({"health": judgement.health.value, "why": judgement.text} | dict(answer)))
    else:
        first, *others = map(_printable, lines(answer))
        word = judgement.health.value
        click.echo(click.style(word, fg=_COLOURS[word], bold=True) + first.removeprefix(word))
        click.echo("\n".join(others))
    sys.exit(0 if judgement.health is Health.OK else WRONG)


@click.command(epilog=_DOCTOR_EPILOG, short_help="Look for what is wrong, and what to do.")
@_config
@_json
def doctor(file: Path | None, as_json: bool) -> None:
    """Look for what is wrong: socket, rights, disk, log, Redis, clock, units, port; say what to do about it.

    It changes nothing, needs neither root nor a running daemon, and takes the settings as `run` does: give it the
    same --config and environment. As root it sees more; as the publishers' user it sees what holds for them. It
    connects to the socket as a publisher does, which starts a daemon that systemd has not started yet.
    """
    import trio
    from attrs import asdict

    from synceventsd.core.findings import Level
    from synceventsd.doctor.examination import examine

    findings = trio.run(examine, _load(file, {}))
    failed = any(finding.level is Level.FAIL for finding in findings)
    if as_json:
        rows = [asdict(finding) | {"level": finding.level.value} for finding in findings]
        click.echo(json.dumps({"ok": not failed, "findings": rows}))
        sys.exit(WRONG if failed else 0)
    for finding in findings:
        word = finding.level.value
        shown = click.style(f"{word:5}", fg=_COLOURS[word], bold=True)
        click.echo(f"{shown}{finding.check:18}{_printable(finding.found)}")
        if finding.remedy:
            click.echo(f"{'':23}-> {_printable(finding.remedy)}")
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    click.echo(f"{counts[Level.FAIL]} failed, {counts[Level.WARN]} warnings, {counts[Level.OK]} well")
    sys.exit(WRONG if failed else 0)


def _load(file: Path | None, flags: dict[str, str]) -> Config:
    try:
        return load(flags, os.environ, file)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"synceventsd: {problem}", err=True)
        sys.exit(CONFIG)


def _printable(foreign: str) -> str:
    """What another program said, as text that cannot end a line or speak to a terminal."""
    return "".join(sign if sign.isprintable() else f"\\u{ord(sign):04x}" for sign in foreign)


def _fail(line: str, exit_status: int) -> NoReturn:
    click.echo(f"synceventsd: {line}", err=True)
    sys.exit(exit_status)
