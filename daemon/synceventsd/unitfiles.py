"""The files by which systemd runs the daemon, for machines without the package: what is written where.

Rule of this file: the units are those of `systemd/`, which the wheel carries as `units/`; only the program's path in
them is filled in. The settings file is the administrator's: what is there stays.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from attrs import frozen

from synceventsd.config.template import template

_PACKAGED: Final = "/usr/bin/synceventsd"
_PACKAGE_UNITS: Final = ("usr/lib/systemd/system", "lib/systemd/system")
# ProtectHome= and PrivateTmp= of the service show it empty directories there.
_UNSEEN: Final = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108 - named, not used
_NO_PLAIN_WORD: Final = frozenset(" \t\"'\\%$;")

Outcome = Literal["new", "replaced", "unchanged", "kept"]


class Hindered(Exception):
    """The files would not work, or may not be written. Reader: do what the sentence says."""


@frozen
class UnitFile:
    """One file: its path below the root, its text, and whether one that is there stays."""

    path: str
    text: str
    keep: bool = False


def unit_files(program: Path) -> tuple[UnitFile, ...]:
    """The files for a daemon that is started as `program`."""
    units = files("synceventsd") / "units"
    service = (units / "synceventsd.service").read_text()
    return (
        UnitFile("etc/systemd/system/synceventsd.service", service.replace(_PACKAGED, str(program))),
        UnitFile("etc/systemd/system/synceventsd.socket", (units / "synceventsd.socket").read_text()),
        UnitFile("etc/sysusers.d/synceventsd.conf", (units / "synceventsd.sysusers").read_text()),
        UnitFile("etc/synceventsd/synceventsd.toml", template(), keep=True),
    )


def check_program(program: Path, *places: Path) -> None:
    """Raise `Hindered` unless systemd can start `program`; `places` are where more of it lies, such as its Python."""
    if not program.is_absolute() or not _NO_PLAIN_WORD.isdisjoint(str(program)):
        raise Hindered(f"{program}: a unit wants an absolute path without blanks, quotes, %, $, ; and backslashes")
    for place in (program, *places):
        unseen = next((directory for directory in _UNSEEN if place.is_relative_to(directory)), None)
        if unseen is not None:
            raise Hindered(
                f"{place}: the service sees nothing below {unseen}; install the program elsewhere, for example with "
                "PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install 'syncevents[daemon]'"
            )


def check_package(root: Path) -> None:
    """Raise `Hindered` where the Debian package is installed: units in /etc would hide its own."""
    for directory in _PACKAGE_UNITS:
        unit = root / directory / "synceventsd.service"
        if unit.exists():
            raise Hindered(f"{unit} is there: the package brings its own units, which these would hide")


def outcome(file: UnitFile, root: Path) -> Outcome:
    """What `write` would do with this file. Raises OSError."""
    target = root / file.path
    if not target.exists():
        return "new"
    if file.keep:
        return "kept"
    return "unchanged" if target.read_text(errors="replace") == file.text else "replaced"


def write(file: UnitFile, root: Path) -> None:
    """Write a file whose outcome is "new" or "replaced", as a whole or not at all. Raises OSError."""
    target = root / file.path
    for directory in reversed([target.parent, *target.parent.parents]):
        if not directory.exists():
            directory.mkdir()
            directory.chmod(0o755)  # whatever the umask is, the daemon's user has to get at its settings
    fresh = target.with_name(f".{target.name}.new")
    fresh.write_text(file.text)
    fresh.chmod(0o644)
    os.replace(fresh, target)
