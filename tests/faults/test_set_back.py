"""A log that was set back (a restored backup, a VM snapshot), with Redis and readers ahead of it."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.harness import SseReader, a_daemon, eventually, reading
from tests.faults.oracle import envelope
from tests.redis_servers import BINARIES, redis_server, subscriber

from syncevents import Publisher

SERVER = next(iter(BINARIES))


def publish(socket: str, publisher: int, count: int) -> list[str]:
    with Publisher(socket) as events:
        for number in range(count):
            events.publish_envelope(envelope(publisher, number))
        events.flush(timeout=30)
    return [f"{publisher}/{number}" for number in range(count)]


@pytest.mark.parametrize("snapshot", ["of a stopped daemon", "of a running daemon"])
def test_no_new_event_is_skipped_and_readers_get_their_gap(tmp_path: Path, snapshot: str) -> None:
    older = tmp_path / "older"
    with redis_server(SERVER) as redis, subscriber(redis) as channel, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start()
        first = publish(daemon.socket, 1, 50)
        if snapshot == "of a stopped daemon":
            assert daemon.stop() == 0
            shutil.copytree(daemon.state, older)
            daemon.start()
        else:
            shutil.copytree(daemon.state, older)
        with reading(daemon) as reader:
            lost = publish(daemon.socket, 2, 80)
            eventually(lambda: len(channel.heard) >= 130, "the channel has everything so far")
            eventually(lambda: len(reader.seen) >= 80, "the reader too")
            seen_then = reader.last_id
        assert daemon.stop() == 0
        shutil.rmtree(daemon.state)
        shutil.copytree(older, daemon.state)
        daemon.start()
        # Fewer, as many, and more than the numbers that were given out before.
        news = publish(daemon.socket, 3, 30) + publish(daemon.socket, 4, 100)
        late = SseReader(daemon.port, last_id=seen_then)
        late.start()
        eventually(lambda: len(channel.heard) >= 50 + 80 + 130, "the channel has the new events")
        eventually(lambda: len(late.seen) >= 130, "the reader has the new events")
        late.end()
        heard = [json.loads(text)["id"] for text in channel.heard]
        assert [name for name in heard if name in set(news)] == news
        assert heard[:130] == first + lost
        assert len(late.gaps) == 1
        assert late.gaps[0]["reason"] in ("log_set_back", "unknown_log")
        names = [name for name, _ in late.seen]
        assert names[-130:] == news
        assert late.gaps[0]["resumes_at_seq"] == late.seen[0][1]


@pytest.mark.soak
def test_set_back_many_times_no_new_event_is_skipped(tmp_path: Path, tell: Callable[..., None]) -> None:
    seed = time.time_ns()
    dice, older, repeats, published = random.Random(seed), tmp_path / "older", 0, 0
    with redis_server(SERVER) as redis, subscriber(redis) as channel, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start()
        for number in range(100):
            if number % 2 == 0:
                shutil.rmtree(older, ignore_errors=True)
                shutil.copytree(daemon.state, older)
            else:
                daemon.kill() if dice.random() < 0.5 else daemon.stop()
                shutil.rmtree(daemon.state)
                shutil.copytree(older, daemon.state)
                daemon.start()
            before = len(channel.heard)
            news = publish(daemon.socket, number, dice.randint(1, 300))
            last = envelope(number, len(news) - 1)
            eventually(lambda last=last: last in channel.heard[-1:], "the new events are out")  # type: ignore[misc]
            heard = [json.loads(text)["id"] for text in channel.heard[before:]]
            assert [name for name in heard if name.startswith(f"{number}/")] == news
            repeats, published = repeats + len(heard) - len(news), published + len(news)
    tell(seed=seed, rounds=50, events=published, skipped=0, repeats=repeats)


def test_a_publisher_whose_acks_the_log_has_forgotten_goes_on_as_a_new_producer(tmp_path: Path) -> None:
    older = tmp_path / "older"
    with redis_server(SERVER) as redis, subscriber(redis) as channel, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start()
        with Publisher(daemon.socket) as events:
            events.publish_envelope(envelope(1, 0))
            events.flush(timeout=30)
            eventually(lambda: len(channel.heard) == 1, "it is out")
            assert daemon.stop() == 0
            shutil.copytree(daemon.state, older)
            daemon.start()
            events.publish_envelope(envelope(1, 1))
            events.flush(timeout=30)
            eventually(lambda: len(channel.heard) == 2, "both are out")
            assert daemon.stop() == 0
            shutil.rmtree(daemon.state)
            shutil.copytree(older, daemon.state)
            daemon.start()
            for number in (2, 3):
                events.publish_envelope(envelope(1, number))
            events.flush(timeout=30)
            assert events.statistics().incidents == 1
        eventually(lambda: len(channel.heard) == 4, "all are out")
        assert [json.loads(text)["id"] for text in channel.heard] == ["1/0", "1/1", "1/2", "1/3"]
