"""Socket to Redis channel: how many events a second come out of a peer that is fed as fast as it takes them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from attrs import frozen
from tests.benchmarks.peers import Peer
from tests.redis_servers import CHANNEL, RedisServer


@frozen
class Flow:
    """What one run gave; rates in events a second, `cpu` in microseconds of the peer an event."""

    rate: float
    acked: float | None
    cpu: float
    rss: float


@contextmanager
def role(*args: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process of load.py and wait until it is ready."""
    command = [sys.executable, "-m", "tests.benchmarks.load", *args]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n", args
        yield child
    finally:
        child.kill()
        child.communicate()


def go(*children: subprocess.Popen[str]) -> None:
    """Start what is ready."""
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()


def answer(child: subprocess.Popen[str]) -> Any:
    """Return what a role found."""
    assert child.stdout is not None
    return json.loads(child.stdout.readline())


@contextmanager
def roles(*commands: Sequence[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start several roles."""
    if not commands:
        yield []
        return
    with role(*commands[0]) as first, roles(*commands[1:]) as others:
        yield [first, *others]


def measure(peer: Peer, redis: RedisServer, publishers: int, count: int) -> Flow:
    """Feed `count` events from so many processes and count them where a Redis subscriber sees them."""
    each = count // publishers
    acks = "acks" if peer.acks else "plain"
    feeds = [("feed", peer.socket, str(each), str(1 + each * index), acks) for index in range(publishers)]
    with role("hear", str(redis.port), CHANNEL, str(each * publishers)) as ear, roles(*feeds) as feeders:
        before = peer.cpu()
        go(ear, *feeders)
        heard = answer(ear)
        sent = [answer(feeder) for feeder in feeders]
        cpu = peer.cpu() - before
        assert heard["heard"] == each * publishers, f"{peer.name} lost events: {heard}"
    started = min(found["started"] for found in sent)
    acked = max((found["acked"] or 0.0) for found in sent)
    total = each * publishers
    return Flow(
        total / (heard["last"] - started), total / (acked - started) if acked else None, cpu / total * 1e6, peer.rss()
    )
