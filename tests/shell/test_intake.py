"""The socket: numbering, acknowledgements and refusals, as a publisher sees them."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.events import Hand, a_log, line
from trio.testing import MockClock, wait_all_tasks_blocked

from syncevents.wire import LineSplitter
from synceventsd import intake as intake_module
from synceventsd.admission import Peer
from synceventsd.config import IngestConfig
from synceventsd.core.ahead import SPLIT_BYTES, Ahead
from synceventsd.core.errors import StorageUnavailable
from synceventsd.eventlog import EventLog, Lot, ProducerState
from synceventsd.eventlog.commits import Commit
from synceventsd.eventlog.committer import Committer
from synceventsd.eventlog.lots import LINE_OVERHEAD
from synceventsd.eventlog.schema import FILE_NAME
from synceventsd.eventlog.store import Store
from synceventsd.intake import Intake
from synceventsd.publisher import ACK_REST, MAX_UNSENT_REJECTS, Connection

PRODUCER = "6f1c8f0e-1f7c-4d3e-9a57-0f4b3f6d2a11"


@define
class Running:
    """An intake on a socket, with what a test wants to look at."""

    log: EventLog
    intake: Intake
    path: str
    stop: trio.Event
    opened: list[trio.SocketStream] = field(factory=list)

    async def connect(self) -> Publisher:
        stream = await trio.open_unix_socket(self.path)
        self.opened.append(stream)
        return Publisher(stream)


@define
class Publisher:
    """A connection of a publisher; every wait has a deadline, because a test must not hang."""

    stream: trio.SocketStream
    buffer: bytes = b""

    async def send(self, *lines: bytes) -> None:
        await self.stream.send_all(b"".join(text + b"\n" for text in lines))

    async def hello(self, acked: int = 0, producer: str = PRODUCER, **more: Any) -> dict[str, Any]:
        await self.send(
            json.dumps({"hello": {"v": 1, "producer": producer, "client": "test/1", "acked": acked} | more}).encode()
        )
        return await self.told()

    async def told(self) -> Any:
        """Return the next line from the daemon, or None at the end."""
        with trio.fail_after(20):
            while b"\n" not in self.buffer:
                data = await self.stream.receive_some(65536)
                if not data:
                    assert self.buffer == b""
                    return None
                self.buffer += data
        text, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(text)

    async def told_until_ack(self, number: int) -> list[dict[str, Any]]:
        """Return what is told up to the ack that covers line `number`."""
        found: list[dict[str, Any]] = []
        while not found or found[-1].get("ack", 0) < number:
            found.append(await self.told())
        return found

    async def told_to_the_end(self) -> list[dict[str, Any]]:
        found = []
        while (message := await self.told()) is not None:
            found.append(message)
        return found


@asynccontextmanager
async def an_intake(directory: Path, **settings_: Any) -> AsyncIterator[Running]:
    path = str(directory / "s")
    async with a_log(directory / "state") as log:
        intake = Intake(log, IngestConfig(**settings_))
        stop = trio.Event()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(2000)
        async with trio.open_nursery() as nursery:
            await nursery.start(intake.serve, listener, stop)
            running = Running(log, intake, path, stop)
            try:
                yield running
            finally:
                for stream in running.opened:
                    stream.socket.close()
            stop.set()
            nursery.cancel_scope.deadline = trio.current_time() + 10
        os.unlink(path)


async def test_an_anonymous_publisher_pastes_lines_and_reads_acks(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as running:
        publisher = await running.connect()
        await publisher.stream.send_all(b"\n\r\n" + line(1) + b"\r\n\n" + line(2))
        await publisher.stream.send_eof()
        told = await publisher.told_to_the_end()
        assert told[-1] == {"ack": 2}
        assert running.log.last == 2


async def test_a_reject_names_the_line_and_comes_before_the_ack_that_covers_it(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as running:
        publisher = await running.connect()
        await publisher.send(line(1), b"rubbish", line(3, integration=-1), line(4, event_type="x.y"), line(5))
        told = await publisher.told_until_ack(5)
        rejects = [(m["reject"], m["code"], m["id"]) for m in told if "reject" in m]
        assert rejects == [
            (2, "invalid_json", None),
            (3, "invalid_event", "event-3"),
            (4, "unknown_event_type", "event-4"),
        ]
        acked = 0
        for message in told:
            if "ack" in message:
                acked = message["ack"]
            else:
                assert message["reject"] > acked


async def test_a_producer_goes_on_after_what_was_dealt_with(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as running:
        first = await running.connect()
        assert (await first.hello())["welcome"] == {
            "v": 1,
            "server": "synceventsd/0.1.0",
            "accepted": 0,
            "max_frame": 262144,
        }
        await first.send(line(1), line(2), b"rubbish")
        await first.told_until_ack(3)
        await first.stream.aclose()
        second = await running.connect()
        assert (await second.hello(acked=1))["welcome"]["accepted"] == 3
        assert (await second.told())["reject"] == 3  # told again: it lies above what the client had seen acknowledged
        await second.send(line(4))
        assert await second.told() == {"ack": 4}
        assert running.log.last == 3


async def test_a_line_torn_by_a_cut_connection_is_not_counted_for_a_producer(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as running:
        first = await running.connect()
        await first.hello()
        await first.stream.send_all(line(1) + b"\n" + line(2)[:30])
        await first.stream.send_eof()
        assert await first.told_to_the_end() == [{"ack": 1}]
        second = await running.connect()
        assert (await second.hello())["welcome"]["accepted"] == 1
        await second.stream.send_all(line(2))  # whole, but for the newline: that one counts
        await second.stream.send_eof()
        assert await second.told_to_the_end() == [{"ack": 2}]


async def test_many_publishers_have_little_more_checked_than_one_between_two_turns_of_everybody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_in, hand_in = 0, Committer.hand_in

    def counting(committer: Committer, lot: Lot) -> None:
        nonlocal handed_in
        handed_in += len(lot.lines)
        hand_in(committer, lot)

    monkeypatch.setattr(Committer, "hand_in", counting)
    text = line(1, data={"order_id": "x" * 1000})
    most = 0
    async with an_intake(tmp_path) as running, trio.open_nursery() as nursery:
        for _ in range(8):
            publisher = await running.connect()
            nursery.start_soon(publisher.send, *[text] * 1000)
        with trio.fail_after(20):
            while (before := handed_in) < 8 * 1000:
                await trio.lowlevel.checkpoint()
                most = max(most, handed_in - before)
    # The last piece goes beyond, and each may have had its turn before one look and after another.
    assert most <= 2 * 8 * (intake_module.LINES_AT_ONCE // 8 + SPLIT_BYTES // len(text))


async def test_many_who_wait_for_room_at_once_fill_it_no_further_than_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, hand_in, room = 0, Committer.hand_in, 200_000

    def weighing(committer: Committer, lot: Lot) -> None:
        nonlocal most
        hand_in(committer, lot)
        most = max(most, committer.pending_bytes)

    monkeypatch.setattr(Committer, "hand_in", weighing)
    monkeypatch.setattr("synceventsd.eventlog.committer.MAX_PENDING_BYTES", room)
    text = line(1, data={"order_id": "x" * 1000})
    async with an_intake(tmp_path) as running, trio.open_nursery() as nursery:

        async def publish() -> None:
            publisher = await running.connect()
            nursery.start_soon(publisher.send, *[text] * 300)
            await publisher.told_until_ack(300)

        with trio.fail_after(20):
            async with trio.open_nursery() as publishers:
                for _ in range(30):
                    publishers.start_soon(publish)
    cost = len(text) + LINE_OVERHEAD
    assert most <= room + (SPLIT_BYTES // len(text) + 1) * cost + 30 * cost  # a first line is taken at once


async def test_an_odd_line_among_others_changes_nothing_of_them_nor_of_their_numbers(tmp_path: Path) -> None:
    spaced = line(7).replace(b'{"id"', b'{ "id"')
    lines = [line(n) for n in range(1, 101)]
    for place, text in (
        (3, b"rubbish"),
        (30, spaced),
        (31, b"{}"),
        (32, spaced),
        *((n, spaced) for n in range(60, 100)),
    ):
        lines[place] = text
    async with an_intake(tmp_path) as running:
        publisher = await running.connect()
        await publisher.send(*lines)
        told = await publisher.told_until_ack(100)
        assert [message["reject"] for message in told if "reject" in message] == [4, 32]
        found = await running.log.read(0)
        stored = [text for group in found.groups for text in group.lines]
        assert stored == [text for text in lines if text not in (b"rubbish", b"{}")]


async def test_a_newer_connection_takes_over_and_nothing_of_the_older_one_comes_after_its_welcome(
    tmp_path: Path,
) -> None:
    async with an_intake(tmp_path) as running:
        numbers = 0
        older = await running.connect()
        await older.hello()
        for _ in range(20):
            await older.send(*(line(n) for n in range(50)))
            newer = await running.connect()
            accepted = (await newer.hello())["welcome"]["accepted"]
            assert numbers <= accepted <= numbers + 50
            numbers = accepted
            told = await older.told_to_the_end()
            assert told[-1]["code"] == "producer_in_use"
            assert max([m["ack"] for m in told if "ack" in m], default=0) <= accepted
            older = newer
        assert running.log.last == numbers


async def test_a_producer_of_another_user_is_refused_and_its_owner_stays(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as running:
        await Hand(running.log, producer=PRODUCER, uid=os.getuid() + 1).append(line(1))
        publisher = await running.connect()
        assert (await publisher.hello())["code"] == "forbidden"
        assert await publisher.told() is None


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (b'{"hello":{"v":2,"producer":"%b"}}' % PRODUCER.encode(), "unsupported_version"),
        (b'{"hello":{"v":1,"producer":"me"}}', "bad_hello"),
        (b'{"hello":{"v":1}}', "bad_hello"),
        (b'{"hello":{"v":true,"producer":"%b"}}' % PRODUCER.encode(), "bad_hello"),
        (b'{"hello":{"v":1,"producer":"%b","acked":-1}}' % PRODUCER.encode(), "bad_hello"),
        (b'{"hello":1}', "bad_hello"),
    ],
)
async def test_a_hello_that_cannot_be_honoured_ends_the_connection(tmp_path: Path, hello: bytes, code: str) -> None:
    async with an_intake(tmp_path) as running:
        publisher = await running.connect()
        await publisher.send(hello, line(1))
        assert [m["code"] for m in await publisher.told_to_the_end()] == [code]
        assert running.log.last == 0


@pytest.mark.parametrize("named", [True, False])
async def test_a_second_hello_ends_the_connection_after_what_came_before_it(tmp_path: Path, named: bool) -> None:
    hello = b'{"hello":{"v":1,"producer":"%b"}}' % PRODUCER.encode()
    async with an_intake(tmp_path) as running:
        publisher = await running.connect()
        await publisher.send(*([hello] if named else []), line(1), line(2), hello, line(3))
        told = await publisher.told_to_the_end()
        assert {"ack": 2} in told
        assert told[-1]["code"] == "bad_hello"
        assert running.log.last == 2


async def test_a_frame_too_large_ends_the_connection_after_what_came_before_it(tmp_path: Path) -> None:
    async with an_intake(tmp_path, max_frame=1000) as running:
        publisher = await running.connect()
        await publisher.send(line(1), line(2, data={"pad": "x" * 2000}), line(3))
        told = await publisher.told_to_the_end()
        assert {"ack": 1} in told
        assert told[-1]["code"] == "frame_too_large"
        assert running.log.last == 1


async def test_more_clients_than_allowed_are_told_so_and_the_others_served(tmp_path: Path) -> None:
    async with an_intake(tmp_path, max_clients=2) as running:
        one, two = await running.connect(), await running.connect()
        for publisher in (one, two):
            await publisher.send(line(1))
            await publisher.told_until_ack(1)
        three = await running.connect()
        assert (await three.told())["code"] == "too_many_clients"
        assert await three.told() is None
        await one.send(line(2))
        await one.told_until_ack(2)
        await two.stream.aclose()
        with trio.fail_after(20):
            while True:
                four = await running.connect()
                await four.send(line(3))
                if (await four.told()).get("ack") == 1:
                    break


@pytest.mark.parametrize(
    ("users", "groups", "welcome"),
    [(("0",), (), True), (("12345",), (), False), ((), ("0",), True), (("12345",), ("54321",), False)],
)
async def test_only_listed_users_and_groups_may_publish(
    tmp_path: Path, users: tuple[str, ...], groups: tuple[str, ...], welcome: bool
) -> None:
    mine = {"0": str(os.getuid())}
    users, groups = tuple(mine.get(u, u) for u in users), tuple(str(os.getgid()) if g == "0" else g for g in groups)
    async with an_intake(tmp_path, allow_users=users, allow_groups=groups) as running:
        publisher = await running.connect()
        await publisher.send(line(1))
        told = await publisher.told()
        assert told == {"ack": 1} if welcome else told["code"] == "forbidden"


async def test_a_publisher_that_never_reads_its_acks_stalls_nobody_and_loses_nothing(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as running:
        silent, other = await running.connect(), await running.connect()
        for number in range(300):
            await silent.send(line(number))
            await other.send(line(number))
            await other.told_until_ack(number + 1)
        with trio.fail_after(20):
            await running.log.wait_beyond(599)
        assert running.log.last == 600


async def test_a_publisher_of_rubbish_that_never_reads_why_is_read_no_further(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as running:
        publisher = await running.connect()
        with trio.move_on_after(1):
            while True:
                await publisher.send(*[b"rubbish"] * 1000)
        (connection,) = running.intake._connections
        assert len(connection._rejects) < 100_000
        other = await running.connect()
        await other.send(line(1))
        assert await other.told() == {"ack": 1}


async def test_a_publisher_of_rubbish_costs_no_more_memory_than_it_sent(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as running:
        publisher = await running.connect()
        with trio.move_on_after(1):
            while True:
                await publisher.stream.send_all(b"aa\n" * 20_000)
        (connection,) = running.intake._connections
        assert connection._rejects or connection._unsettled_rejects
        assert len(connection._rejects) + connection._unsettled_rejects <= 2 * MAX_UNSENT_REJECTS
        assert len(connection.ahead._lines) <= SPLIT_BYTES


async def test_rejects_that_are_read_late_are_all_told_and_nothing_is_lost_of_what_was_read(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as running:
        publisher = await running.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publisher.stream.send_all, b"aa\n" * 60_000 + line(1) + b"\n")
            await trio.sleep(0.5)
            told = await publisher.told_until_ack(60_001)
        assert [message["reject"] for message in told if "reject" in message] == list(range(1, 60_001))
        assert running.log.last == 1


@define
class Listener:
    """Stands for a publisher's stream: notes what it is told, and when."""

    told: list[tuple[float, int]] = field(factory=list)

    async def send_all(self, data: bytes) -> None:
        self.told += [(trio.current_time(), json.loads(text)["ack"]) for text in data.splitlines()]


