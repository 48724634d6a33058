"""What publishing costs the caller, and the whole client, an event; and redis-py beside it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from itertools import count

import redis
from attrs import frozen
from tests.benchmarks.load import order
from tests.benchmarks.payload import line
from tests.benchmarks.peers import Peer
from tests.redis_servers import CHANNEL, RedisServer

import syncevents


@frozen
class Cost:
    """Microseconds of processor time an event: of the calling thread, and of the whole process."""

    caller: float
    whole: float


def timed(events: int, work: Callable[[], None], settle: Callable[[], None] = lambda: None) -> Cost:
    """Run `work`, which publishes `events` events, then `settle`, which waits until they are out."""
    whole, caller = time.process_time(), time.thread_time()
    work()
    caller = time.thread_time() - caller
    settle()
    return Cost(caller / events * 1e6, (time.process_time() - whole) / events * 1e6)


def client(peer: Peer, events: int) -> Cost:
    """Publish with the data class built and validated each time, in bursts that fit into the queue."""
    numbers = count(1)

    def publish() -> None:
        for _ in range(events):
            publisher.publish_sync_order_created(13, 42, order(number := next(numbers), f"55510{number:09d}"))

    with syncevents.Publisher(peer.socket, max_pending=events + 1) as publisher:
        return timed(events, publish, lambda: publisher.flush(timeout=60))


def client_async(peer: Peer, events: int) -> Cost:
    """Do the same with the asynchronous face, under asyncio."""

    async def main() -> Cost:
        async with syncevents.open_publisher(peer.socket, max_pending=events + 1) as publisher:
            whole, caller = time.process_time(), time.thread_time()
            for number in range(events):
                await publisher.publish_sync_order_created(13, 42, order(number, f"55510{number:09d}"))
            caller = time.thread_time() - caller
            await publisher.flush(timeout=60)
            return Cost(caller / events * 1e6, (time.process_time() - whole) / events * 1e6)

    return asyncio.run(main())


def redis_loop(server: RedisServer, events: int) -> Cost:
    """Publish a ready-made payload with redis-py, one call each."""
    payload = line(1)

    def publish() -> None:
        for _ in range(events):
            connection.publish(CHANNEL, payload)

    with redis.Redis(port=server.port) as connection:
        connection.ping()
        return timed(events, publish)


def redis_pipeline(server: RedisServer, events: int, size: int = 100) -> Cost:
    """Publish a ready-made payload with redis-py, a hundred in a pipeline."""
    payload = line(1)

    def publish() -> None:
        for _ in range(events // size):
            with connection.pipeline(transaction=False) as pipeline:
                for _ in range(size):
                    pipeline.publish(CHANNEL, payload)
                pipeline.execute()

    with redis.Redis(port=server.port) as connection:
        connection.ping()
        return timed(events, publish)


def quiet() -> bool:
    """Return whether no thread of an earlier run is left, whose time would be counted."""
    return threading.active_count() == 1
