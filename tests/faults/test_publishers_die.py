"""Publishers of every character, as processes: killed in the middle of a line, without a name, deaf; the daemon is
killed meanwhile, too. What each was told holds, a half line is nothing, and nobody is in another's way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from tests.faults.harness import Daemon, a_daemon, reading
from tests.faults.oracle import UNKNOWN, Told, compare, integration_of, kind_of, status_flaws
from tests.faults.scene import SERVER, quiet
from tests.redis_servers import PATIENCE, eventually, redis_server, subscriber

PROGRAM = Path(__file__).with_name("publisher_process.py")
ROOT = Path(__file__).parents[2]
CHARACTERS = ("client", "client", "torn", "anonymous", "deaf")


@define(eq=False)
class Publishing:
    """A publisher's process and its notes."""

    number: int
    character: str
    notes: Path
    process: subprocess.Popen[bytes]

    def lines(self) -> list[list[str]]:
        if not self.notes.exists():
            return []
        return [line.split() for line in self.notes.read_text().splitlines()]

    def is_torn(self) -> bool:
        return any(line[0] == "torn" for line in self.lines())

    def told(self) -> Told:
        dealt, refused, sent, torn = set[int](), set[int](), 0, -1
        for what, *numbers in self.lines():
            first, *rest = map(int, numbers)
            if what == "told":
                dealt |= set(range(first, rest[0]))
            elif what == "refused":
                refused.add(first)
            elif what == "sent":
                sent = max(sent, first + 1)
            else:
                torn = first
        if self.character == "deaf":  # it was told, and did not listen
            refused = {number for number in dealt if kind_of(number) == UNKNOWN}
        assert torn not in dealt
        return Told(sorted(dealt - refused), refused, sent)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(PATIENCE) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


@contextmanager
def company(daemon: Daemon) -> Iterator[list[Publishing]]:
    everybody: list[Publishing] = []
    try:
        yield everybody
    finally:
        for one in everybody:
            if one.process.poll() is None:
                one.kill()


def join(everybody: list[Publishing], daemon: Daemon, character: str) -> Publishing:
    number = len(everybody)
    notes = daemon.directory / f"notes-{number}"
    command = [sys.executable, str(PROGRAM), daemon.socket, str(number), character, str(notes)]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environ)
    everybody.append(Publishing(number, character, notes, process))
    return everybody[-1]


def rounds_of_deaths(tmp_path: Path, rounds: int) -> dict[str, Any]:
    recoveries = []
    with (
        redis_server(SERVER) as redis,
        subscriber(redis) as channel,
        a_daemon(tmp_path, redis.url) as daemon,
        company(daemon) as everybody,
    ):
        daemon.start()
        with reading(daemon) as reader:
            for character in CHARACTERS:
                join(everybody, daemon, character)
            for _ in range(rounds):
                torn = next(one for one in reversed(everybody) if one.character == "torn")
                eventually(torn.is_torn, "half a line is out")
                torn.kill()
                daemon.kill()
                began, heard = time.monotonic(), len(channel.heard)
                daemon.start()
                eventually(lambda heard=heard: len(channel.heard) > heard, "events flow again")  # type: ignore[misc]
                recoveries.append(time.monotonic() - began)
                join(everybody, daemon, "torn")
            torn = everybody[-1]
            eventually(torn.is_torn, "half a line is out")
            torn.kill()
            for one in everybody:
                if one.process.returncode is None:
                    one.end()
            eventually(lambda: daemon.status()["waiting"]["count"] == 0, "nothing waits")
            last = daemon.status()["events"]["accepted"]
            eventually(lambda: len(reader.seen) >= last, "the SSE reader has everything")
            quiet(channel.heard)
        told = {one.number: one.told() for one in everybody}
        verdict = compare(told, channel.heard, reader.seen)
        assert verdict.flaws == []
        for one in everybody:
            path = f"/integrations/events/sync-status/{integration_of(one.number)}"
            assert status_flaws(one.number, [name for name, _ in reader.seen], daemon.get(path)[1]) == []
        assert daemon.stop() == 0
    return {
        "rounds": rounds,
        "publishers": len(everybody),
        "events": verdict.events,
        "rejects": verdict.rejects,
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "longest_recovery_s": max(recoveries),
    }


def test_publishers_that_die_in_the_middle_of_a_line_lose_nothing_they_were_told(
    tmp_path: Path, tell: Callable[..., None]
) -> None:
    tell(**rounds_of_deaths(tmp_path, 2))


@pytest.mark.soak
def test_publishers_that_die_many_times_lose_nothing_they_were_told(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell(**rounds_of_deaths(tmp_path, 30))
