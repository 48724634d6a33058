"""Readers are cursors: nothing missing, nothing twice, nothing of another business, whatever their pace."""

from __future__ import annotations

import random
import sqlite3
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from attrs import define, field
from tests.events import CREATED, ROOMY, Hand, a_log, line

from synceventsd import hub as hub_module
from synceventsd.core.deliveries import Delivery, Gap
from synceventsd.core.errors import TooManyStreams
from synceventsd.core.filters import Filter
from synceventsd.core.positions import GapReason
from synceventsd.eventlog import READ_BYTES, EventLog, Slice, tail
from synceventsd.eventlog.committer import Retention
from synceventsd.eventlog.reader import Reader, Scan
from synceventsd.hub import HELD_BYTES, Hub, Subscription, Taken

EVERYBODY = Filter(None)


@asynccontextmanager
async def a_hub(directory: Path, retention: Retention = ROOMY) -> AsyncIterator[tuple[Hub, Hand]]:
    async with a_log(directory, retention=retention) as log, trio.open_nursery() as nursery:
        hub = Hub(log, 100)
        nursery.start_soon(hub.run)
        yield hub, Hand(log)
        nursery.cancel_scope.cancel()


async def collect(subscription: Subscription, last: int) -> list[int]:
    """Return the numbers of the events that are delivered until the reader is at `last`."""
    found: list[int] = []
    with trio.fail_after(30):
        while subscription.after < last:
            delivery = await subscription.next(0.05)
            assert delivery is not None
            assert delivery.gap is None
            found += [group.first + index for group, indexes in delivery.runs for index in indexes]
    return found


async def test_replay_and_live_join_without_a_gap_or_a_double(tmp_path: Path) -> None:
    async with a_hub(tmp_path) as (hub, hand), trio.open_nursery() as nursery:

        async def publish() -> None:
            for number in range(300):
                await hand.append(*[line(number)] * random.randint(1, 4))

        await hand.append(*[line(0)] * 50)
        nursery.start_soon(publish)
        for _ in range(40):
            start = await hub.locate(Filter(42), None, replay=20)
            assert start is not None
            with hub.subscribe(Filter(42), start.after) as reader:
                seen = await collect(reader, hub.log.last)
                assert seen == list(range(start.after + 1, reader.after + 1))


async def test_readers_of_many_paces_all_see_everything_of_theirs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "MAX_GROUPS", 5)  # so that the slow ones fall out of the tail and read from the disk
    business_of = [random.Random(1).choice([None, 1, 2, 3]) for _ in range(600)]
    async with a_hub(tmp_path) as (hub, hand), trio.open_nursery() as nursery:
        results: dict[tuple[int | None, float], list[int]] = {}

        async def read(business: int | None, pause: float) -> None:
            seen = results[business, pause] = []
            with hub.subscribe(Filter(business), 0) as reader, trio.fail_after(60):
                while reader.after < 600:
                    delivery = await reader.next(0.5)
                    assert delivery is not None
                    seen += [group.first + index for group, indexes in delivery.runs for index in indexes]
                    await trio.sleep(pause)

        for business in (None, 1, 2, 3, 9):
            for pause in (0.0, 0.03):
                nursery.start_soon(read, business, pause)
        for number, business in enumerate(business_of):
            await hand.append(line(number, business=business))
    for (reader_business, _), seen in results.items():
        wanted = [
            seq for seq, b in enumerate(business_of, 1) if reader_business is None or b in (None, reader_business)
        ]
        assert seen == wanted


async def test_a_reader_that_nothing_concerns_is_not_woken_and_still_moves_on(tmp_path: Path) -> None:
    async with a_hub(tmp_path) as (hub, hand), trio.open_nursery() as nursery:
        woken = 0

        class Watched(Subscription):
            def wake(self, before: int) -> None:
                nonlocal woken
                woken += 1
                super().wake(before)

        reader = Watched(hub, Filter(7), 0)
        delivered = []

        async def wait() -> None:
            delivered.append(await reader.next(0.3))

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked(0.05)
        for number in range(20):
            await hand.append(line(number, business=8))
        with trio.fail_after(10):
            while not delivered:
                await trio.sleep(0.01)
        assert woken == 0
        assert list(delivered[0].runs) == []
        assert delivered[0].position == hub.log.position(
            20
        )  # a quiet stream resumes where the log is, not where it began


