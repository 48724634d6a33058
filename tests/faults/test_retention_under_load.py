"""What retention costs those who publish meanwhile. Tells figures; asserts none of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.harness import Daemon, Load, a_daemon, envelope, eventually

from syncevents import Publisher

SECONDS = 12


def latencies(daemon: Daemon) -> dict[str, float]:
    """Publish one event after another beside the load; return how long their acks took, in ms."""
    taken = []
    with Publisher(daemon.socket) as publisher:
        number, end = 0, time.monotonic() + SECONDS
        while time.monotonic() < end:
            begun = time.perf_counter()
            publisher.publish_envelope(envelope(99, number))
            publisher.flush(timeout=60)
            taken.append((time.perf_counter() - begun) * 1000)
            number += 1
    taken.sort()
    share = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
    figures = {name: round(taken[int(len(taken) * part)], 1) for name, part in share.items()}
    return {"acks": len(taken)} | figures | {"max": round(taken[-1], 1)}


@pytest.mark.soak
@pytest.mark.parametrize("retain_bytes", [2**30, 20 * 2**20], ids=["kept", "deleted"])
def test_how_long_acks_take_while_retention_deletes_or_does_not(
    tmp_path: Path, retain_bytes: int, tell: Callable[..., None]
) -> None:
    settings = {"SYNCEVENTSD_STORAGE_RETAIN_BYTES": str(retain_bytes)}
    with a_daemon(tmp_path, "none", settings=settings) as daemon:
        daemon.start()
        load = Load(daemon.socket, publishers=2, pause=0.001)
        load.start()
        eventually(lambda: load.total > 1000, "events flow")
        figures = latencies(daemon)
        status = daemon.status()
        load.finish()
        tell(**{"retain_bytes": retain_bytes, "events": load.total} | figures)
        assert (status["storage"]["oldest_seq"] > 1) == (retain_bytes < 2**30)
        assert daemon.stop() == 0
