"""The commands of the program `syncevents`.

Rule of this file: a command is imported when it is called, because some need extras beyond `[cli]`; each says which.
"""

import importlib
from typing import Final, cast

import click

from syncevents._version import __version__

_COMMANDS: Final = {
    "demo": "syncevents.demo.command",
    "publish": "syncevents.publish_command",
    "sync-status": "syncevents.sync_status_command",
    "tail": "syncevents.tail_command",
    "watch": "syncevents.watch_command",
}

_EPILOG: Final = """\b
Examples:
  syncevents tail --business 42        what happens in that shop, as it happens
  syncevents watch                     the syncs that are going on, with their progress
  syncevents sync-status 13            the latest sync of integration 13
  syncevents publish events.jsonl      hand over envelopes, and wait until they are stored
  syncevents demo                      the whole system at work, on this machine

\b
Each command's --help has its options, examples and exit statuses. Completion in bash:
  eval "$(_SYNCEVENTS_COMPLETE=bash_source syncevents)"
in ~/.bashrc; zsh_source in zsh, fish_source in fish. Colours only on a terminal, and not
with $NO_COLOR.
"""


class _Program(click.Group):
    """Finds a command as the function of its name in its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return cast(click.Command, getattr(importlib.import_module(_COMMANDS[cmd_name]), cmd_name.replace("-", "_")))


@click.group(cls=_Program, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def program() -> None:
    """Publish order-sync events to synceventsd, the daemon of this machine, and watch what comes of them."""
