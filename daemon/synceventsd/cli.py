"""The program `synceventsd`: what an operator types, and in which words it answers.

Exit status: 0 well, 1 could not start, 2 the command line is wrong, 75 could not start for a reason that may pass, such
as a full disk (EX_TEMPFAIL), 78 a setting is wrong (EX_CONFIG, for which the unit does not restart). `log`, `status`
and `doctor` have more. What takes long to import is imported by the command that needs it.
"""

import gc
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import click

from syncevents import _version
from synceventsd.config import SETTINGS, Config, ConfigError, concerns, dump, holds_password, load, read_secret
from synceventsd.doctor.commands import doctor, status
from synceventsd.logtool.commands import log_group
from synceventsd.unitcommand import install_units

_EXIT_FAILED = 1
_EXIT_MAY_PASS = 75
_EXIT_CONFIG = 78
_LARGEST_BUSINESS = 2**32 - 1
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_TTL = 3650 * 86400  # s

_IN_PLAIN_SIGHT = (
    "--redis-url has a password, which every user of this machine can read in the list of processes; use "
    "redis.password_file, or SYNCEVENTSD_REDIS_URL in the environment"
)

_EXAMPLES = """\b
Examples:
  synceventsd check-config --config /etc/synceventsd/synceventsd.toml
  synceventsd run --config /etc/synceventsd/synceventsd.toml
  synceventsd run --socket /tmp/sync.sock --state-dir /tmp/sync --redis-url none
  synceventsd token --business 42 --ttl 8h --config /etc/synceventsd/synceventsd.toml
  synceventsd log stat --config /etc/synceventsd/synceventsd.toml
  synceventsd status
  synceventsd doctor --config /etc/synceventsd/synceventsd.toml

\b
Completion, in ~/.bashrc, ~/.zshrc or ~/.config/fish/completions/synceventsd.fish:
  eval "$(_SYNCEVENTSD_COMPLETE=bash_source synceventsd)"
  eval "$(_SYNCEVENTSD_COMPLETE=zsh_source synceventsd)"
  _SYNCEVENTSD_COMPLETE=fish_source synceventsd | source
"""


def _settings_table() -> str:
    rows = []
    for name, setting in SETTINGS.items():
        flag = f" ({setting.flag})" if setting.flag else ""
        default = "none" if setting.default in ("", []) else setting.default
        rows += [f"  {name}{flag} [{default}]", f"      {setting.about}", f"      allowed: {setting.rule.allowed}"]
    return "\n".join(rows)


SETTINGS_HELP = f"""\b
Every setting may stand in the TOML file ([section] and key) or in the environment
as SYNCEVENTSD_<SECTION>_<KEY>, where lists are comma-separated. A flag goes before
the environment, that before the file, that before the default [in brackets].
No file is read unless --config names it.

\b
{_settings_table()}
"""

_config_option = click.option(
    "--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="TOML file with settings."
)


@click.group(epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version.__version__, prog_name="synceventsd", message="%(prog)s %(version)s")
def synceventsd() -> None:
    """Take order-sync events on a Unix socket, store them durably, carry them to Redis, browsers and pollers."""


@synceventsd.command(epilog=SETTINGS_HELP, short_help="Run the daemon until SIGTERM or SIGINT.")
@_config_option
@click.option("--socket", metavar="PATH", help="Socket for publishers (ingest.socket).")
@click.option("--state-dir", metavar="DIR", help="Directory of the event log (storage.state_dir).")
@click.option("--redis-url", metavar="URL|none", help="Redis to forward to (redis.url). No password here.")
@click.option("--http", metavar="HOST:PORT|unix:PATH|none", help="Where HTTP listens (http.bind).")
def run(file: Path | None, socket: str | None, state_dir: str | None, redis_url: str | None, http: str | None) -> None:
    """Run the daemon until SIGTERM or SIGINT, which stop it cleanly."""
    given = {"ingest.socket": socket, "storage.state_dir": state_dir, "redis.url": redis_url, "http.bind": http}
    config = _load(file, {name: value for name, value in given.items() if value is not None})

    # Nothing of what is imported is garbage: not looking for it saves a fifth of the start, and freezing it later on
    # spares every full collection the walk through 100,000 objects that stay.
    gc.disable()
    import trio

    from synceventsd import daemon
    from synceventsd.core.errors import StartupError
    from synceventsd.logs import configure_logs, get_logger

    configure_logs(config.logging, sys.stderr, os.environ)
    if redis_url is not None and holds_password(redis_url):
        get_logger("daemon").warning("config.concern", text=_IN_PLAIN_SIGHT)
    reasons: list[str] = []
    status = _EXIT_FAILED
    try:
        trio.run(daemon.run, config)
    except* StartupError as group:  # a nursery hands it on in a group
        reasons = _reasons(group)
        status = _EXIT_FAILED if group.subgroup(lambda error: not _may_pass(error)) else _EXIT_MAY_PASS
    if reasons:
        _fail(reasons, status)