async def test_acks_rest_while_more_is_coming_and_who_waits_for_each_gets_it_at_once(
    autojump_clock: MockClock,
) -> None:
    stream = Listener()
    connection = Connection(stream, Ahead(LineSplitter()), Peer(1, frozenset()))  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.tell_levels)
        connection.numbered = 10
        for upto in (5, 7, 10):  # a millisecond between each two
            connection.settled(upto, ())
            await trio.sleep(0.001)
        await trio.sleep(1)
        for upto in (11, 12):
            connection.numbered = upto
            connection.settled(upto, ())
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    began = stream.told[0][0]
    assert [(round(at - began, 6), level) for at, level in stream.told] == [
        (0.0, 5),
        (ACK_REST, 10),
        (1.003, 11),
        (1.003, 12),
    ]


async def test_many_rejects_told_again_come_in_pieces_and_all_before_any_ack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty thousand of them, put into words at once, held everybody up for a quarter of a second."""
    most = 0
    real = Connection._untold

    def untold(connection: Connection) -> bytes:
        nonlocal most
        text = real(connection)
        most = max(most, text.count(b"\n"))
        return text

    monkeypatch.setattr(Connection, "_untold", untold)
    async with an_intake(tmp_path) as running:
        publisher = await running.connect()
        await publisher.hello()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publisher.stream.send_all, b"rubbish\n" * 3000)
            await publisher.told_until_ack(3000)
        again = await running.connect()
        welcome = await again.hello()
        assert welcome["welcome"]["accepted"] == 3000
        await again.send(line(1))
        told = await again.told_until_ack(3001)
        assert [message.get("reject", message.get("ack")) for message in told] == list(range(1, 3002))
        assert most < 300


async def test_a_stop_does_not_wait_for_who_takes_no_rejects_and_acknowledges_nothing_that_is_not_stored(
    tmp_path: Path,
) -> None:
    async with an_intake(tmp_path) as running:
        publisher = await running.connect()
        with trio.move_on_after(0.5):
            while True:
                await publisher.stream.send_all((b"aa\n" * 100 + line(1) + b"\n") * 100)
        running.stop.set()
        with trio.fail_after(20):
            while running.intake._connections:
                await trio.sleep(0.01)
        text = publisher.buffer
        with suppress(trio.BrokenResourceError):
            while data := await publisher.stream.receive_some():
                text += data
        acks = [message["ack"] for message in map(json.loads, text.split(b"\n")[:-1]) if "ack" in message]
        assert max(acks, default=0) // 101 <= running.log.last


async def test_a_stop_while_a_hello_is_answered_takes_none_of_its_lines_for_an_anonymous_publisher_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: EventLog, producer: str, acked: int) -> ProducerState:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    asked = trio.Event()
    async with an_intake(tmp_path) as running:
        monkeypatch.setattr(EventLog, "producer", never)
        publisher = await running.connect()
        hello = json.dumps({"hello": {"v": 1, "producer": PRODUCER}}).encode()
        await publisher.send(hello, line(1), line(2))
        await asked.wait()
        running.stop.set()
        assert await publisher.told_to_the_end() == []
        assert running.log.last == 0


async def test_a_storm_of_refused_connections_holds_few_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "LINGER", 3600.0)
    monkeypatch.setattr(intake_module, "MAX_LINGERING", 5)
    async with an_intake(tmp_path, max_clients=1) as running:
        await (await running.connect()).hello()
        refused = [await running.connect() for _ in range(50)]
        for publisher in refused:
            assert (await publisher.told_to_the_end())[0]["code"] == "too_many_clients"
        gone = 0
        for publisher in refused:
            try:
                await publisher.send(line(1))
            except trio.BrokenResourceError:
                gone += 1
        assert gone == 45


async def test_a_producer_of_whom_nothing_came_is_not_remembered(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as running:
        for number in range(50):
            publisher = await running.connect()
            await publisher.hello(producer=str(uuid.UUID(int=number)))
        await publisher.send(line(1))
        await publisher.told_until_ack(1)
        await running.log.committer.wait_empty()
        with sqlite3.connect(tmp_path / "state" / FILE_NAME) as db:
            assert db.execute("SELECT id FROM producer").fetchall() == [(str(uuid.UUID(int=49)),)]
        db.close()


async def test_while_storing_fails_nothing_is_acknowledged_and_afterwards_everything_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = True
    real = Store.append

    def append(store: Store, commit: Commit) -> None:
        if broken:
            raise StorageUnavailable("SQLITE_READONLY: attempt to write a readonly database")
        real(store, commit)

    async with an_intake(tmp_path) as running:
        monkeypatch.setattr(Store, "append", append)
        publisher = await running.connect()
        await publisher.send(line(1))
        with trio.fail_after(20):
            while running.log.committer.failing is None:
                await trio.sleep(0.001)
        await publisher.send(line(2))
        broken = False
        assert (await publisher.told_until_ack(2))[-1] == {"ack": 2}
        assert running.log.last == 2


async def test_a_stop_stores_and_acknowledges_what_was_read(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as running:
        publishers = [await running.connect() for _ in range(8)]
        for publisher in publishers:
            await publisher.send(*(line(n) for n in range(400)))
        acked = (await publishers[0].told())["ack"]
        running.stop.set()
        for publisher in publishers:
            told = await publisher.told_to_the_end()
            if told:
                acked += told[-1]["ack"] - (acked if publisher is publishers[0] else 0)
        assert acked == running.log.last


async def test_a_stop_in_the_middle_of_what_was_read_at_once_loses_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read brings more lines than are handed in at once; all of them were read, so all are stored."""
    monkeypatch.setattr(intake_module, "LINES_AT_ONCE", 1)
    async with an_intake(tmp_path) as running:
        publisher = await running.connect()
        lines = [line(number) for number in range(900)]
        text = b"".join(one + b"\n" for one in lines)
        assert len(text) < 200_000  # so that it is there at once
        publisher.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        await publisher.stream.send_all(text)
        while not running.log.committer._pending and not running.log.committer._in_flight:
            await trio.lowlevel.checkpoint()
        running.stop.set()
        told = await publisher.told_to_the_end()
        assert told[-1]["ack"] == running.log.last == 900


