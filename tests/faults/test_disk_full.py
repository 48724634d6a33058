"""A disk that is really full: nothing is acknowledged or rejected, nothing is lost, and it goes on by itself."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.faults.disks import fill, not_ready, remount, small_disk
from tests.faults.harness import Daemon, Load, a_daemon, assert_exactly_once_in_order, envelope, eventually
from tests.redis_servers import BINARIES, redis_server, subscriber

from syncevents import Publisher

SERVER = next(iter(BINARIES))
DISK = 48 * 2**20


def test_a_disk_that_fills_up_under_load_holds_everything_up_and_loses_nothing(tmp_path: Path) -> None:
    with (
        redis_server(SERVER) as redis,
        subscriber(redis) as channel,
        small_disk(tmp_path / "state", DISK) as disk,
        a_daemon(tmp_path, redis.url) as daemon,
    ):
        daemon.start()
        ballast = daemon.status()["storage"]["ballast_bytes"]
        assert ballast >= 2**23
        assert daemon.status()["storage"]["used_bytes"] >= ballast
        load = Load(daemon.socket)
        load.start()
        eventually(lambda: load.total > 200, "events flow")
        filler = fill(disk)
        eventually(lambda: "SQLITE_FULL" in str(not_ready(daemon)), "it says why it is not ready")
        status = daemon.status()
        assert status["ready"] is False
        assert "SQLITE_FULL" in status["storage"]["failing"]
        assert set(status["events"]["rejected_by_code"]) <= {"unknown_event_type"}
        # Moving the WAL into the database may give room for some more, so the disk is filled again where one is stored.
        late = 1
        while is_answered(daemon):
            late += 1
            assert late < 10
            fill(disk)
            eventually(lambda: not_ready(daemon) is not None, "it is full again")
        filler.unlink()
        eventually(lambda: not_ready(daemon) is None, "it goes on by itself")
        load.finish()
        eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
        heard = [text for text in channel.heard if b'"late/' not in text]
        assert_exactly_once_in_order(load, heard)
        assert late - 1 <= len(channel.heard) - len(heard) <= late  # the last one may be stored, but nobody waited
        eventually(lambda: daemon.status()["storage"]["ballast_bytes"] == ballast, "the ballast is there again")
        assert daemon.stop() == 0
        outages = daemon.log_text.count("storage.failing")
        assert 1 <= outages <= 2 + late  # two lines an outage, not two a try
        assert daemon.log_text.count("storage.recovered") == outages
        assert daemon.log_text.count("storage.ballast") == 2 * outages


def is_answered(daemon: Daemon) -> bool:
    """Publish an event; return whether it is answered within half a second."""
    with socket.socket(socket.AF_UNIX) as publisher:
        publisher.connect(daemon.socket)
        publisher.sendall(envelope(9, 1).replace(b'"9/1"', b'"late/1"') + b"\n")
        publisher.settimeout(0.5)
        try:
            return publisher.recv(1000) != b""
        except TimeoutError:
            return False


def test_retention_goes_on_in_the_ballast_s_room_on_a_full_disk(tmp_path: Path) -> None:
    settings = {"SYNCEVENTSD_STORAGE_RETAIN_SECONDS": "3"}
    with (
        redis_server(SERVER) as redis,
        small_disk(tmp_path / "state", DISK) as disk,
        a_daemon(tmp_path, redis.url, settings=settings) as daemon,
    ):
        daemon.start()
        load = Load(daemon.socket)
        load.start()
        # Stored, not only published: else there may be nothing that retention could delete.
        eventually(lambda: daemon.status()["events"]["accepted"] > 300, "events flow")
        fill(disk)
        eventually(lambda: "SQLITE_FULL" in str(not_ready(daemon)), "the disk is full")
        stored = daemon.status()["events"]["accepted"]
        # What was kept for replay is deleted when its time comes, and what the log gave up is what it goes on in.
        eventually(lambda: daemon.status()["storage"]["oldest_seq"] > 1, "retention works")
        eventually(lambda: daemon.status()["events"]["accepted"] >= stored, "nothing went back")
        (disk / "filler").unlink()
        load.finish()
        assert daemon.stop() == 0


def test_redis_down_and_the_disk_full_keeps_what_was_accepted_for_redis(tmp_path: Path) -> None:
    with (
        redis_server(SERVER) as redis,
        small_disk(tmp_path / "state", DISK) as disk,
        a_daemon(tmp_path, redis.url) as daemon,
    ):
        redis.stop()
        daemon.start()
        load = Load(daemon.socket)
        load.start()
        eventually(lambda: load.total > 200, "events flow")
        filler = fill(disk)
        eventually(lambda: not_ready(daemon) is not None, "it is not ready")
        daemon.kill()
        redis.start()
        with subscriber(redis) as channel:
            daemon.start(wait=False)
            waits_or_exits_saying_why(daemon)
            filler.unlink()
            if daemon.process is None:
                daemon.start()
            load.finish()
            eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
            assert_exactly_once_in_order(load, channel.heard)
        assert daemon.stop() == 0


def waits_or_exits_saying_why(daemon: Daemon) -> None:
    """A start on a full disk: the ballast may be enough for it, else it exits and says that another try may help."""

    def settled() -> bool:
        assert daemon.process is not None
        return daemon.process.poll() is not None or is_up(daemon)

    eventually(settled, "it is up or gone")
    assert daemon.process is not None
    if daemon.process.poll() is not None:
        assert daemon.wait() == 75
        assert "the log cannot be opened" in daemon.log_text


def is_up(daemon: Daemon) -> bool:
    try:
        return bool(daemon.get("/healthz")[0] == 200)
    except OSError:
        return False


def test_a_start_that_waits_for_the_disk_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", 2**20) as disk, a_daemon(tmp_path, "none") as daemon:
        filler = fill(disk)
        daemon.start(wait=False)
        eventually(lambda: "storage.cannot_open" in daemon.log_text, "it says what is wrong")
        filler.unlink()
        eventually(daemon.is_ready, "it starts")
        with Publisher(daemon.socket) as events:
            events.publish_envelope(envelope(1, 1))
            events.flush(timeout=30)
        assert daemon.stop() == 0


def test_a_start_on_a_read_only_file_system_exits_with_a_status_that_asks_for_another_try(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", 2**24) as disk, a_daemon(tmp_path, "none") as daemon:
        daemon.start()
        with Publisher(daemon.socket) as events:
            events.publish_envelope(envelope(1, 1))
        assert daemon.stop() == 0
        remount(disk, "ro")
        daemon.start(wait=False)
        assert daemon.wait() == 75
        assert "Read-only file system" in daemon.log_text
        remount(disk, "rw")
        daemon.start()
        assert daemon.status()["events"]["accepted"] == 1
        assert daemon.stop() == 0