async def test_a_reader_cancelled_while_waiting_misses_nothing_afterwards(tmp_path: Path) -> None:
    async with a_hub(tmp_path) as (hub, hand):
        with hub.subscribe(Filter(42), 0) as reader:
            seen: list[int] = []
            for number in range(200):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(hand.append, line(number))
                    with trio.move_on_after(random.random() * 0.002):
                        delivery = await reader.next(5)
                        assert delivery is not None
                        seen += [group.first + index for group, indexes in delivery.runs for index in indexes]
            seen += await collect(reader, 200)
            assert seen == list(range(1, 201))


async def test_a_reader_behind_retention_is_told_of_the_gap(tmp_path: Path) -> None:
    async with a_hub(tmp_path, Retention(2**32, 0, 7 * 86400.0)) as (hub, hand):
        await hand.append(*map(line, range(30)))
        with trio.fail_after(30):
            while hub.log.oldest <= 30:
                await trio.sleep(0.05)
        hub.log._retention.retain_bytes = 2**30  # or the next one would be gone before it is looked for
        await hand.append(line(31))
        with hub.subscribe(EVERYBODY, 3) as reader:
            delivery = await reader.next(5)
            assert delivery is not None
            assert delivery.gap == Gap(GapReason.EXPIRED, 31)
            assert await collect(reader, 31) == [31]


async def test_a_damaged_group_is_told_once_as_a_gap_and_the_rest_is_read(tmp_path: Path) -> None:
    async with a_log(tmp_path) as log:
        for start in (1, 11, 21):
            await Hand(log).append(*(line(number) for number in range(start, start + 10)))
    with sqlite3.connect(tmp_path / "events.db") as db:
        db.execute("UPDATE event_group SET crc = crc + 1 WHERE first = 11")
    db.close()
    async with a_hub(tmp_path) as (hub, _):
        for business in (None, 42):
            with hub.subscribe(Filter(business), 0) as reader:
                seen: list[object] = []
                while reader.after < 30:
                    delivery = await reader.next(5)
                    assert delivery is not None
                    seen += (
                        [delivery.gap]
                        if delivery.gap
                        else [group.first + index for group, indexes in delivery.runs for index in indexes]
                    )
                assert seen == [*range(1, 11), Gap(GapReason.DAMAGED, 21), *range(21, 31)]


async def test_a_changed_filter_holds_from_the_next_event_on(tmp_path: Path) -> None:
    async with a_hub(tmp_path) as (hub, hand):
        with hub.subscribe(Filter(42), 0) as reader:
            await hand.append(line(1, integration=1), line(2, integration=2))
            assert await collect(reader, 2) == [1, 2]
            reader.filter = reader.filter.narrowed(2, None, None)
            await hand.append(line(3, integration=1), line(4, integration=2))
            assert await collect(reader, 4) == [4]


async def test_a_closing_hub_ends_every_reader(tmp_path: Path) -> None:
    async with a_hub(tmp_path) as (hub, _), trio.open_nursery() as nursery:
        ended = []

        async def read(business: int | None) -> None:
            with hub.subscribe(Filter(business), 0) as reader:
                ended.append(await reader.next(60))

        for business in (None, 1, 2):
            nursery.start_soon(read, business)
        await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.fail_after(10):
            hub.close()
            while len(ended) < 3:
                await trio.sleep(0.01)
        assert ended == [None, None, None]


@pytest.fixture
def reading_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Have the log's reads wait: the first event is set when one has begun, the second lets all go on."""
    began, go_on = threading.Event(), threading.Event()

    def waiting(real: Callable[..., object]) -> Callable[..., object]:
        def patched(*args: object) -> object:
            began.set()
            assert go_on.wait(30)
            return real(*args)

        return patched

    monkeypatch.setattr(Reader, "groups", waiting(Reader.groups))
    yield began, go_on
    go_on.set()