async def test_who_waits_for_lines_that_a_takeover_dropped_waits_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with an_intake(tmp_path) as running, trio.open_nursery() as nursery:
        committer = running.log.committer

        async def nothing(_: Committer) -> None:
            """It does not get to what is pending."""

        monkeypatch.setattr(Committer, "_commit_pending", nothing)
        hand = Hand(running.log, producer=PRODUCER)
        hand.hand_in(line(1))
        ended = []

        async def wait() -> None:
            await committer.wait_settled(hand)
            ended.append(True)

        nursery.start_soon(wait)
        await trio.sleep(0.05)
        assert not ended
        await committer.withdraw(PRODUCER)
        with trio.fail_after(10):
            while not ended:
                await trio.sleep(0.01)


@settings(max_examples=40, deadline=None)
@given(
    chunks=st.lists(st.integers(1, 700), max_size=30),
    pieces=st.lists(st.sampled_from([line(1), b"", b"\r", b"{}", b"nope\xff", line(2) + b"\r"]), max_size=12),
    final=st.booleans(),
)
def test_any_cut_of_the_bytes_gives_the_same_answers(chunks: list[int], pieces: list[bytes], final: bool) -> None:
    import tempfile

    async def talk() -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with an_intake(Path(directory)) as running:
                publisher = await running.connect()
                text = b"\n".join(pieces) + (b"\n" if final else b"")
                sizes = iter(chunks)
                while text:
                    size = next(sizes, len(text))
                    await publisher.stream.send_all(text[:size])
                    text = text[size:]
                await publisher.stream.send_eof()
                told = await publisher.told_to_the_end()
                counted = [piece.rstrip(b"\r") for piece in pieces]
                counted = [piece for piece in counted if piece]
                good = [number for number, piece in enumerate(counted, 1) if piece in (line(1), line(2))]
                assert [m["reject"] for m in told if "reject" in m] == [
                    n for n in range(1, len(counted) + 1) if n not in good
                ]
                assert max([m["ack"] for m in told if "ack" in m], default=0) == len(counted)
                assert running.log.last == len(good)

    trio.run(talk)