@synceventsd.command(epilog=SETTINGS_HELP, short_help="Print the settings in force, or what is wrong.")
@_config_option
def check_config(file: Path | None) -> None:
    """Print the settings in force, passwords masked; or every problem, with exit status 78."""
    config = _load(file, {})
    click.echo(dump(config))
    for concern in concerns(config):
        click.echo(f"synceventsd: warning: {concern}", err=True)


synceventsd.add_command(log_group)
synceventsd.add_command(install_units)
synceventsd.add_command(status)
synceventsd.add_command(doctor)


@synceventsd.command(short_help="Print a token for readers.")
@click.option("--business", "businesses", multiple=True, metavar="ID", help="May read this business; repeat for more.")
@click.option("--all", "everything", is_flag=True, help="May read everything (as --business '*').")
@click.option("--ttl", default="8h", show_default=True, metavar="TIME", help="How long it holds: 90s, 30m, 8h or 7d.")
@_config_option
def token(businesses: tuple[str, ...], everything: bool, ttl: str, file: Path | None) -> None:
    """Print a token for readers, signed with the key in http.token_secret_file.

    It goes into the header "Authorization: Bearer TOKEN" or the cookie syncevents_token, never into a URL.
    """
    readable = _readable(businesses, everything)
    lifetime = _seconds(ttl)
    config = _load(file, {})
    secret_file = config.http.token_secret_file
    if secret_file is None:
        _fail(["http.token_secret_file = none: a token needs a key; set it to a file that holds one"], _EXIT_CONFIG)

    from synceventsd.web.tokens import mint

    click.echo(mint(read_secret(secret_file).encode(), readable, lifetime, time.time()))


def _load(file: Path | None, flags: dict[str, str]) -> Config:
    try:
        return load(flags, os.environ, file)
    except ConfigError as error:
        _fail(error.problems, _EXIT_CONFIG)


def _fail(lines: Iterable[str], status: int) -> NoReturn:
    for line in lines:
        click.echo(f"synceventsd: {line}", err=True)
    sys.exit(status)


def _reasons(error: BaseException) -> list[str]:
    """A line for each exception in a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        return [line for inner in error.exceptions for line in _reasons(inner)]
    return [" ".join(str(error).split())]


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, BaseExceptionGroup) or bool(getattr(error, "may_pass", False))


def _readable(businesses: tuple[str, ...], everything: bool) -> list[int] | None:
    """The businesses that a token opens, in the order given; None for everything."""
    if everything or "*" in businesses:
        if set(businesses) - {"*"}:
            raise click.UsageError("--business ID and --all exclude each other.")
        return None
    if not businesses:
        raise click.UsageError("Say what the token may read: --business ID (repeatedly for more) or --all.")
    for business in businesses:
        if not re.fullmatch(r"[0-9]{1,10}", business) or not 1 <= int(business) <= _LARGEST_BUSINESS:
            raise click.BadParameter(f"{business!r} is no id of a business, 1 to {_LARGEST_BUSINESS}, nor '*'.")
    return list(dict.fromkeys(int(business) for business in businesses))


def _seconds(ttl: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", ttl)
    lifetime = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < lifetime <= _LONGEST_TTL:
        raise click.BadParameter(f"--ttl {ttl!r}: write a number and s, m, h or d, such as 8h; at most 3650d.")
    return lifetime
