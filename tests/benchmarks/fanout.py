"""Event streams: how many deliveries a second a burst makes, and how long an event takes at a steady rate."""

from __future__ import annotations

from attrs import frozen
from tests.benchmarks.peers import Peer
from tests.benchmarks.throughput import answer, go, role


@frozen
class Burst:
    """Deliveries a second (events times readers, from the first one published to the last one read); memory in MB."""

    rate: float
    cpu: float
    rss: float


@frozen
class Steady:
    """Milliseconds from the publish call to the reader."""

    p50: float
    p99: float
    busy: float  # share of one core that the peer takes


OURS = "/integrations/events/sse/42?replay=0"


def burst(peer: Peer, readers: int, events: int) -> Burst:
    """Publish events as fast as the peer takes them, to so many readers of the same channel."""
    path = OURS if peer.acks else "/sub"
    source = (
        ("feed", peer.socket, str(events), "1", "acks") if peer.acks else ("post", str(peer.http), "/pub", str(events))
    )
    with role("read_streams", str(peer.http), path, str(readers), str(events), "count") as ears, role(*source) as mouth:
        before = peer.cpu()
        go(ears, mouth)
        started = answer(mouth)["started"]
        found = answer(ears)
        return Burst(readers * events / (found["last"] - started), peer.cpu() - before, peer.rss())


def steady(peer: Peer, readers: int, rate: int, seconds: int) -> Steady:
    """Publish with the library at a steady rate to so many readers."""
    args = (str(peer.http), OURS, str(readers), str(rate * seconds), "times")
    with role("read_streams", *args) as ears, role("pace_client", peer.socket, str(rate), str(seconds)) as mouth:
        before = peer.cpu()
        go(ears, mouth)
        found = answer(ears)
        return Steady(found["p50"], found["p99"], (peer.cpu() - before) / seconds)
