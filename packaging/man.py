"""Writes the manual pages into a directory: synceventsd(8), syncevents(1), synceventsd.toml(5).

Rule of this file: what a program can tell of itself (commands, options, settings, defaults) is asked of the program;
only what its help does not say stands here. Run by a Python in which both packages and their extras are installed.
"""

import json
import os
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import click

from syncevents import __version__
from syncevents.cli import program
from synceventsd.cli import SETTINGS_HELP, synceventsd
from synceventsd.config import SETTINGS

SIGNALS = """
SIGTERM and SIGINT stop the daemon cleanly: what was read is stored and acknowledged, streams end, what waits
is sent on for at most shutdown.grace seconds. A second one cuts that short.
"""

SETTINGS_FILE = """
A TOML file, read at the start of synceventsd(8) when --config names it; the service reads
/etc/synceventsd/synceventsd.toml. What it does not set has its default, which is shown here. A setting can
also stand in the environment, as SYNCEVENTSD_<SECTION>_<KEY>, where lists are comma-separated. A flag goes
before the environment, that before the file. A wrong or unknown setting stops the start with exit status 78;
synceventsd check-config says beforehand what is wrong.
"""

FILES = {
    "/etc/synceventsd/synceventsd.toml": "Settings: synceventsd.toml(5).",
    "/etc/synceventsd/environment": "Settings as variables; they go before the file.",
    "/run/synceventsd/synceventsd.sock": "Where publishers connect. Members of the group syncevents may.",
    "/var/lib/synceventsd": "The event log: what is not forwarded yet, and what is kept for replay.",
}


def main(directory: Path) -> None:
    """Write the three pages."""
    directory.mkdir(parents=True, exist_ok=True)
    daemon = page("synceventsd", 8, "System Administration", synceventsd)
    daemon += [".SH SIGNALS", *filled(SIGNALS), ".SH FILES"]
    daemon += [line for name, about in FILES.items() for line in entry(name, about)]
    client = page("syncevents", 1, "User Commands", program)
    client += [".SH ENVIRONMENT", *entry("SYNCEVENTS_SOCKET", "The daemon's socket, instead of the system's.")]
    pages = {
        "synceventsd.8": [*daemon, *see("synceventsd.toml(5)", "syncevents(1)")],
        "syncevents.1": [*client, *see("synceventsd(8)")],
        "synceventsd.toml.5": [*settings_page(), *see("synceventsd(8)")],
    }
    for name, lines in pages.items():
        (directory / name).write_text("\n".join(lines) + "\n")


def page(name: str, section: int, kind: str, command: click.Group) -> list[str]:
    """A program with all its commands."""
    lines = [*head(name, section, kind, command.get_short_help_str(200)), ".SH SYNOPSIS", f".B {escaped(name)}"]
    lines += [*filled("COMMAND [OPTIONS] [ARGUMENTS]"), ".SH DESCRIPTION", *prose(command.help), ".SH COMMANDS"]
    for path, one in commands(click.Context(command, info_name=name)):
        usage = " ".join(one.collect_usage_pieces(click.Context(one)))
        lines += [f'.SS "{escaped(path)} {escaped(usage)}"', *prose(one.help)]
        for parameter in one.get_params(click.Context(one)):
            record = parameter.get_help_record(click.Context(one))
            if record is not None and record[1]:
                lines += entry(*record)
        if one.epilog != SETTINGS_HELP:  # synceventsd.toml(5) has them
            lines += [".PP", *prose(one.epilog)] if one.epilog else []
    return [*lines, *([".SH EXAMPLES", *prose(command.epilog)] if command.epilog else [])]


def commands(context: click.Context, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group that is not hidden, with the words that call it; a group goes before its own."""
    group = context.command
    assert isinstance(group, click.Group)  # noqa: S101 - for the type checker
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from commands(click.Context(command, parent=context), f"{prefix}{name} ")


def settings_page() -> list[str]:
    """The settings file."""
    lines = [*head("synceventsd.toml", 5, "File Formats", "settings of synceventsd"), ".SH DESCRIPTION"]
    lines += filled(SETTINGS_FILE)
    for section, settings in groupby(SETTINGS.values(), key=lambda setting: setting.name.partition(".")[0]):
        lines.append(f'.SH "[{section}]"')
        for setting in settings:
            key = f"{setting.name.partition('.')[2]} = {json.dumps(setting.default)}"
            flag = f" Flag: {setting.flag}." if setting.flag else ""
            lines += entry(key, f"{setting.about}. Allowed: {setting.rule.allowed}.{flag}")
    return lines


def head(name: str, section: int, kind: str, about: str) -> list[str]:
    """The beginning of a page; its day is that of $SOURCE_DATE_EPOCH, for builds that can be repeated."""
    day = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())), UTC).date()
    title = f'.TH "{name.upper()}" {section} "{day}" "syncevents {__version__}" "{kind}"'
    return [title, ".SH NAME", f"{escaped(name)} \\-", *filled(about.rstrip("."))]


def see(*pages: str) -> list[str]:
    """The end of a page."""
    return [".SH SEE ALSO", *filled(", ".join(pages))]


def entry(term: str, about: str) -> list[str]:
    """A term and what it means."""
    return [".TP", f".B {escaped(term)}", *filled(about)]


def prose(words: str | None) -> list[str]:
    """A help text of click's: paragraphs, of which those after a backspace keep their lines."""
    lines: list[str] = []
    for paragraph in (words or "").replace("\f", "").strip().split("\n\n"):
        kept = paragraph.lstrip().startswith("\b")
        inner = paragraph.replace("\b", "").strip("\n")
        lines += [".PP"] if lines else []
        lines += [".nf", *map(escaped, inner.splitlines()), ".fi"] if kept else filled(inner)
    return lines


def filled(words: str) -> list[str]:
    """Words that the reader's program breaks into lines; here only so that the page can be read as it is."""
    return [escaped(line) for line in textwrap.wrap(" ".join(words.split()), 72, break_on_hyphens=False)]


def escaped(words: str) -> str:
    """Words that roff takes for what they are."""
    safe = words.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{safe}" if safe.startswith((".", "'")) else safe


if __name__ == "__main__":
    main(Path(sys.argv[1]))
