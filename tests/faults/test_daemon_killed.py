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
        load = Load(daemon.socket)
        daemon.start()
        load.start()
        eventually(lambda: load.total > 100, "events flow")
        daemon.kill()
        for nth in (1, 2, 5):
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
