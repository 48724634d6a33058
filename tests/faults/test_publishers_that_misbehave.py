"""Publishers that send anything: the daemon answers what it must, serves the others in order, and does not grow."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from tests.faults.bad_frames import BadFrames
from tests.faults.harness import Daemon, Load, a_daemon, eventually, reading
from tests.faults.measure import descriptors, rss_mb
from tests.redis_servers import PATIENCE

from syncevents import wire


def connected(daemon: Daemon) -> socket.socket:
    publisher = socket.socket(socket.AF_UNIX)
    publisher.settimeout(PATIENCE)
    publisher.connect(daemon.socket)
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
        eventually(lambda: descriptors(pid_of(daemon)) <= open_before, "descriptors are given back")
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


def test_bad_frames_hurt_nobody_and_are_answered_as_the_protocol_says(tmp_path: Path) -> None:
    report = fuzz(tmp_path, frames=20_000, warm_up=5_000, seed=7)
    print(json.dumps(report))
    assert report["rss_mb"]["at_the_end"] - report["rss_mb"]["after_warm_up"] < 50


@pytest.mark.soak
def test_a_million_bad_frames_hurt_nobody(tmp_path: Path) -> None:
    report = fuzz(tmp_path, frames=1_000_000, warm_up=100_000, seed=time.time_ns())
    print(json.dumps(report))
    assert report["rss_mb"]["at_the_end"] - report["rss_mb"]["after_warm_up"] < 20
