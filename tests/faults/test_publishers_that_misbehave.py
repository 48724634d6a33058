"""Publishers that send anything: the daemon answers what it must, serves the others in order, and does not grow."""

from __future__ import annotations

import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from tests.faults.bad_frames import BadFrames
from tests.faults.harness import Daemon, Load, a_daemon, envelope, eventually, reading
from tests.faults.measure import FEW_MORE, descriptors, rss_mb
from tests.redis_servers import PATIENCE

from syncevents import Publisher, wire


def connected(daemon: Daemon) -> socket.socket:
    publisher = socket.socket(socket.AF_UNIX)
    publisher.connect(daemon.socket)  # still blocking: it waits while the listen queue is full
    publisher.settimeout(PATIENCE)
    return publisher


def told(publisher: socket.socket) -> list[wire.Message]:
    """Return everything that the daemon still says; each line must be a message of the protocol."""
    text = b""
    with suppress(ConnectionResetError):
        while data := publisher.recv(65536):
            text += data
    assert text == b"" or text.endswith(b"\n")
    return [wire.parse_message(line) for line in text.splitlines()]


def pid_of(daemon: Daemon) -> int:
    assert daemon.process is not None
    return daemon.process.pid


@define(eq=False)
class Fuzzer:
    """Sends frames from one connection after the other, and leaves in one of several ways."""

    daemon: Daemon
    dice: random.Random
    frames: int = 0
    answered: int = 0  # frames on connections whose answers were read to the end, and were right
    _supply: BadFrames = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._supply = BadFrames(self.dice)

    def run(self, frames: int) -> None:
        end = self.frames + frames
        while self.frames < end:
            with connected(self.daemon) as publisher:
                self._converse(publisher)

    def _converse(self, publisher: socket.socket) -> None:
        hellos = self.dice.random() < 0.3
        lines = [self._supply.frame(hellos=hellos) for _ in range(self.dice.choice([1, 20, 200, 200]))]
        self.frames += len(lines)
        text = b"\n".join(lines)
        leaving = self.dice.choice(["read", "read", "read", "in the middle of a line", "without reading"])
        if leaving == "in the middle of a line":
            text = text[: self.dice.randrange(len(text) + 1)]
        gone = threading.Thread(target=send_all, args=(publisher, text))
        gone.start()  # beside the reading, because the daemon reads on only while its rejects are taken
        if leaving == "read":
            self._check(text, told(publisher))
        gone.join()

    def _check(self, text: bytes, answers: list[wire.Message]) -> None:
        if not any(isinstance(answer, wire.Refusal | wire.Welcome) for answer in answers):
            counted = [line for line in text.split(b"\n") if line.removesuffix(b"\r")]
            acks = [answer.line for answer in answers if isinstance(answer, wire.Ack)]
            assert acks == sorted(set(acks))
            assert max(acks, default=0) == len(counted)
            self.answered += len(counted)


def send_all(publisher: socket.socket, text: bytes) -> None:
    with suppress(OSError):  # it had enough
        publisher.sendall(text)
        publisher.shutdown(socket.SHUT_WR)


def fuzz(tmp_path: Path, frames: int, warm_up: int, seed: int) -> dict[str, Any]:
    """Send bad frames beside a healthy publisher; its events must come out in order, and the daemon not grow."""
    dice = random.Random(seed)
    with a_daemon(tmp_path, "none", settings={"SYNCEVENTSD_STORAGE_DURABILITY": "process"}) as daemon:
        daemon.start()
        load = Load(daemon.socket, publishers=1, pause=0.02)
        fuzzer = Fuzzer(daemon, dice)
        with reading(daemon) as reader:
            load.start()
            fuzzer.run(warm_up)
            before, open_before = rss_mb(pid_of(daemon)), descriptors(pid_of(daemon))
            fuzzer.run(frames - warm_up)
            after = rss_mb(pid_of(daemon))
            load.finish()

            def heard() -> list[str]:
                return [name for name, _ in list(reader.seen) if name.startswith("0/")]

            eventually(lambda: len(heard()) >= load.total, "the reader has the healthy publisher's events")
            assert heard() == load.ids()[0]
        eventually(lambda: descriptors(pid_of(daemon)) <= open_before + FEW_MORE, "descriptors are given back")
        status = daemon.status()
        assert "Traceback" not in daemon.log_text
        assert daemon.stop() == 0
        assert fuzzer.answered > frames / 20
        return {
            "seed": seed,
            "frames": fuzzer.frames,
            "checked": fuzzer.answered,
            "healthy_events_in_order": load.total,
            "rejected": status["events"]["rejected"],
            "rss_mb": {"after_warm_up": round(before, 1), "at_the_end": round(after, 1)},
        }


