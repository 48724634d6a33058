"""The command `synceventsd install-units`: what it says, and when it refuses."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from synceventsd.unitfiles import Hindered, check_package, check_program, outcome, unit_files, write

_FAILED: Final = 1
_IO: Final = 74
_NO_PERMISSION: Final = 77

_WORDS: Final = {  # by what becomes of a file; the second is for --dry-run
    "new": ("wrote", "would write"),
    "replaced": ("replaced", "would replace"),
    "unchanged": ("unchanged:", "unchanged:"),
    "kept": ("kept", "would keep"),
}

_NEXT = """
Next, as root:
  systemd-sysusers
  systemctl daemon-reload
  systemctl enable --now synceventsd.socket synceventsd.service
  usermod -aG syncevents USER    # for each user whose programs publish; counts from the next login on
After an upgrade: systemctl restart synceventsd"""

_STATUSES = """\b
Exit status:
  0  written, or nothing to do             74 writing failed
  1  the files would not work              77 this user may not
  2  the command line is wrong

\b
Examples:
  sudo /opt/pipx/venvs/syncevents/bin/synceventsd install-units --dry-run
  synceventsd install-units --root ./image --program /usr/local/bin/synceventsd
"""


@click.command("install-units", epilog=_STATUSES)
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("/"),
    show_default=True,
    metavar="DIR",
    help="Write below this directory, as for an image.",
)
@click.option(
    "--program",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="What the unit starts.  [default: this program, where it is installed]",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def install_units(root: Path, program: Path | None, dry_run: bool) -> None:
    """Write the systemd units and what they need.

    For installations without a package, as with pipx. Existing units are replaced (changes belong into drop-ins:
    systemctl edit synceventsd); an existing /etc/synceventsd/synceventsd.toml stays as it is. Nothing is started.
    """
    try:
        if program is None:
            program = Path(sys.executable).parent / "synceventsd"
            check_program(program, Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve())
        else:
            check_program(program)
        check_package(root)
    except Hindered as error:
        _fail(str(error), _FAILED)
    if os.geteuid() != 0 and root.resolve() == Path("/") and not dry_run:
        _fail(f"writing to /etc takes root: sudo {sys.argv[0]} install-units; or use --root DIR", _NO_PERMISSION)
    for file in unit_files(program):
        target = root / file.path
        try:
            what = outcome(file, root)
            if what in ("new", "replaced") and not dry_run:
                write(file, root)
        except PermissionError as error:
            _fail(f"{target}: {error.strerror}", _NO_PERMISSION)
        except OSError as error:
            _fail(f"{target}: {error.strerror}", _IO)
        click.echo(f"{_WORDS[what][dry_run]} {target}")
    click.echo(_NEXT)


def _fail(line: str, status: int) -> NoReturn:
    click.echo(f"synceventsd: {line}", err=True)
    sys.exit(status)