async def test_an_operator_s_request_is_answered_with_one_line_and_the_end(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as running:
        await Hand(running.log).append(*map(line, range(1, 6)))
        running.log._forwarding = True
        publisher = await running.connect()
        await publisher.send(b'{"admin":{"v":1,"retry_from":3}}', line(6), line(7))
        assert await publisher.told_to_the_end() == [{"admin": {"v": 1, "retrying": {"first": 3, "last": 5}}}]
        assert running.log.last == 5
        assert running.log.forwarded == 0
        (entry,) = running.log.ledger()
        assert (entry.reason, entry.first, entry.last, entry.count) == ("retried", 3, 5, 3)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b'{"admin":{"v":2,"retry_from":1}}', "unsupported_version"),
        (b'{"admin":{"retry_from":1}}', "bad_admin"),
        (b'{"admin":{"v":1}}', "bad_admin"),
        (b'{"admin":{"v":1,"retry_from":1,"more":1}}', "bad_admin"),
        (b'{"admin":{"v":1,"retry_from":0}}', "bad_admin"),
        (b'{"admin":{"v":1,"retry_from":1.0}}', "bad_admin"),
        (b'{"admin":{"v":1,"retry_from":"1"}}', "bad_admin"),
        (b'{"admin":{"v":1,"retry_from":true}}', "bad_admin"),
        (b'{"admin":{"v":1,"retry_from":2}}', "out_of_range"),
    ],
)
async def test_a_request_that_cannot_be_done_is_refused_and_changes_nothing(
    tmp_path: Path, request_: bytes, code: str
) -> None:
    async with an_intake(tmp_path) as running:
        await Hand(running.log).append(line(1))
        running.log._forwarding = True
        before = running.log.epochs
        publisher = await running.connect()
        await publisher.send(request_)
        (told,) = await publisher.told_to_the_end()
        assert (told["code"], set(told)) == (code, {"error", "code"})
        assert running.log.epochs == before
        assert "retried" not in running.log.ledger_totals()