async def test_a_hub_that_closes_while_a_reader_reads_ends_that_reader_too(
    tmp_path: Path, reading_waits: tuple[threading.Event, threading.Event]
) -> None:
    began, go_on = reading_waits
    async with a_log(tmp_path) as log:
        await Hand(log).append(*map(line, range(10)))
    async with a_hub(tmp_path) as (hub, _), trio.open_nursery() as nursery:
        ended = []

        async def read() -> None:
            with hub.subscribe(Filter(42, order_ids=frozenset(("nope",))), 0) as reader:
                ended.append(await reader.next(3600))

        nursery.start_soon(read)
        await trio.to_thread.run_sync(began.wait, 30)
        hub.close()
        go_on.set()
        with trio.fail_after(10):
            while not ended:
                await trio.sleep(0.01)
        assert ended == [None]


async def test_a_hub_that_closes_while_a_position_is_looked_for_gives_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(_reader: Reader, _filter: Filter, wanted: int, down_from: int, _max_bytes: int) -> Scan:
        return Scan(None, wanted, down_from)

    monkeypatch.setattr(Reader, "replay_start", endless)
    async with a_hub(tmp_path) as (hub, hand), trio.open_nursery() as nursery:
        await hand.append(line(1))
        found: list[object] = []

        async def look() -> None:
            found.append(await hub.locate(Filter(42), None, 2000))

        nursery.start_soon(look)
        await trio.sleep(0.05)
        hub.close()
        with trio.fail_after(10):
            while not found:
                await trio.sleep(0.01)
        assert found == [None]


async def test_no_more_streams_than_allowed_and_a_place_is_given_back(tmp_path: Path) -> None:
    async with a_log(tmp_path) as log:
        hub = Hub(log, 1)
        with (
            hub.subscribe(EVERYBODY, 0),
            pytest.raises(TooManyStreams, match="max_streams"),
            hub.subscribe(EVERYBODY, 0),
        ):
            pass
        with hub.subscribe(EVERYBODY, 0):
            assert hub.streams == 1
        assert hub.streams == 0


@define(eq=False)
class Ears:
    """An outlet as a socket is one: takes all, a part, or nothing, as it likes."""

    moods: random.Random
    got: list[int] = field(factory=list)
    chunks: list[bytes] = field(factory=list)

    def offer(self, delivery: Delivery) -> Taken:
        taken = self.moods.choice(list(Taken))
        if taken is not Taken.NOTHING:
            self.got += [group.first + index for group, indexes in delivery.runs for index in indexes]
            self.chunks.append(delivery.sse)
        return taken


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_the_outlets_take_each_reader_gets_everything_of_its_own_once_and_in_order(
    tmp_path: Path, seed: int
) -> None:
    moods = random.Random(seed)
    business_of = [moods.choice([None, 1, 2]) for _ in range(400)]
    async with a_hub(tmp_path) as (hub, hand), trio.open_nursery() as nursery:
        ears = {(business, number): Ears(moods) for business in (None, 1, 2, 3) for number in range(3)}

        async def read(business: int | None, ear: Ears) -> None:
            with hub.subscribe(Filter(business), 0) as reader, trio.fail_after(60):
                reader.outlet = ear
                while reader.after < 400:
                    delivery = await reader.next(0.5)
                    assert delivery is not None
                    ear.got += [group.first + index for group, indexes in delivery.runs for index in indexes]

        for (business, _), ear in ears.items():
            nursery.start_soon(read, business, ear)
        await trio.testing.wait_all_tasks_blocked(0.05)
        for number, business in enumerate(business_of):
            await hand.append(line(number, business=business))
    for (reader_business, _), ear in ears.items():
        assert ear.got == [
            seq for seq, b in enumerate(business_of, 1) if reader_business is None or b in (None, reader_business)
        ]


