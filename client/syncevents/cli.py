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
}


class _Program(click.Group):
    """Finds a command as the function of its name in its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return cast(click.Command, getattr(importlib.import_module(_COMMANDS[cmd_name]), cmd_name))


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def program() -> None:
    """Publish order-sync events to synceventsd, the daemon of this machine."""
