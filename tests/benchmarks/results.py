"""Figures of repeated runs: medians, ratios of pairs, and one table for people and as JSON."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import attrs
from attrs import define, field, frozen


@frozen
class Row:
    """One line: what was measured, ours, the peer's, how they compare in each pair of runs, and what was aimed at."""

    what: str
    unit: str
    ours: float
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    goal: str = ""
    met: bool | None = None


@define
class Table:
    """All rows, in the order in which they were measured; each is printed as it comes."""

    rows: list[Row] = field(factory=list)

    def add(self, row: Row) -> None:
        """Add a row and print it."""
        self.rows.append(row)
        print(_line(row), flush=True)

    def pair(
        self, what: str, unit: str, ours: Sequence[float], peer: str, theirs: Sequence[float], goal: str, met: Any
    ) -> None:
        """Add a comparison of runs that were made in turns; `met` decides by the median ratio."""
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        middle = median(ratios)
        spread = (min(ratios), max(ratios))
        self.add(Row(what, unit, median(ours), peer, median(theirs), middle, spread, goal, bool(met(middle))))

    def single(self, what: str, unit: str, ours: Sequence[float], goal: str, met: Any) -> None:
        """Add a figure that stands for itself; `met` decides by the median."""
        middle = median(ours)
        self.add(Row(what, unit, middle, goal=goal, met=bool(met(middle))))

    def save(self, path: Path) -> None:
        """Write everything as JSON, with the machine and the versions."""
        found = {"machine": machine(), "rows": [attrs.asdict(row) for row in self.rows]}
        path.write_text(json.dumps(found, indent=1))


def _line(row: Row) -> str:
    text = f"{row.what:58} {_number(row.ours):>9} {row.unit:8}"
    if row.theirs is not None and row.ratio is not None and row.spread is not None:
        text += f" {row.peer:22} {_number(row.theirs):>9}  x{row.ratio:.2f} ({row.spread[0]:.2f}-{row.spread[1]:.2f})"
    if row.goal:
        text += f"  [{row.goal}: {'met' if row.met else 'NOT met'}]"
    return text


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    found = {"cores": str(os.cpu_count()), "processor": model, "kernel": platform.release()}
    found["python"] = platform.python_version()
    for name in ("trio", "hypercorn", "quart-trio", "redis", "msgspec", "sse-starlette", "uvicorn", "uvloop"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "-"
    programs = {"redis-server": "--version", "/usr/sbin/rsyslogd": "-v", "/usr/sbin/nginx": "-v"}
    for program, option in programs.items():
        if shutil.which(program):
            done = subprocess.run([program, option], capture_output=True, text=True, check=False)
            found[Path(program).name] = (done.stdout or done.stderr).splitlines()[0].strip()
    return found