async def test_readers_that_each_want_something_else_hold_nobody_up_and_their_text_is_not_kept(tmp_path: Path) -> None:
    """A round over all of them is far longer than a turn, and the text of all of them far more than that of one."""
    alive: list[weakref.ref[Delivery]] = []
    most_alive = 0

    class Weak(Ears):
        def offer(self, delivery: Delivery) -> Taken:
            nonlocal most_alive
            alive.append(weakref.ref(delivery))
            most_alive = max(most_alive, sum(ref() is not None for ref in alive))
            self.got += [group.first + index for group, indexes in delivery.runs for index in indexes]
            return Taken.ALL

    async with a_hub(tmp_path) as (hub, hand), trio.open_nursery() as nursery:
        ears = [Weak(random.Random()) for _ in range(40)]

        async def read(number: int, ear: Ears) -> None:
            with hub.subscribe(Filter(42, event_types=frozenset((CREATED, f"other-{number}"))), 0) as reader:
                reader.outlet = ear
                await reader.next(30)

        for number, ear in enumerate(ears):
            nursery.start_soon(read, number, ear)
        await trio.testing.wait_all_tasks_blocked(0.05)
        hand.hand_in(*map(line, range(1000)))
        with trio.fail_after(30):
            while not any(ear.got for ear in ears):
                await trio.lowlevel.checkpoint()
            assert not all(ear.got for ear in ears), "everybody else had a turn only when all had been told"
            while any(ear.got[-1:] != [1000] for ear in ears):
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert most_alive <= 2 * len(alive) // len(ears)


async def test_readers_that_wait_for_the_same_get_the_same_bytes_and_their_tasks_sleep_on(tmp_path: Path) -> None:
    class Willing(random.Random):
        def choice(self, seq: object) -> Taken:
            return Taken.ALL

    async with a_hub(tmp_path) as (hub, hand), trio.open_nursery() as nursery:
        ears = [Ears(Willing()) for _ in range(5)]
        woken: list[object] = []

        async def read(ear: Ears) -> None:
            with hub.subscribe(Filter(42), 0) as reader:
                reader.outlet = ear
                woken.append(await reader.next(30))

        for ear in ears:
            nursery.start_soon(read, ear)
        await trio.testing.wait_all_tasks_blocked(0.05)
        for number in range(50):
            await hand.append(line(number))
        with trio.fail_after(30):
            while any(ear.got[-1:] != [50] for ear in ears):
                await trio.sleep(0.01)
        assert woken == []
        assert all(ear.got == list(range(1, 51)) for ear in ears)
        assert len({id(ear.chunks[0]) for ear in ears}) == 1
        nursery.cancel_scope.cancel()


async def test_few_keep_what_they_read_from_the_disk_and_all_get_everything_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "MAX_GROUPS", 1)
    monkeypatch.setattr(hub_module, "MOST_HELD", 2)
    async with a_hub(tmp_path) as (hub, hand):
        for number in range(1, 61):
            await hand.append(line(number, business=number % 2 + 1, data={"pad": "x" * 20_000}))
        reads = Counter[int]()
        real = EventLog.read

        async def read(log: EventLog, after: int, business: int | None = None, max_bytes: int = READ_BYTES) -> Slice:
            reads[max_bytes] += 1
            return await real(log, after, business, max_bytes)

        monkeypatch.setattr(EventLog, "read", read)
        with ExitStack() as open_, trio.fail_after(30):
            readers = [open_.enter_context(hub.subscribe(Filter(wanted), 0)) for wanted in (None, 1, 2, None)]
            seen: list[list[int]] = [[] for _ in readers]
            while any(reader.after < 60 for reader in readers):
                for reader, numbers in zip(readers, seen, strict=True):
                    if reader.after < 60:
                        delivery = await reader.next(5)
                        assert delivery is not None
                        numbers += [group.first + index for group, indexes in delivery.runs for index in indexes]
                assert sum(reader._held is not None for reader in readers) <= 2
            assert seen == [[*range(1, 61)], [*range(2, 61, 2)], [*range(1, 61, 2)], [*range(1, 61)]]
            assert reads[HELD_BYTES] < reads[READ_BYTES]
        assert not hub._holders
