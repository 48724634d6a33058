"""A disk that answers with errors: what failed is never acknowledged on the old descriptor, and nothing is lost.

The shim in `disk_faults.c` gives the errors, and writes down in which order files were opened and synced and acks sent.
"""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.faults.disks import Faults, not_ready
from tests.faults.harness import PATIENCE, Daemon, Load, a_daemon, assert_exactly_once_in_order, eventually
from tests.faults.oracle import envelope
from tests.redis_servers import BINARIES, redis_server, subscriber

from syncevents import Publisher

SERVER = next(iter(BINARIES))
CRASHING = (sys.executable, str(Path(__file__).with_name("crashing_daemon.py")))


@pytest.mark.parametrize(
    ("call", "name", "number", "reason"),
    [
        ("sync", "events.db-wal", errno.EIO, "SQLITE_IOERR_FSYNC"),
        pytest.param("sync", "events.db", errno.EIO, "SQLITE_IOERR_FSYNC", marks=pytest.mark.soak),
        pytest.param("write", "events.db-wal", errno.EIO, "SQLITE_IOERR_WRITE", marks=pytest.mark.soak),
        pytest.param("write", "events.db", errno.EIO, "SQLITE_IOERR_WRITE", marks=pytest.mark.soak),
        ("write", "events.db-wal", errno.ENOSPC, "SQLITE_FULL"),
        pytest.param("write", "events.db-wal", errno.EROFS, "SQLITE_IOERR_WRITE", marks=pytest.mark.soak),
    ],
)
def test_an_error_is_told_and_survived_and_costs_nothing(
    tmp_path: Path, call: str, name: str, number: int, reason: str
) -> None:
    faults = Faults(tmp_path)
    with (
        redis_server(SERVER) as redis,
        subscriber(redis) as channel,
        a_daemon(tmp_path, redis.url) as daemon,
    ):
        daemon.start(**faults.environ)
        load = Load(daemon.socket)
        load.start()
        eventually(lambda: load.total > 100, "events flow")
        faults.on(call, name, number)
        if name == "events.db":  # which is written in a checkpoint, and that comes when nothing else does
            load.finish()
        eventually(lambda: reason in str(not_ready(daemon)), "it says what is wrong")
        assert reason in daemon.status()["storage"]["failing"]
        faults.off()
        eventually(lambda: not_ready(daemon) is None, "it goes on by itself")
        load.finish()
        eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
        assert_exactly_once_in_order(load, channel.heard)
        assert set(daemon.status()["events"]["rejected_by_code"]) <= {"unknown_event_type"}
        daemon.kill()
        daemon.start()
        assert daemon.status()["events"]["accepted"] == load.total
        assert set(daemon.status()["ledger_totals"]) <= {"unknown_event_type"}
        assert daemon.stop() == 0


@pytest.mark.soak
def test_a_short_write_is_written_to_the_end(tmp_path: Path) -> None:
    faults = Faults(tmp_path)
    with redis_server(SERVER) as redis, subscriber(redis) as channel, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start(**faults.environ)
        load = Load(daemon.socket)
        load.start()
        eventually(lambda: load.total > 50, "events flow")
        faults.on("short", "events.db-wal", 1)
        eventually(faults.hit, "writes are short")
        seen = load.total
        eventually(lambda: load.total > seen + 50, "events flow all the same")
        load.finish()
        daemon.kill()
        faults.off()
        daemon.start()
        eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
        assert_exactly_once_in_order(load, channel.heard)
        assert daemon.stop() == 0


@pytest.mark.parametrize("name", ["events.db-wal", pytest.param("events.db", marks=pytest.mark.soak)])
def test_after_a_failed_sync_nothing_is_acknowledged_before_the_file_was_opened_and_synced_again(
    tmp_path: Path, name: str
) -> None:
    faults = Faults(tmp_path)
    with a_daemon(tmp_path, "none") as daemon:
        daemon.start(**faults.environ)
        for who in range(5):
            with publishing_one_by_one(daemon, who) as published:
                eventually(lambda published=published: len(published) > 10, "events flow")  # type: ignore[misc]
                faults.on("sync", name, errno.EIO, once=True)
                if name == "events.db-wal":
                    eventually(lambda: not (tmp_path / "faults").exists(), "a sync failed")
            eventually(lambda: not (tmp_path / "faults").exists(), "a sync failed")
        assert daemon.stop() == 0
    trace = faults.trace()
    failed = [place for place, line in enumerate(trace) if line == f"fault {name}"]
    assert len(failed) == 5
    acked_after = [place for place in failed if "ack " in trace[place:]]
    assert len(acked_after) >= 4  # the last one may have been the stop's
    for place in acked_after:
        opened = trace.index(f"open {name}", place)
        assert "ack " not in trace[place:opened]
        if "ack " in trace[opened:]:
            assert "sync events.db-wal" in trace[opened : trace.index("ack ", opened)]


@contextmanager
def publishing_one_by_one(daemon: Daemon, who: int) -> Iterator[list[int]]:
    """Publish an event, wait for its ack, and so on; so no ack can be on its way for what was synced before."""
    published: list[int] = []
    stop = threading.Event()

    def publish() -> None:
        with Publisher(daemon.socket) as publisher:
            while not stop.is_set():
                publisher.publish_envelope(envelope(who, len(published)))
                publisher.flush(PATIENCE)
                published.append(1)

    with ThreadPoolExecutor() as pool:
        work = pool.submit(publish)
        try:
            yield published
        finally:
            stop.set()
            work.result(PATIENCE)


def test_a_file_that_cannot_be_opened_again_for_a_while_is_waited_for(tmp_path: Path) -> None:
    faults = Faults(tmp_path)
    with redis_server(SERVER) as redis, subscriber(redis) as channel, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start(**faults.environ)
        load = Load(daemon.socket)
        load.start()
        eventually(lambda: load.total > 50, "events flow")
        faults.on("sync", "events.db-wal", errno.EIO)
        eventually(lambda: not_ready(daemon) is not None, "a sync failed")
        faults.on("open", "events.db", errno.EROFS)  # as after "errors=remount-ro"
        tried = len(faults.trace())
        eventually(lambda: "fault events.db" in faults.trace()[tried:], "it tries to open the file")
        eventually(lambda: not_ready(daemon) is not None, "it is not ready")
        faults.off()
        load.finish()
        eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
        assert_exactly_once_in_order(load, channel.heard)
        assert daemon.stop() == 0