def test_bad_frames_hurt_nobody_and_are_answered_as_the_protocol_says(
    tmp_path: Path, tell: Callable[..., None]
) -> None:
    report = fuzz(tmp_path, frames=20_000, warm_up=5_000, seed=7)
    tell(**report)
    assert report["rss_mb"]["at_the_end"] - report["rss_mb"]["after_warm_up"] < 50


@pytest.mark.soak
def test_a_million_bad_frames_hurt_nobody(tmp_path: Path, tell: Callable[..., None]) -> None:
    report = fuzz(tmp_path, frames=1_000_000, warm_up=100_000, seed=time.time_ns())
    tell(**report)
    assert report["rss_mb"]["at_the_end"] - report["rss_mb"]["after_warm_up"] < 20


def rubbish_from(daemon: Daemon, count: int, seconds: float) -> list[socket.socket]:
    """Connect publishers that send rubbish as fast as it is taken, and never read why it is refused."""
    publishers = [connected(daemon) for _ in range(count)]
    end = time.monotonic() + seconds
    for publisher in publishers:
        publisher.setblocking(False)
    while time.monotonic() < end:
        for publisher in publishers:
            with suppress(BlockingIOError):
                publisher.send(b"aa\n" * 40_000)
        time.sleep(0.01)
    return publishers


def test_publishers_of_rubbish_that_read_nothing_cost_little_memory_and_stall_nobody(
    tmp_path: Path, tell: Callable[..., None]
) -> None:
    with a_daemon(tmp_path, "none") as daemon, ExitStack() as opened:
        daemon.start()
        before = rss_mb(pid_of(daemon))
        for publisher in rubbish_from(daemon, 30, seconds=2):
            opened.enter_context(publisher)
        publish(daemon, 500)
        most = rss_mb(pid_of(daemon))
        tell(publishers=30, rss_mb={"before": round(before), "most": round(most)})
        assert most - before < 70  # it took 145 MB when all that was read was cut into lines at once
        assert daemon.stop() == 0


def publish(daemon: Daemon, count: int) -> None:
    """Publish as a healthy client does; everything must be stored."""
    with Publisher(daemon.socket, max_pending=count) as publisher:
        for number in range(count):
            publisher.publish_envelope(envelope(0, number))
        publisher.flush(PATIENCE)


