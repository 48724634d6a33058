"""Processes of other users, for tests that run as root: what the kernel says of them is no pretence."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
STRANGER = 54321  # a uid, and a gid, that no account of this machine has
PATIENCE = 60  # seconds that a child may take; reached only when something hangs

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of other users")


@contextmanager
def a_directory_for_all() -> Iterator[Path]:
    """A directory that every user can enter; pytest's own are for this user alone."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


def let_everybody_in(directory: Path) -> None:
    """Open a directory of pytest's, and those that lead to it, to every user."""
    for place in (directory, *directory.parents):
        if (
            place.owner() == Path.home().owner()
            and place.is_relative_to(tempfile.gettempdir())
            and len(place.parts) > 2
        ):
            place.chmod(0o755)


def talk_as(
    uid: int, path: str, *lines: bytes, gid: int = NOBODY, groups: Sequence[int] = ()
) -> list[dict[str, Any]] | str:
    """Return what a process of this user is told when it sends these lines; a word if it cannot connect.

    It is socat, because a Python in root's home could not be started by anybody else.
    """
    done = subprocess.run(
        ["socat", f"-t{PATIENCE}", "-", f"UNIX-CONNECT:{path}"],
        input=b"".join(line + b"\n" for line in lines),
        capture_output=True,
        user=uid,
        group=gid,
        extra_groups=list(groups),
        cwd="/",
        timeout=PATIENCE,
    )
    if b"Permission denied" in done.stderr:
        return "not permitted"
    return [json.loads(text) for text in done.stdout.splitlines()]
