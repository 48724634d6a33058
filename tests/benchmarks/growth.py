"""What does not stay the same when the log grows, an outage ends, or nothing happens."""

from __future__ import annotations

import os
import statistics
import time
import urllib.request
from pathlib import Path
from typing import Final

from attrs import frozen
from tests.benchmarks.peers import Peer, a_redis, directory, ours
from tests.benchmarks.throughput import answer, go, measure, role
from tests.redis_servers import CHANNEL, eventually

STRETCH: Final = 16_000
ALONE: Final = 8001
BUSINESSES: Final = (7001, 7002, 7003)
ROOMY = {"STORAGE_MAX_BYTES": str(2**36), "STORAGE_RETAIN_BYTES": str(2**35)}


@frozen
class Grown:
    """A log of `stored` events: cost of the next ones (us of the daemon's processor time), start and replays (ms).

    Replays of 2,000 events that lie together, and of as many among those of seven others at the log's beginning, middle
    and end: the first time, and again.
    """

    stored: int
    cost: float
    start: float
    together: tuple[float, float]
    among: tuple[tuple[float, float], ...]


def fill(peer: Peer, count: int, first: int, businesses: str = "42") -> None:
    """Have so many events stored."""
    with role("feed", peer.socket, str(count), str(first), "acks", businesses) as feeder:
        go(feeder)
        answer(feeder)


def grown(stored: int, sample: int = 200_000) -> Grown:
    """Fill a log with `stored` events; at its beginning, middle and end a business has 2,000 among those of seven."""
    filler = (stored - 3 * STRETCH) // 2
    with directory() as home:
        state = {"state": str(home / "log")} | ROOMY
        with ours(None, **state) as peer:
            fill(peer, 2000, 1, str(ALONE))
            for business in BUSINESSES:
                fill(peer, STRETCH, 1, ",".join(map(str, (business, *range(1, 8)))))
                for portion in _portions(0 if business == BUSINESSES[-1] else filler):
                    fill(peer, portion, 1)
            costs = []
            for _ in range(5):
                before = peer.cpu()
                fill(peer, sample, 1)
                costs.append((peer.cpu() - before) / sample * 1e6)
        began = time.monotonic()
        with ours(None, **state) as peer:
            eventually(lambda: is_ready(peer), "it is ready")
            start = (time.monotonic() - began) * 1000
            among = tuple(replayed(peer, business) for business in BUSINESSES)
            return Grown(stored, statistics.median(costs), start, replayed(peer, ALONE), among)


def _portions(count: int, most: int = 500_000) -> list[int]:
    return [min(most, count - start) for start in range(0, max(count, 0), most)]


def is_ready(peer: Peer) -> bool:
    """Return whether events are accepted."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{peer.http}/readyz") as found:
            return bool(found.status == 200)
    except OSError:
        return False


def replayed(peer: Peer, business: int) -> tuple[float, float]:
    """Return how long a replay of 2,000 events takes: the first time, and the median of four more (milliseconds)."""
    taken = []
    for _ in range(5):
        with role("replay", str(peer.http), str(business), "2000") as reader:
            go(reader)
            taken.append(answer(reader)["took"])
    return taken[0], statistics.median(taken[1:])


@frozen
class Drain:
    """A backlog going out: events a second; how long new events waited for their acks meanwhile (ms)."""

    rate: float
    p50: float
    p99: float
    rss: float


def drain(count: int) -> Drain:
    """Let so many events wait for a Redis that is paused, then let them out while 1,000 a second more come."""
    with a_redis() as redis, ours(redis, **ROOMY) as peer:
        redis.pause()
        fill(peer, count, 1)
        redis.resume()
        with (
            role("hear", str(redis.port), CHANNEL, str(count)) as ear,
            role("pace_acks", peer.socket, "1000", "5") as mouth,
        ):
            # The events that went out before the pause was noticed, and until the listener came, are few.
            began = time.monotonic()
            waiting = peer.status()["waiting"]["count"]
            go(ear, mouth)
            eventually(lambda: peer.status()["waiting"]["count"] < 1000, "it is out")
            took = time.monotonic() - began
            acks = answer(mouth)
            return Drain(waiting / took, acks["p50"], acks["p99"], peer.rss())


@frozen
class Rest:
    """A daemon that has nothing to do: MB, and percent of a core over ten seconds; KB for each idle stream."""

    rss: float
    cpu: float
    stream: float


def rest(readers: int) -> Rest:
    """Let a new daemon be."""
    with a_redis() as redis, ours(redis) as peer:
        time.sleep(3)
        rss, before = peer.rss(), peer.cpu()
        time.sleep(10)
        cpu = (peer.cpu() - before) * 10
        path = "/integrations/events/sse/42?replay=0"
        with role("read_streams", str(peer.http), path, str(readers), "1", "count"):
            return Rest(rss, cpu, (peer.rss() - rss) * 1024 / readers)


def idle_readers(count: int, events: int = 100_000) -> float:
    """Return the daemon's processor time an event (us) with so many readers of another business."""
    path = "/integrations/events/sse/43?replay=0"
    with a_redis() as redis, ours(redis) as peer, role("read_streams", str(peer.http), path, str(count), "1", "count"):
        return measure(peer, redis, 1, events).cpu


def retention(events: int) -> tuple[float, float]:
    """Return the rates at which events are acknowledged without retention at work and with it."""
    rates = []
    for keep in (2**35, 64 * 2**20):
        with a_redis() as redis, ours(redis, STORAGE_RETAIN_BYTES=str(keep), STORAGE_MAX_BYTES=str(2**36)) as peer:
            fill(peer, 200_000, 1)
            rates.append(measure(peer, redis, 1, events).rate)
    return rates[0], rates[1]


def disk(path: Path) -> float:
    """Return how long this disk takes to sync 5 KB that were appended to a file, the median in milliseconds."""
    taken = []
    with (path / "probe").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(bytes(5000))
            began = time.monotonic()
            os.fdatasync(file.fileno())
            taken.append((time.monotonic() - began) * 1000)
    return statistics.median(taken)
