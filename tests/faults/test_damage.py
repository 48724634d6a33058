"""Flipped bits and torn files: the daemon starts, serves nothing that is not as it was written, and tells what is lost.

One flipped bit costs at most the groups whose page it hit; all others keep their numbers.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from attrs import define
from tests.events import ROOMY, Hand, a_log, line
from tests.faults.disks import missing
from tests.faults.harness import Daemon, SseReader, a_daemon, envelope, eventually
from tests.redis_servers import BINARIES, redis_server, subscriber

from syncevents import Publisher
from synceventsd.core.errors import LogDamaged, StartupError
from synceventsd.core.filters import Filter
from synceventsd.eventlog import open_log
from synceventsd.hub import Hub

SERVER = next(iter(BINARIES))
GROUP = 4  # events
GROUPS = 60  # in the database, and as many in the WAL
TOTAL = 2 * GROUP * GROUPS
LEAF_GROUPS = 8  # as many as may lie on one page
LINES = [line(number, business=number % 3 + 1, data={"pad": f"{number:04}" * 200}) for number in range(TOTAL)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the state directory of a daemon that was killed: half of its events are in the WAL."""
    directory = tmp_path_factory.mktemp("killed")
    trio.run(make, directory / "running", directory / "state")
    return directory / "state"


async def make(running: Path, copy: Path) -> None:
    for part in (LINES[: TOTAL // 2], LINES[TOTAL // 2 :]):
        async with a_log(running) as log:
            hand = Hand(log, producer="p")
            for start in range(0, len(part), GROUP):
                await hand.append(*part[start : start + GROUP])
            if part[0] is not LINES[0]:
                shutil.copytree(running, copy)
    (copy / "lock").unlink()


@define
class Outcome:
    """What a damaged log gave: events by number, and whether anybody was told that some are gone."""

    events: dict[int, bytes]
    told: bool
    salvaged: bool


async def look(state: Path) -> Outcome:
    """Open the log, publish one event, and read everything there is."""
    with trio.fail_after(60):
        async with a_log(state) as log:
            await Hand(log).append(line(9999))
            told = bool(log.ledger())
            events: dict[int, bytes] = {}
            with Hub(log, 10).subscribe(Filter(None), 0) as reader:
                while reader.after < log.last:
                    delivery = await reader.next(5)
                    assert delivery is not None
                    told = told or delivery.gap is not None
                    for group, indexes in delivery.runs:
                        events |= {group.first + index: group.lines[index] for index in indexes}
            return Outcome(events, told, any(state.glob("events.db.damaged-*")))


async def look_until_it_is_whole(state: Path) -> Outcome:
    """As systemd would: start again after an end, and once more, so that what was met while running is salvaged."""
    for _ in range(4):
        ended = False
        try:
            await look(state)
        except* LogDamaged:
            ended = True
        if not ended:
            return await look(state)
    raise AssertionError("it ends again and again")


def flip(file: Path, dice: random.Random) -> str:
    text = bytearray(file.read_bytes())
    place, bit = dice.randrange(len(text)), dice.randrange(8)
    text[place] ^= 1 << bit
    file.write_bytes(text)
    return f"{file.name}, page {place // 4096}, byte {place}, bit {bit}"


async def flips(killed: Path, tmp_path: Path, rounds: int, seed: int) -> dict[str, int]:
    dice = random.Random(seed)
    sums = {"rounds": rounds, "salvaged": 0, "lost": 0, "most lost": 0}
    for number in range(rounds):
        state = tmp_path / f"{number}"
        shutil.copytree(killed, state)
        where = flip(state / dice.choice(["events.db", "events.db-wal"]), dice)
        outcome = await look_until_it_is_whole(state)
        original = {seq: text for seq, text in outcome.events.items() if text != line(9999)}
        wrong = [seq for seq, text in original.items() if seq > TOTAL or text != LINES[seq - 1]]
        assert wrong == [], f"{where}: served what was never written, or under another number"
        lost = TOTAL - len(original)
        assert lost <= LEAF_GROUPS * GROUP, f"{where}: {lost} events lost"
        assert lost == 0 or outcome.told, f"{where}: {lost} events lost, and nobody is told"
        sums["salvaged"] += outcome.salvaged
        sums["lost"] += lost
        sums["most lost"] = max(sums["most lost"], lost)
        shutil.rmtree(state)
    return sums


async def test_a_flipped_bit_anywhere_costs_its_own_page_at_most_and_never_the_start(
    killed: Path, tmp_path: Path, tell: Callable[..., None]
) -> None:
    tell(**await flips(killed, tmp_path, 10, seed=1))


@pytest.mark.soak
async def test_hundreds_of_flipped_bits_cost_their_own_pages_at_most(
    killed: Path, tmp_path: Path, tell: Callable[..., None]
) -> None:
    seed = random.SystemRandom().randrange(10**9)
    tell(**{"seed": seed} | await flips(killed, tmp_path, 400, seed))


@pytest.mark.parametrize(("byte", "bit"), [(4, 1), (3, 0)])
async def test_a_page_that_hides_its_rows_from_sqlite_is_noticed_and_costs_nothing(
    killed: Path, tmp_path: Path, byte: int, bit: int
) -> None:
    state = tmp_path / "state"
    shutil.copytree(killed, state)
    text = bytearray((state / "events.db").read_bytes())
    # A leaf of a table with one row on it: a group. With more than that said to be there, none is found.
    leaves = [page for page in range(0, len(text), 4096) if text[page : page + 5] == b"\x0d\0\0\0\x01"]
    text[leaves[-1] + byte] ^= 1 << bit
    (state / "events.db").write_bytes(text)
    outcome = await look_until_it_is_whole(state)
    assert outcome.salvaged
    assert [outcome.events[seq] for seq in range(1, TOTAL + 1)] == LINES


async def test_a_torn_tail_is_no_damage(killed: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    shutil.copytree(killed, state)
    wal = state / "events.db-wal"
    os.truncate(wal, wal.stat().st_size - 1000)
    outcome = await look(state)
    assert not outcome.salvaged
    assert [outcome.events[seq] for seq in range(1, TOTAL - GROUP + 1)] == LINES[: TOTAL - GROUP]


async def test_a_broken_commit_in_the_middle_of_the_wal_does_not_cost_those_behind_it(
    killed: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    shutil.copytree(killed, state)
    wal = state / "events.db-wal"
    text = bytearray(wal.read_bytes())
    where = text.index(LINES[TOTAL // 2 + 10][:60])
    text[where + 40] ^= 1
    wal.write_bytes(text)
    outcome = await look(state)
    assert sorted(set(range(1, TOTAL + 1)) - set(outcome.events)) == [TOTAL // 2 + 11]
    assert outcome.told


@pytest.mark.parametrize("harm", ["truncated", "no database"])
async def test_what_is_left_of_the_files_is_found(killed: Path, tmp_path: Path, harm: str) -> None:
    state = tmp_path / "state"
    shutil.copytree(killed, state)
    file = state / "events.db"
    if harm == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    else:
        file.unlink()
    outcome = await look_until_it_is_whole(state)
    original = {seq: text for seq, text in outcome.events.items() if text != line(9999)}
    assert all(text == LINES[seq - 1] for seq, text in original.items())
    assert len(original) >= TOTAL // 2 - LEAF_GROUPS * GROUP  # the WAL holds half of them
    assert outcome.told
    assert outcome.salvaged


async def test_what_is_not_a_log_of_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "events.db"
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE customers (name TEXT)")
    db.close()
    before = file.read_bytes()
    with pytest.raises(StartupError, match="another program's"):
        async with open_log(tmp_path, "process", ROOMY, forwarding=False):
            raise AssertionError("opened")
    assert file.read_bytes() == before
    file.unlink()
    file.mkdir()
    with pytest.raises(StartupError, match="is a directory"):
        async with open_log(tmp_path, "process", ROOMY, forwarding=False):
            raise AssertionError("opened")


async def test_a_log_that_this_user_may_not_read_is_refused_with_the_remedy() -> None:
    if os.geteuid() != 0:
        missing("only root can become a user who is kept out")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        async with a_log(Path(directory)) as log:
            await Hand(log).append(line(1))
        (Path(directory) / "events.db").chmod(0)
        for path in (Path(directory), Path(directory) / "lock"):
            os.chown(path, 65534, 65534)
        os.seteuid(65534)
        try:
            with pytest.raises(StartupError, match=r"events.db: Permission denied; give it to the user"):
                async with open_log(Path(directory), "process", ROOMY, forwarding=False):
                    raise AssertionError("opened")
        finally:
            os.seteuid(0)
        async with a_log(Path(directory)) as log:
            assert log.last == 1


def damage(file: Path, event_id: str) -> None:
    """Flip a bit in one event, as it lies on the disk."""
    text = bytearray(file.read_bytes())
    text[text.index(f'"id":"{event_id}"'.encode()) + 8] ^= 1
    with file.open("r+b") as disk:  # in place, for the daemon has it open
        disk.write(text)


def test_damage_met_while_running_is_read_over_and_salvaged_by_the_next_start(tmp_path: Path) -> None:
    with redis_server(SERVER) as redis, a_daemon(tmp_path, redis.url) as daemon:
        redis.stop()
        daemon.start()
        with Publisher(daemon.socket) as events:
            for number in range(200):
                events.publish_envelope(envelope(1, number))
                events.flush(timeout=30)
        assert daemon.stop() == 0
        daemon.start()  # what it holds in memory is gone, so that all is read from the disk
        damage(daemon.state / "events.db", "1/77")
        reader = SseReader(daemon.port, path="/integrations/events/sse?replay=500")
        reader.start()
        eventually(lambda: len(reader.seen) >= 199, "the reader has the rest")
        reader.end()
        assert [seq for _, seq in reader.seen] == [seq for seq in range(1, 201) if seq != 78]
        assert [gap["reason"] for gap in reader.gaps] == ["damaged"]
        assert "log.damaged" in daemon.log_text
        redis.start()
        with subscriber(redis) as channel:
            eventually(lambda: daemon.status()["waiting"]["count"] == 0, "Redis has the rest")
            assert "1/77" not in [json.loads(text)["id"] for text in channel.heard]
        lost = [(entry["first"], entry["last"]) for entry in daemon.status()["ledger"]]
        assert lost == [(78, 78)]
        assert daemon.stop() == 0
        daemon.start()
        assert "log_damaged" in [entry["reason"] for entry in daemon.status()["ledger"]]
        assert daemon.status()["events"]["accepted"] == 200
        late = SseReader(daemon.port, path="/integrations/events/sse?replay=500")
        late.start()
        eventually(lambda: len(late.seen) >= 199, "the rest is there")
        late.end()
        assert daemon.stop() == 0
        daemon.start()
        assert daemon.log_text.count("log.salvaged") == 1  # once, not at every start
        assert daemon.stop() == 0


@pytest.mark.parametrize(
    "table", ["producer", "sync", *(pytest.param(name, marks=pytest.mark.soak) for name in ("meta", "place", "epoch"))]
)
def test_no_broken_table_makes_the_daemon_end_again_and_again(tmp_path: Path, table: str) -> None:
    with a_daemon(tmp_path, "none") as daemon:
        daemon.start()
        with Publisher(daemon.socket) as events:
            events.publish_envelope(envelope(1, 1))
        assert daemon.stop() == 0
        file = daemon.state / "events.db"
        with sqlite3.connect(file) as db:
            (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        db.close()
        with file.open("r+b") as disk:
            disk.seek((root - 1) * 4096)
            disk.write(b"\x55" * 4096)
        ends = 0
        while ends < 3:
            daemon.start(wait=False)
            eventually(lambda: daemon.process.poll() is not None or is_up(daemon), "it is up or gone")  # type: ignore[union-attr]
            if daemon.process.poll() is None and accepts(daemon) and daemon.stop() == 0:  # type: ignore[union-attr]
                break
            if daemon.process is not None:
                daemon.wait()
            ends += 1
        assert ends <= 1
        daemon.start()
        assert daemon.status()["events"]["accepted"] >= 2
        assert daemon.stop() == 0


def accepts(daemon: Daemon) -> bool:
    """Say hello and publish an event; return whether it is acknowledged, and not the end of the daemon."""
    hello = {"hello": {"v": 1, "producer": "6f1c8f0e-0000-4000-8000-000000000000", "client": "test/1"}}
    with socket.socket(socket.AF_UNIX) as publisher:
        publisher.connect(daemon.socket)
        publisher.settimeout(30)
        publisher.sendall(json.dumps(hello).encode() + b"\n" + envelope(2, 1) + b"\n")
        answer = b""
        with suppress(ConnectionError):
            while b'{"ack":' not in answer and (data := publisher.recv(4096)):
                answer += data
        return b'{"ack":' in answer


def is_up(daemon: Daemon) -> bool:
    try:
        return bool(daemon.get("/healthz")[0] == 200)
    except OSError:
        return False