def test_a_publisher_that_never_reads_its_acks_may_send_as_many_lines_as_it_likes(tmp_path: Path) -> None:
    lines, batch = 100_000, b"".join(envelope(1, number) + b"\n" for number in range(100))
    with a_daemon(tmp_path, "none", settings={"SYNCEVENTSD_STORAGE_DURABILITY": "process"}) as daemon:
        daemon.start()
        publish(daemon, 30_000)  # what the daemon keeps in memory of the newest events is there
        before = rss_mb(pid_of(daemon))
        with connected(daemon) as publisher:
            for _ in range(lines // 100):
                publisher.sendall(batch)
            publish(daemon, 500)
            eventually(lambda: daemon.status()["events"]["accepted"] == 30_500 + lines, "all lines are stored")
            assert rss_mb(pid_of(daemon)) - before < 60
        assert daemon.stop() == 0


def test_two_connections_that_fight_for_a_producer_stall_nobody(tmp_path: Path) -> None:
    """Each hello takes the producer over; whoever is superseded is told so."""
    hello = wire.encode_hello("6f1c8f0e-1f7c-4d3e-9a57-0f4b3f6d2a11", "fighter/1", 0)
    ended = threading.Event()
    superseded = []

    def fight() -> None:
        while not ended.is_set():
            with connected(daemon) as publisher:
                publisher.sendall(hello + b"rubbish\n" * 50)
                publisher.settimeout(0.01)
                text = b""
                with suppress(TimeoutError, ConnectionError):
                    while data := publisher.recv(65536):
                        text += data
                superseded.extend([1] if b"producer_in_use" in text else [])

    with a_daemon(tmp_path, "none") as daemon:
        daemon.start()
        fighters = [threading.Thread(target=fight) for _ in range(4)]
        for fighter in fighters:
            fighter.start()
        publish(daemon, 2000)
        eventually(lambda: len(superseded) > 10, "they took it from each other")
        ended.set()
        for fighter in fighters:
            fighter.join()
        eventually(lambda: daemon.status()["clients"] == 0, "they are gone")
        assert "Traceback" not in daemon.log_text
        assert daemon.stop() == 0


def connect_again_and_again(daemon: Daemon, count: int) -> None:
    """Connect and leave, in the ways in which a client may: at once, in a line, after a hello, after an event."""
    for number in range(count):
        producer = str(uuid.UUID(int=number))
        with connected(daemon) as publisher:
            if number % 4 == 1:
                publisher.sendall(b'{"event_ty')
            elif number % 4 == 2:
                publisher.sendall(wire.encode_hello(producer, "", 0))
                assert isinstance(wire.parse_message(publisher.recv(65536)), wire.Welcome)
            elif number % 4 == 3:
                publisher.sendall(wire.encode_hello(producer, "", 0) + envelope(1, number) + b"\n")
                assert isinstance(wire.parse_message(publisher.recv(65536).split(b"\n")[0]), wire.Welcome)


def churn(tmp_path: Path, count: int) -> dict[str, Any]:
    with a_daemon(tmp_path, "none", settings={"SYNCEVENTSD_STORAGE_DURABILITY": "process"}) as daemon:
        daemon.start()
        connect_again_and_again(daemon, count // 4)
        before, open_before = rss_mb(pid_of(daemon)), descriptors(pid_of(daemon))
        connect_again_and_again(daemon, count)
        publish(daemon, 100)
        eventually(lambda: descriptors(pid_of(daemon)) <= open_before + FEW_MORE, "descriptors are given back")
        after = rss_mb(pid_of(daemon))
        assert daemon.stop() == 0
        return {"connections": count, "rss_mb": {"before": round(before, 1), "after": round(after, 1)}}


def test_connects_in_a_row_leave_nothing_behind(tmp_path: Path, tell: Callable[..., None]) -> None:
    report = churn(tmp_path, 1000)
    tell(**report)
    assert report["rss_mb"]["after"] - report["rss_mb"]["before"] < 15


@pytest.mark.soak
def test_ten_thousand_connects_in_a_row_leave_nothing_behind(tmp_path: Path, tell: Callable[..., None]) -> None:
    report = churn(tmp_path, 10_000)
    tell(**report)
    assert report["rss_mb"]["after"] - report["rss_mb"]["before"] < 20


def half_open(tmp_path: Path, count: int) -> dict[str, Any]:
    """Open connections that send half a line and stay: those who are in go on, those beyond the limit are told so."""
    with a_daemon(tmp_path, "none") as daemon, Publisher(daemon.socket) as healthy, ExitStack() as opened:
        daemon.start()
        healthy.publish_envelope(envelope(0, 0))
        healthy.flush(PATIENCE)
        before, open_before = rss_mb(pid_of(daemon)), descriptors(pid_of(daemon))
        publishers = [opened.enter_context(connected(daemon)) for _ in range(count)]
        most_open = descriptors(pid_of(daemon))
        for publisher in publishers:
            with suppress(OSError):  # those that are refused
                publisher.sendall(b'{"hello":')
        for number in range(1, 200):
            healthy.publish_envelope(envelope(0, number))
        healthy.flush(PATIENCE)
        served = min(count + 1, 1024)
        eventually(lambda: daemon.status()["clients"] == served, "all that may are in, the others out")
        most = rss_mb(pid_of(daemon))
        assert most_open <= open_before + 1024 + 200
        opened.close()
        eventually(lambda: descriptors(pid_of(daemon)) <= open_before + FEW_MORE, "descriptors are given back")
        publish(daemon, 10)
        assert daemon.stop() == 0
        return {
            "half_open": count,
            "served": served,
            "descriptors": most_open,
            "rss_mb": {"before": round(before), "most": round(most)},
        }


def test_connections_with_half_a_line_keep_nobody_else_out(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell(**half_open(tmp_path, 300))


@pytest.mark.soak
def test_ten_thousand_connections_with_half_a_line_stop_nobody_who_is_in(
    tmp_path: Path, tell: Callable[..., None]
) -> None:
    tell(**half_open(tmp_path, 10_000))
