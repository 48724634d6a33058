"""The async face under trio and asyncio."""

import asyncio
import json
import logging

import pytest
import samples
import trio
from client_peer import Peer

import syncevents


def order_ids(peer: Peer) -> list[int]:
    return [int(event["data"]["order_id"]) for event in peer.events()]


def numbered(number: int) -> syncevents.SyncOrderCreated:
    return samples.order_created(order_id=str(number))


def reject_odd(line: bytes) -> tuple[str, str] | None:
    return ("invalid_event", "odd") if int(json.loads(line)["data"]["order_id"]) % 2 else None


async def publish_all_types(peer: Peer) -> None:
    async with syncevents.open_publisher(peer.path) as publisher:
        for name, make in samples.ALL.items():
            await getattr(publisher, f"publish_sync_{name}")(13, 42, make())
        await publisher.flush()
        assert publisher.statistics().acked == 6


async def publish_more_than_fits(peer: Peer) -> None:
    async with syncevents.open_publisher(peer.path, max_pending=10) as publisher:
        for number in range(500):
            await publisher.publish_sync_order_created(13, 42, numbered(number))


async def publish_rejected(peer: Peer) -> None:
    async with syncevents.open_publisher(peer.path) as publisher:
        for number in range(4):
            await publisher.publish_sync_order_created(13, 42, numbered(number))
        with pytest.raises(syncevents.Rejected) as caught:
            await publisher.flush(60)
        assert [reject.line for reject in caught.value.rejects] == [2, 4]
        with pytest.raises(TypeError, match=r"^integration_id"):
            await publisher.publish_sync_order_created("13", 42, numbered(1))
        with pytest.raises(TypeError, match=r"^data"):
            await publisher.publish_sync_started(13, 42, numbered(1))


async def fail_to_flush(peer: Peer) -> None:
    async with syncevents.open_publisher(peer.path) as publisher:
        await publisher.publish_sync_order_created(13, 42, numbered(1))
        with pytest.raises(TimeoutError, match="does synceventsd run"):
            await publisher.flush(0.01)
        peer.start()
        await publisher.flush(60)


SCENARIOS = [publish_all_types, publish_more_than_fits, publish_rejected, fail_to_flush]


@pytest.fixture(params=SCENARIOS, ids=lambda scenario: scenario.__name__)
def scenario(request: pytest.FixtureRequest, peer: Peer) -> object:
    if request.param is publish_rejected:
        peer.judge = reject_odd
    if request.param is not fail_to_flush:
        peer.start()
    return request.param


def stored(scenario: object) -> list[int] | None:
    return {publish_more_than_fits: list(range(500)), publish_rejected: [0, 2], fail_to_flush: [1]}.get(scenario)


def test_it_works_under_trio(scenario: object, peer: Peer) -> None:
    trio.run(scenario, peer)
    assert stored(scenario) is None or order_ids(peer) == stored(scenario)


def test_it_works_under_asyncio(scenario: object, peer: Peer) -> None:
    asyncio.run(scenario(peer))
    assert stored(scenario) is None or order_ids(peer) == stored(scenario)


async def test_a_cancelled_publish_under_trio_leaves_nothing_queued(peer: Peer) -> None:
    async with syncevents.open_publisher(peer.path, max_pending=1) as publisher:
        await publisher.publish_sync_order_created(13, 42, numbered(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publisher.publish_sync_order_created, 13, 42, numbered(2))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with trio.CancelScope() as scope:
            scope.cancel()
            await publisher.publish_sync_order_created(13, 42, numbered(3))
        assert publisher.statistics().pending == 1
        peer.start()
    assert order_ids(peer) == [1]


def test_a_cancelled_publish_under_asyncio_leaves_nothing_queued(peer: Peer) -> None:
    async def main() -> None:
        async with syncevents.open_publisher(peer.path, max_pending=1) as publisher:
            await publisher.publish_sync_order_created(13, 42, numbered(1))
            task = asyncio.create_task(publisher.publish_sync_order_created(13, 42, numbered(2)))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert publisher.statistics().pending == 1
            peer.start()

    asyncio.run(main())
    assert order_ids(peer) == [1]


async def test_a_cancelled_block_under_trio_still_flushes(peer: Peer) -> None:
    peer.start()
    with trio.CancelScope() as scope:
        async with syncevents.open_publisher(peer.path) as publisher:
            await publisher.publish_sync_order_created(13, 42, numbered(1))
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert order_ids(peer) == [1]


def test_a_cancelled_block_under_asyncio_still_flushes(peer: Peer) -> None:
    async def block() -> None:
        async with syncevents.open_publisher(peer.path) as publisher:
            await publisher.publish_sync_order_created(13, 42, numbered(1))
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(block())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    peer.start()
    asyncio.run(main())
    assert order_ids(peer) == [1]


async def test_the_blocks_own_error_is_the_one_that_is_seen(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    peer.judge = reject_odd
    peer.start()

    async def fail() -> None:
        async with syncevents.open_publisher(peer.path) as publisher:
            await publisher.publish_sync_order_created(13, 42, numbered(1))
            raise KeyError

    with caplog.at_level(logging.WARNING, "syncevents"), pytest.raises(KeyError):
        await fail()
    assert "1 event was rejected" in caplog.text


async def test_many_tasks_share_the_room_that_the_acks_make(peer: Peer) -> None:
    peer.start()
    async with (
        syncevents.open_publisher(peer.path, max_pending=3) as publisher,
        trio.open_nursery() as nursery,
    ):
        for number in range(100):
            nursery.start_soon(publisher.publish_sync_order_created, 13, 42, numbered(number))
    assert sorted(order_ids(peer)) == list(range(100))


async def test_publishing_outside_of_the_block_says_how_it_is_used(peer: Peer) -> None:
    publisher = syncevents.open_publisher(peer.path)
    with pytest.raises(RuntimeError, match="async with"):
        await publisher.publish_sync_failed(13, 42, samples.failed())
    async with publisher:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        await publisher.publish_sync_failed(13, 42, samples.failed())


def test_it_needs_a_running_loop(peer: Peer) -> None:
    publisher = syncevents.open_publisher(peer.path)
    entering = publisher.__aenter__()
    with pytest.raises(RuntimeError, match="no running event loop"):
        entering.send(None)


async def test_a_flush_whose_time_is_up_says_so_at_once(peer: Peer) -> None:
    async with syncevents.open_publisher(peer.path) as publisher:
        await publisher.publish_sync_failed(13, None, samples.failed())
        with pytest.raises(TimeoutError):
            await publisher.flush(-1)
        peer.start()  # so that leaving the block need not wait


async def test_who_waits_when_the_block_is_left_waits_no_longer(peer: Peer) -> None:
    ended: list[str] = []

    async def publish(publisher: syncevents.AsyncPublisher) -> None:
        with pytest.raises(RuntimeError):
            await publisher.publish_sync_failed(13, None, samples.failed())
        ended.append("publish")

    async def flush(publisher: syncevents.AsyncPublisher) -> None:
        with pytest.raises(TimeoutError):
            await publisher.flush(None)
        ended.append("flush")

    async def leave_with_waiting_tasks(nursery: trio.Nursery) -> None:
        async with syncevents.open_publisher(peer.path, max_pending=1) as publisher:
            await publisher.publish_sync_failed(13, None, samples.failed())
            nursery.start_soon(publish, publisher)
            nursery.start_soon(flush, publisher)
            await trio.testing.wait_all_tasks_blocked()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with pytest.raises(TimeoutError):
                await leave_with_waiting_tasks(nursery)
    assert sorted(ended) == ["flush", "publish"]
