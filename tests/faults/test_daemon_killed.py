"""kill -9, at random and at named points: no acknowledged event is lost, none goes out twice, the order is kept."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults.disks import Faults, fill, small_disk
from tests.faults.harness import Load, a_daemon, assert_exactly_once_in_order, assert_status_agrees, eventually, reading
from tests.redis_servers import BINARIES, redis_server, subscriber

SERVER = next(iter(BINARIES))
CRASHING = (sys.executable, str(Path(__file__).with_name("crashing_daemon.py")))


def rounds_of_kills(tmp_path: Path, rounds: int, seed: int) -> dict[str, Any]:
    dice, recoveries = random.Random(seed), []
    with redis_server(SERVER) as redis, subscriber(redis) as channel, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start()
        load = Load(daemon.socket)
        with reading(daemon) as reader:
            load.start()
            for _ in range(rounds):
                time.sleep(dice.uniform(0.05, 0.6))
                daemon.kill()
                if dice.random() < 0.3:
                    time.sleep(dice.uniform(0, 0.3))
                began, heard = time.monotonic(), len(channel.heard)
                daemon.start(wait=dice.random() < 0.5)
                if dice.random() < 0.5:  # in the other half the next one may come before it has recovered
                    eventually(lambda heard=heard: len(channel.heard) > heard, "events flow again")  # type: ignore[misc]
                    recoveries.append(time.monotonic() - began)
            eventually(daemon.is_ready, "the daemon is ready again")
            load.finish()
            eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
            eventually(lambda: len(reader.seen) >= load.total, "the SSE reader has everything")
            time.sleep(0.3)  # for what would come twice
        verdict = assert_exactly_once_in_order(load, channel.heard, reader)
        assert_status_agrees(daemon, load, reader)
        assert daemon.stop() == 0
        return {
            "seed": seed,
            "rounds": rounds,
            "events": verdict.events,
            "rejects": verdict.rejects,
            "lost": verdict.lost,
            "doubled": verdict.doubled,
            "reconnects": reader.connections,
            "longest_recovery_s": max(recoveries, default=0.0),
        }


def test_kill_9_at_random_loses_nothing_and_doubles_nothing(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell(**rounds_of_kills(tmp_path, rounds=8, seed=1))


@pytest.mark.soak
def test_a_hundred_kills_lose_nothing_and_double_nothing(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell(**rounds_of_kills(tmp_path, rounds=100, seed=time.time_ns()))


@pytest.mark.parametrize(
    "point",
    [
        "in the transaction",
        "after the commit, before the ack",
        "before the call to Redis",
        "after the call to Redis",
        "in retention",
        "in a checkpoint",
        "while sync states are saved",
    ],
)
def test_killed_at_a_named_point_loses_nothing_and_doubles_nothing(tmp_path: Path, point: str) -> None:
    settings = {"SYNCEVENTSD_STORAGE_RETAIN_SECONDS": "0.001"} if point == "in retention" else {}
    with (
        redis_server(SERVER) as redis,
        subscriber(redis) as channel,
        a_daemon(tmp_path, redis.url, program=CRASHING, settings=settings) as daemon,
    ):
        # What happens once a second or two needs no flood meanwhile.
        seldom = point in ("in retention", "in a checkpoint", "while sync states are saved")
        load = Load(daemon.socket, pause=0.02 if seldom else 0.002)
        daemon.start()
        load.start()
        eventually(lambda: load.total > 100, "events flow")
        daemon.kill()
        for nth in (1, 2) if seldom else (1, 2, 5):
            daemon.start(wait=False, CRASH_POINT=point, CRASH_AT=str(nth))
            assert daemon.wait() == -signal.SIGKILL
        daemon.start()
        load.finish()
        eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
        assert_exactly_once_in_order(load, channel.heard)
        assert daemon.stop() == 0


def test_stopped_and_continued_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    with redis_server(SERVER) as redis, subscriber(redis) as channel, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start()
        load = Load(daemon.socket)
        load.start()
        for _ in range(3):
            time.sleep(0.2)
            daemon.signal(signal.SIGSTOP)
            time.sleep(0.3)
            daemon.signal(signal.SIGCONT)
        load.finish()
        eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
        assert_exactly_once_in_order(load, channel.heard)
        assert daemon.stop() == 0


def test_restarts_under_load_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    with redis_server(SERVER) as redis, subscriber(redis) as channel, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start()
        load = Load(daemon.socket)
        with reading(daemon) as reader:
            load.start()
            for _ in range(5):
                time.sleep(0.2)
                assert daemon.stop() == 0
                daemon.start()
            load.finish()
            eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
            eventually(lambda: len(reader.seen) >= load.total, "the SSE reader has everything")
        assert_exactly_once_in_order(load, channel.heard, reader)
        assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("write", "events.db"),  # in the middle of a checkpoint
        pytest.param("sync", "events.db", marks=pytest.mark.soak),  # at its end
        pytest.param("write", "events.db-wal", marks=pytest.mark.soak),  # in the middle of a commit
        ("sync", "events.db-wal"),
    ],
)
def test_killed_in_the_middle_of_a_write_loses_nothing_and_doubles_nothing(
    tmp_path: Path, call: str, name: str
) -> None:
    faults = Faults(tmp_path)
    with redis_server(SERVER) as redis, subscriber(redis) as channel, a_daemon(tmp_path, redis.url) as daemon:
        load = Load(daemon.socket)
        load.start()
        for _ in range(3):
            daemon.start(**faults.environ)
            before = load.total
            eventually(lambda before=before: load.total > before + 50, "events flow")  # type: ignore[misc]
            faults.on(call, name, -signal.SIGKILL)
            if name == "events.db":
                daemon.signal(signal.SIGTERM)  # its last act is a checkpoint
            assert daemon.wait() == -signal.SIGKILL
            faults.off()
        daemon.start()
        load.finish()
        eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
        assert_exactly_once_in_order(load, channel.heard)
        assert set(daemon.status()["ledger_totals"]) <= {"unknown_event_type"}
        assert daemon.stop() == 0


@pytest.mark.parametrize(
    "point",
    [
        "during the shutdown, before the last writes",
        pytest.param("during the shutdown, before the log is closed", marks=pytest.mark.soak),
    ],
)
def test_killed_while_it_stops_loses_nothing_and_doubles_nothing(tmp_path: Path, point: str) -> None:
    with (
        redis_server(SERVER) as redis,
        subscriber(redis) as channel,
        a_daemon(tmp_path, redis.url, program=CRASHING) as daemon,
    ):
        daemon.start(CRASH_POINT=point, CRASH_AT="1")
        load = Load(daemon.socket)
        load.start()
        eventually(lambda: load.total > 100, "events flow")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == -signal.SIGKILL
        daemon.start()
        load.finish()
        eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
        assert_exactly_once_in_order(load, channel.heard)
        assert daemon.stop() == 0


def test_killed_while_it_salvages_a_damaged_log_the_next_start_still_has_everything(tmp_path: Path) -> None:
    with a_daemon(tmp_path, "none", program=CRASHING) as daemon:
        daemon.start()
        load = Load(daemon.socket)
        load.start()
        eventually(lambda: load.total > 2000, "events flow")
        load.finish()
        assert daemon.stop() == 0
        # All is in the database now. A checkpoint may have written it a second time, and one good copy would be found.
        file = daemon.state / "events.db"
        text = file.read_bytes()
        assert b'"id":"1/20"' in text
        file.write_bytes(text.replace(b'"id":"1/20"', b'"id":"0/20"'))
        daemon.start()
        with reading(daemon, path="/integrations/events/sse?replay=1000000"):
            eventually(lambda: "log.damaged" in daemon.log_text, "the damage is met")
        daemon.kill()
        for point, nth in [
            ("while salvaging, half done", "5"),
            ("while salvaging, complete and not in its place", "1"),
            ("while salvaging, with the damaged files half moved", "1"),
        ]:
            daemon.start(wait=False, CRASH_POINT=point, CRASH_AT=nth)
            assert daemon.wait() == -signal.SIGKILL
            if "complete" in point:  # as if it had been cut short before that
                (daemon.state / "events.db.salvaged").unlink()
        daemon.start()
        with reading(daemon, path="/integrations/events/sse?replay=1000000") as reader:
            eventually(lambda: len(reader.seen) >= load.total - 1, "everything but the broken event is there")
        names = [name for name, _ in reader.seen]
        assert sorted(names) == sorted(name for ids in load.ids().values() for name in ids if name != "1/20")
        assert {seq for _, seq in reader.seen} < set(range(1, load.total + 1))
        lost = [entry["count"] for entry in daemon.status()["ledger"] if entry["first"] is not None]
        assert lost == [1]
        assert daemon.stop() == 0


@pytest.mark.parametrize(
    "point", ["while the ballast is given up", pytest.param("while the ballast is taken", marks=pytest.mark.soak)]
)
def test_killed_while_it_handles_the_ballast_it_starts_and_has_everything(tmp_path: Path, point: str) -> None:
    with (
        small_disk(tmp_path / "state", 2**25) as disk,
        redis_server(SERVER) as redis,
        subscriber(redis) as channel,
        a_daemon(tmp_path, redis.url, program=CRASHING) as daemon,
    ):
        daemon.start(wait=False, CRASH_POINT=point, CRASH_AT="1")
        load = Load(daemon.socket)
        load.start()
        if "given up" in point:
            eventually(lambda: load.total > 100, "events flow")
            fill(disk)
        assert daemon.wait() == -signal.SIGKILL
        (disk / "filler").unlink(missing_ok=True)
        daemon.start()
        eventually(lambda: daemon.status()["storage"]["ballast_bytes"] > 0, "the ballast is there")
        load.finish()
        eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
        assert_exactly_once_in_order(load, channel.heard)
        assert daemon.stop() == 0
