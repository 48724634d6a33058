"""Both readers against the real daemon: what is published comes once and in order, whatever happens meanwhile."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from reading_daemon import LIMIT, CuttingProxy, Source, a_source, in_thread, number_of

import syncevents
from syncevents import Gap, Received
from synceventsd.core.positions import GapReason

Sources = Callable[..., AbstractContextManager[Source]]


@pytest.fixture
def source_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNCEVENTSD_LOGGING_FORMAT", "text")
        yield partial(a_source, tmp_path_factory.mktemp("d"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """A daemon that several tests use, each for a business of its own."""
    with a_source(tmp_path_factory.mktemp("d")) as made:
        yield made


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """The same, with tokens."""
    with a_source(tmp_path_factory.mktemp("d"), tokens=True) as made:
        yield made


_shops = itertools.count(1000)


@pytest.fixture
def shop() -> int:
    """A business that nobody has read or written for."""
    return next(_shops)


class Taker:
    """Either reader, under one face: `await take(n)` and the arguments are all that the tests need."""

    def __init__(self, next_item: Callable[[], Any]) -> None:
        self._next_item = next_item

    async def take(self, count: int = 1) -> list[Received | Gap]:
        with trio.fail_after(LIMIT):
            return [await self._next_item() for _ in range(count)]

    async def numbers(self, count: int) -> list[int]:
        return [number_of(item) for item in await self.take(count)]


@asynccontextmanager
async def by_websocket(**arguments: Any) -> AsyncIterator[Taker]:
    with trio.fail_after(LIMIT):
        async with syncevents.watch(**arguments) as feed:
            yield Taker(feed.__anext__)


@asynccontextmanager
async def by_sse(**arguments: Any) -> AsyncIterator[Taker]:
    stream = syncevents.iter_events(**arguments)
    await in_thread(stream.__enter__)
    try:
        yield Taker(partial(in_thread, next, stream))
    finally:
        stream.close()


both = pytest.mark.parametrize("reader", [by_websocket, by_sse])
Reader = Any


@both
async def test_what_is_published_after_the_block_began_comes(daemon: Source, reader: Reader, shop: int) -> None:
    async with reader(business_id=shop, replay=0, url=daemon.url) as taker:
        await in_thread(partial(daemon.publish, 3, business=shop))
        events = await taker.take(3)
    last = daemon.published
    assert [(number_of(event), event.seq) for event in events] == [(n, n) for n in range(last - 2, last + 1)]


@both
async def test_every_event_comes_once_and_in_order_across_restarts(source_of: Sources, reader: Reader) -> None:
    with source_of() as source:
        lost: list[str] = []
        async with reader(
            business_id=42, replay=0, url=source.url, on_retry=lambda reason, pause: lost.append(reason)
        ) as taker:
            taken = []
            for kill in (False, True):
                await in_thread(source.publish, 50)
                taken += await taker.numbers(25)  # and 25 are on their way when the daemon ends
                await in_thread(partial(source.restart, kill=kill))
                await in_thread(source.publish, 50)
                taken += await taker.numbers(75)
    assert taken == list(range(1, 201))
    assert lost


@both
async def test_a_position_leads_on_right_after_the_event_it_was_taken_from(
    daemon: Source, reader: Reader, shop: int
) -> None:
    daemon.publish(5, business=shop)
    async with reader(business_id=shop, url=daemon.url) as taker:
        position = (await taker.take(2))[1].position
    async with reader(business_id=shop, url=daemon.url, last_event_id=position) as taker:
        assert await taker.numbers(3) == [daemon.published - 2, daemon.published - 1, daemon.published]


@both
async def test_every_event_comes_once_and_in_order_wherever_connections_are_cut(
    daemon: Source, reader: Reader, shop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncevents.reading.retrying.CAP", 0.01)
    first = daemon.published + 1
    await in_thread(partial(daemon.publish, 400, business=shop))
    dice = random.Random(20)  # an event has some 400 bytes, the opening 600; half are closed unanswered
    with CuttingProxy(
        daemon.daemon.port, (dice.randrange(1, 9000) * dice.randrange(2) for _ in itertools.count())
    ) as proxy:
        async with reader(business_id=shop, url=proxy.url, on_retry=lambda *_: None) as taker:
            taken = await taker.numbers(400)
    assert taken == list(range(first, first + 400))
    assert proxy.cuts > 40


@both
async def test_a_gap_is_told_where_events_are_no_longer_kept(source_of: Sources, reader: Reader) -> None:
    with source_of(STORAGE_RETAIN_SECONDS="0.1") as source:
        source.publish(1)
        async with reader(business_id=42, replay=1, url=source.url) as taker:
            position = (await taker.take())[0].position
        source.publish(20)
        with trio.fail_after(LIMIT):
            while (await in_thread(source.daemon.status))["storage"]["oldest_seq"] <= 20:
                await trio.sleep(0.1)
        async with reader(business_id=42, url=source.url, last_event_id=position) as taker:
            (gap,) = await taker.take()
            await in_thread(source.publish)
            assert isinstance(gap, Gap)
            assert gap.reason == GapReason.EXPIRED.value
            (event,) = await taker.take()
            assert isinstance(event, Received)
            assert event.seq == gap.resumes_at_seq == 22


@both
async def test_a_filter_a_business_and_a_base_path_are_heeded(source_of: Sources, reader: Reader) -> None:
    with source_of() as source:
        source.daemon.stop()
        source.daemon.start(wait=False, SYNCEVENTSD_HTTP_BASE_PATH="/api/v1")
        source.publish(1, business=7)
        source.publish(1, business=None)
        source.publish(1, integration=14)
        source.publish(2)
        url = f"{source.url}/api/v1"
        async with reader(business_id=42, url=url) as taker:
            assert await taker.numbers(4) == [2, 3, 4, 5]
        async with reader(business_id=42, integration_id=13, order_ids=["order-5"], url=url) as taker:
            assert await taker.numbers(1) == [5]
        with pytest.raises(syncevents.Refused) as refused:
            async with reader(business_id=42, url=source.url):
                pass
        assert refused.value.status == 404


@both
async def test_without_the_right_token_it_ends_with_a_clear_error(guarded: Source, reader: Reader) -> None:
    for token, business, status in ((None, 42, 401), ("x", 42, 401), (guarded.token(42), 7, 403)):
        with pytest.raises(syncevents.Refused, match=f"answered {status}") as refused:
            async with reader(business_id=business, url=guarded.url, token=token):
                pass
        assert refused.value.status == status


@both
async def test_a_token_that_expires_is_replaced_and_nothing_is_missed(
    guarded: Source, reader: Reader, shop: int
) -> None:
    made: list[str] = []

    def token() -> str:
        made.append(guarded.token(shop, ttl=1.5))
        return made[-1]

    first = guarded.published + 1
    async with reader(business_id=shop, replay=0, url=guarded.url, token=token) as taker:
        taken = []
        while len(made) < 2:
            await in_thread(partial(guarded.publish, business=shop))
            taken += await taker.numbers(1)
            await trio.sleep(0.1)
    assert taken == list(range(first, guarded.published + 1))


@both
async def test_a_token_that_expires_and_is_not_replaced_ends_with_a_clear_error(
    guarded: Source, reader: Reader, shop: int
) -> None:
    with pytest.raises(syncevents.Refused, match="expired"):
        async with reader(business_id=shop, url=guarded.url, token=guarded.token(shop, ttl=1.5)) as taker:
            await taker.take()


@both
async def test_a_slow_consumer_gets_everything_without_holding_it(source_of: Sources, reader: Reader) -> None:
    with source_of(HTTP_SEND_TIMEOUT="0.5") as source:
        padding = {"data": {"text": "x" * 20_000}}
        async with reader(business_id=42, replay=0, url=source.url) as taker:
            await in_thread(partial(source.publish, 600, **padding))  # 12 MB, more than the kernel holds
            taken = await taker.numbers(1)
            await trio.sleep(1.5)  # the daemon cuts off a reader that takes nothing
            taken += await taker.numbers(599)
    assert taken == list(range(1, 601))


@contextmanager
def a_silent_server(answer: bytes, *, closes: bool = False) -> Iterator[tuple[str, threading.Event]]:
    """A server that answers once with these bytes and then says nothing more, as behind a cut cable."""
    second = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                kept.append(connection)
                if len(kept) > 1:
                    second.set()
                connection.sendall(answer)
                if closes:
                    connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", second
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(LIMIT)
        for connection in kept:
            connection.close()


async def test_a_connection_that_died_silently_is_noticed_over_sse() -> None:
    greeting = b'id: x-1\nevent: connection_established\ndata: {"message":"hi"}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (len(greeting), greeting)
    with a_silent_server(head + chunk) as (url, second):
        stream = syncevents.iter_events(url=url, timeout=0.3, on_retry=lambda reason, pause: None)
        with stream, trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(in_thread, next, stream, None)
                assert await in_thread(second.wait, LIMIT)
                stream.close()


async def test_a_connection_that_died_silently_is_noticed_over_websocket(daemon: Source) -> None:
    lost: list[str] = []
    with trio.fail_after(LIMIT):  # the daemon's own keep-alives come every 15 s only
        async with syncevents.watch(
            url=daemon.url, timeout=0.3, on_retry=lambda reason, pause: lost.append(reason)
        ) as feed:
            with trio.move_on_after(1):
                await feed.__anext__()
    assert lost[0] == "not even a keep-alive came for 0.3 s"


async def test_keep_alives_keep_a_quiet_stream_open(source_of: Sources) -> None:
    lost: list[str] = []
    with source_of(HTTP_KEEP_ALIVE="0.1") as source:
        asked = {"url": source.url, "timeout": 2.0, "on_retry": lambda reason, pause: lost.append(reason)}
        async with by_sse(**asked) as one, by_websocket(**asked) as other, trio.open_nursery() as nursery:

            async def take_one(taker: Taker) -> None:
                assert await taker.numbers(1) == [1]

            nursery.start_soon(take_one, one)
            nursery.start_soon(take_one, other)
            await trio.sleep(2.5)
            await in_thread(source.publish)
    assert lost == []


@both
async def test_a_unix_socket_is_read_as_well(source_of: Sources, reader: Reader) -> None:
    with source_of() as source:
        source.publish(2)
        source.daemon.stop()
        path = source.daemon.directory / "h"
        command = [sys.executable, "-m", "synceventsd", "run", "--socket", source.daemon.socket, "--redis-url", "none"]
        command += ["--state-dir", str(source.daemon.state), "--http", f"unix:{path}"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:  # noqa: ASYNC220
            async with reader(business_id=42, url=f"unix:{path}", on_retry=lambda *_: None) as taker:
                assert await taker.numbers(2) == [1, 2]
            process.terminate()


async def test_the_filter_can_be_changed_while_it_runs_and_holds_across_a_restart(source_of: Sources) -> None:
    with source_of() as source, trio.fail_after(LIMIT):
        async with syncevents.watch(
            business_id=42, integration_id=13, replay=0, url=source.url, on_retry=lambda *_: None
        ) as feed:
            await in_thread(source.publish)
            assert number_of(await feed.__anext__()) == 1
            await feed.set_filter(integration_id=14)
            seen = []
            while not seen or seen[-1] == 13:  # until it has come to the daemon
                await in_thread(source.publish)
                await in_thread(partial(source.publish, integration=14))
                item = await feed.__anext__()
                assert isinstance(item, Received)
                seen.append(item.integration_id)
            await in_thread(source.restart)
            await in_thread(source.publish)
            await in_thread(partial(source.publish, integration=14))
            last = source.published
            while number_of(item) != last:
                item = await feed.__anext__()
                assert isinstance(item, Received)
                assert item.integration_id == 14
            with pytest.raises(ValueError, match="event_types must not be empty"):
                await feed.set_filter(event_types=[])


async def test_being_cancelled_while_waiting_loses_nothing(daemon: Source, shop: int) -> None:
    first = daemon.published + 1
    with trio.fail_after(LIMIT):
        async with syncevents.watch(business_id=shop, replay=0, url=daemon.url) as feed:
            taken: list[int] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(in_thread, partial(daemon.publish, 300, business=shop))
                while len(taken) < 300:
                    with trio.move_on_after(0.0005):
                        taken.append(number_of(await feed.__anext__()))
    assert taken == list(range(first, first + 300))


async def test_the_blocks_own_error_leaves_as_it_is(daemon: Source) -> None:
    with trio.fail_after(LIMIT):
        with pytest.raises(KeyError, match="mine"):
            async with syncevents.watch(url=daemon.url):
                raise KeyError("mine")
        with trio.CancelScope() as scope:
            async with syncevents.watch(url=daemon.url) as feed:
                scope.cancel()
                await feed.__anext__()
        assert scope.cancelled_caught
        with pytest.raises(StopAsyncIteration):
            await feed.__anext__()


async def test_a_daemon_that_comes_later_is_waited_for(source_of: Sources) -> None:
    with source_of() as source, trio.fail_after(LIMIT):
        source.daemon.stop()
        lost = trio.Event()
        async with trio.open_nursery() as nursery:

            async def start_when_missed() -> None:
                await lost.wait()
                await in_thread(source.daemon.start)

            nursery.start_soon(start_when_missed)
            async with syncevents.watch(url=source.url, on_retry=lambda reason, pause: lost.set()):
                pass


async def test_an_async_function_may_give_the_token(guarded: Source, shop: int) -> None:
    async def token() -> str:
        await trio.lowlevel.checkpoint()
        return guarded.token(shop)

    guarded.publish(business=shop)
    with trio.fail_after(LIMIT):
        async with syncevents.watch(business_id=shop, url=guarded.url, token=token) as feed:
            assert number_of(await feed.__anext__()) == guarded.published


def test_another_thread_ends_an_iteration_that_waits(daemon: Source) -> None:
    stream = syncevents.iter_events(url=daemon.url)
    entered = threading.Event()
    items: list[Any] = []

    def read() -> None:
        with stream as events:
            entered.set()
            items.extend(events)

    thread = threading.Thread(target=read)
    thread.start()
    assert entered.wait(LIMIT)
    stream.close()
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert items == []


def test_a_caller_that_is_interrupted_while_it_waits_may_go_on_and_misses_nothing(daemon: Source, shop: int) -> None:
    def interrupt(*_: object) -> None:
        raise KeyError("mine")

    with syncevents.iter_events(business_id=shop, replay=0, url=daemon.url) as events:
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            with pytest.raises(KeyError, match="mine"):
                next(events)
        finally:
            signal.signal(signal.SIGALRM, before)
        daemon.publish(2, business=shop)
        assert [number_of(next(events)) for _ in range(2)] == [daemon.published - 1, daemon.published]


@pytest.mark.parametrize("upto", range(9, 75, 4))
def test_a_head_that_was_cut_off_is_tried_again(upto: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"
    reasons: list[str] = []

    def once(reason: str, pause: float) -> None:
        reasons.append(reason)
        raise KeyError

    with a_silent_server(head[:upto], closes=True) as (url, _), pytest.raises(KeyError):
        syncevents.iter_events(url=url, on_retry=once).__enter__()
    assert len(reasons) == 1


def test_what_is_no_event_stream_is_not_understood() -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n"
    with a_silent_server(page) as (url, _), pytest.raises(syncevents.NotUnderstood, match="is the url right"):
        syncevents.iter_events(url=url).__enter__()


def test_a_missing_extra_is_named_with_its_remedy(tmp_path: Path) -> None:
    code = "import sys; sys.modules['trio_websocket'] = None\nimport syncevents\ntry: syncevents.watch()\n"
    code += "except ImportError as e: print(e)"
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u; f = u.find_spec\n"
        "u.find_spec = lambda n, p=None: None if n == 'trio_websocket' else f(n, p)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout == "syncevents.watch needs trio and trio-websocket: pip install 'syncevents[watch]'\n"


def test_a_program_that_only_publishes_does_not_load_the_readers() -> None:
    code = "import syncevents, sys; print(sorted({'trio', 'http.client', 'wsproto', 'asyncio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout == "[]\n"
