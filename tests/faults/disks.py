"""Disks that are full, read-only or broken: a small tmpfs where this machine lets us mount one, and a shim in C.

Where the means are missing the test says so and is skipped: a tmpfs wants root, the shim a C compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from attrs import define

SOURCE = Path(__file__).with_name("disk_faults.c")


def missing(what: str) -> None:
    """Say loudly that a fault cannot be injected here, and skip the test."""
    warnings.simplefilter("default")
    warnings.warn(f"NOT TESTED: {what}", stacklevel=2)
    pytest.skip(what)


@contextmanager
def small_disk(where: Path, size: int) -> Iterator[Path]:
    """Mount a tmpfs of so many bytes at `where`."""
    where.mkdir(parents=True, exist_ok=True)
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", where], capture_output=True)
    if mount.returncode:
        missing(f"no tmpfs can be mounted here: {mount.stderr.decode().strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


def remount(where: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", where], check=True)


def fill(disk: Path) -> Path:
    """Write a file that takes all the room there is now, or let it grow; return it.

    Not what is given up meanwhile: the daemon's ballast is for the daemon.
    """
    filler = disk / "filler"
    room = os.statvfs(disk)
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        for _ in range(room.f_bavail * room.f_frsize // 4096):
            file.write(b"x" * 4096)
    return filler


@cache
def shim() -> str:
    """Compile the shim once."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        missing("no C compiler here, so no disk errors can be injected (apt-get install gcc libc6-dev)")
    target = Path(tempfile.mkdtemp(prefix="synceventsd-shim-")) / "disk_faults.so"
    subprocess.run([str(compiler), "-shared", "-fPIC", "-O1", "-w", "-o", target, SOURCE, "-ldl"], check=True)
    return str(target)


@define(eq=False)
class Faults:
    """The switch of the shim."""

    directory: Path

    @property
    def environ(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": shim(),
            "DISK_FAULTS": str(self.directory / "faults"),
            "DISK_TRACE": str(self.directory / "trace"),
        }

    def on(self, call: str, name: str, number: int, *, once: bool = False) -> None:
        text = f"{call} {name} {number}" + (" once" if once else "")
        (self.directory / "faults.new").write_text(text)
        os.replace(self.directory / "faults.new", self.directory / "faults")

    def off(self) -> None:
        (self.directory / "faults").unlink(missing_ok=True)

    def hit(self) -> bool:
        return any(line.startswith("fault ") for line in self.trace())

    def trace(self) -> list[str]:
        file = self.directory / "trace"
        return file.read_text().splitlines() if file.exists() else []


def not_ready(daemon: Any) -> str | None:
    """Return why the daemon is not ready, None when it is."""
    status, answer = daemon.get("/readyz")
    return None if status == 200 else str(answer["message"])
