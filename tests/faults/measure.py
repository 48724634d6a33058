"""What a process costs: its memory and its descriptors, as the kernel counts them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final


def rss_mb(pid: int) -> float:
    """Return the resident memory in MB."""
    with open(f"/proc/{pid}/status") as lines:
        (found,) = (line for line in lines if line.startswith("VmRSS:"))
    return int(found.split()[1]) / 1024


# Files that the log opens when it is first read from, and a reader that is reconnecting just now.
FEW_MORE: Final = 5


def descriptors(pid: int) -> int:
    """Return how many descriptors are open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_seconds(pid: int) -> float:
    """Return the processor time used so far."""
    with open(f"/proc/{pid}/stat") as line:
        fields = line.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