async def test_nobody_else_is_obeyed_whatever_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "peer_of", lambda _: Peer(os.geteuid() + 1, frozenset((1,))))
    async with an_intake(tmp_path) as running:
        await Hand(running.log).append(line(1))
        running.log._forwarding = True
        for request in (b'{"admin":{"v":1,"retry_from":1}}', b'{"admin":{}}'):
            publisher = await running.connect()
            await publisher.send(request)
            assert [told["code"] for told in await publisher.told_to_the_end()] == ["forbidden"]
        assert "retried" not in running.log.ledger_totals()


async def test_an_envelope_may_have_a_key_admin_and_a_request_counts_only_as_the_first_line(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as running:
        odd = b'{"admin":{"v":1,"retry_from":1},' + line(1)[1:]
        for first, code in ((odd, None), (b'{"admin":1}', "invalid_event"), (b'{"admin":{', "invalid_json")):
            publisher = await running.connect()
            await publisher.send(first, b'{"admin":{"v":1,"retry_from":1}}')
            told = await publisher.told_until_ack(2)
            codes = [message["code"] for message in told if "reject" in message]
            assert codes == ([code] if code else []) + ["invalid_event"]
        assert await everything_of(running.log) == [odd]


async def everything_of(log: EventLog) -> list[bytes]:
    return [text for group in (await log.read(0)).groups for text in group.lines]
