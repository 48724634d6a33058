"""kill -9, at random and at named points: no acknowledged event is lost, none goes out twice, the order is kept."""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from tests.faults.harness import Load, a_daemon, assert_exactly_once_in_order, eventually, reading
from tests.redis_servers import BINARIES, redis_server, subscriber

SERVER = next(iter(BINARIES))
CRASHING = (sys.executable, str(Path(__file__).with_name("crashing_daemon.py")))


def rounds_of_kills(tmp_path: Path, rounds: int, seed: int) -> dict[str, int]:
    dice = random.Random(seed)
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
                daemon.start(wait=dice.random() < 0.5)
            eventually(daemon.is_ready, "the daemon is ready again")
            load.finish()
            eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
            eventually(lambda: len(reader.seen) >= load.total, "the SSE reader has everything")
            time.sleep(0.3)  # for what would come twice
        assert_exactly_once_in_order(load, channel.heard, reader)
        assert daemon.stop() == 0
        return {"rounds": rounds, "events": load.total, "lost": 0, "doubled": 0, "reconnects": reader.connections}


def test_kill_9_at_random_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    print(json.dumps(rounds_of_kills(tmp_path, rounds=8, seed=1)))


@pytest.mark.soak
def test_a_hundred_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    print(json.dumps(rounds_of_kills(tmp_path, rounds=100, seed=time.time_ns())))


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
