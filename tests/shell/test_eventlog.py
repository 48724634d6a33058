"""The log: what is acknowledged is there, once, in order, whatever is cancelled, killed, full or damaged."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import threading
import zlib
from array import array
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.events import CREATED, ROOMY, Hand, a_log, line

from synceventsd.core.errors import LogDamaged, StartupError, StorageUnavailable
from synceventsd.core.filters import Filter
from synceventsd.core.model import Group
from synceventsd.core.positions import GapReason, Position
from synceventsd.eventlog import EventLog, open_log, tail
from synceventsd.eventlog import committer as committer_module
from synceventsd.eventlog import log as log_module
from synceventsd.eventlog import store as store_module
from synceventsd.eventlog.commits import Commit, ProducerCount, RejectRow
from synceventsd.eventlog.committer import Retention
from synceventsd.eventlog.log import GIVE_WAY
from synceventsd.eventlog.reader import ROW_BYTES, Reader, Scan
from synceventsd.eventlog.rows import Head, head_of
from synceventsd.eventlog.store import COMMIT_OVERHEAD, Store, store_in
from synceventsd.hub import Hub

FAILED = "integration.sync.failed"


async def everything(log: EventLog, business: int | None = None) -> list[bytes]:
    """Read the whole log from the disk, the way a reader that is far behind does."""
    found: list[bytes] = []
    after = log.oldest - 1
    while after < log.last:
        try:
            groups, complete = log._reader.groups(lambda: log.epochs, after, 1000, business, log.last)
        except LogDamaged as hole:  # left by a salvage
            after = hole.last or log.last
            continue
        for group in groups:
            found.extend(group.lines[index] for index in group.indexes(business, after))
        after = log.last if complete else groups[-1].last
    return found


async def test_what_was_settled_is_there_in_order_after_reopening(tmp_path: Path) -> None:
    lines = [line(number) for number in range(1, 3001)]
    async with a_log(tmp_path) as log:
        hand = Hand(log)
        for start in range(0, 3000, 7):
            hand.hand_in(*lines[start : start + 7])
        await log.committer.wait_empty()
        assert hand.dealt == 3000
    async with a_log(tmp_path) as log:
        assert log.last == 3000
        assert await everything(log) == lines


async def test_a_business_reads_its_own_and_the_global_events_only(tmp_path: Path) -> None:
    async with a_log(tmp_path) as log:
        hand = Hand(log)
        for number in range(200):
            await hand.append(line(number, business=(None, 1, 2, 3)[number % 4]))
        assert await everything(log, 2) == [
            line(n, business=(None, 1, 2, 3)[n % 4]) for n in range(200) if n % 4 in (0, 2)
        ]


@pytest.mark.parametrize("count", [1, 2, 10, 999, 5000])
async def test_a_replay_begins_at_the_newest_events_that_match(tmp_path: Path, count: int) -> None:
    async with a_log(tmp_path) as log:
        hand = Hand(log)
        for start in range(0, 1000, 9):
            await hand.append(
                *(line(n, business=n % 3 + 1, integration=n % 2) for n in range(start, min(start + 9, 1000)))
            )
        filter_ = Filter(2, integration_id=1)
        matching = [n for n in range(1000) if n % 3 + 1 == 2 and n % 2 == 1]
        start_after = await log.replay_start(filter_, count)
        assert [n for n in matching if n + 1 > start_after] == matching[-count:]


async def test_a_producer_s_count_and_rejects_are_kept_with_its_events(tmp_path: Path) -> None:
    async with a_log(tmp_path) as log:
        hand = Hand(log, producer="p", uid=7)
        await hand.append(line(1), b"rubbish", line(2), b"{}")
    async with a_log(tmp_path) as log:
        state = await log.producer("p", 0)
        assert (state.uid, state.accepted) == (7, 4)
        assert [(reject.line, reject.code) for reject in state.rejects] == [(2, "invalid_json"), (4, "invalid_event")]
        assert [reject.line for reject in (await log.producer("p", 2)).rejects] == [4]
        log.committer.greet("p", 4)
        await Hand(log).append(line(3))
        assert (await log.producer("p", 0)).rejects == ()


async def test_numbers_are_never_given_twice_even_when_retention_took_everything(tmp_path: Path) -> None:
    async with a_log(tmp_path, retention=Retention(2**32, 0, 7 * 86400.0)) as log:
        await Hand(log).append(*map(line, range(10)))
        with trio.fail_after(30):
            while log.oldest <= 10:
                await trio.sleep(0.05)
    async with a_log(tmp_path) as log:
        assert (log.last, log.oldest) == (10, 11)
        await Hand(log).append(line(11))
        assert (log.last, log.oldest) == (11, 11)


async def test_retention_and_checkpoints_happen_under_load_too(tmp_path: Path) -> None:
    async with a_log(tmp_path, retention=Retention(2**32, 100_000, 7 * 86400.0)) as log:
        hand = Hand(log)
        with trio.fail_after(60):
            while log.oldest < 50_000:  # never idle: there is always another lot
                hand.hand_in(*(line(n, data={"pad": "x" * 2000}) for n in range(20)))
                await log.committer.wait_room()
                await trio.lowlevel.checkpoint()
        await log.committer.wait_empty()
        wal = (tmp_path / "events.db-wal").stat().st_size
        assert wal < 2**26  # a commit may bring 8 MiB beside what makes a checkpoint due, and a reader delay that


async def test_events_that_redis_has_not_got_are_rejected_for_never_dropped(tmp_path: Path) -> None:
    pad = {"data": {"pad": "x" * 2000}}
    async with a_log(tmp_path, retention=Retention(400_000, 0, 0.001), forwarding=True) as log:
        hand = Hand(log, producer="p")
        while not hand.rejects:
            await hand.append(line(hand.numbered, **pad))
        assert {reject.fault.code for reject in hand.rejects} == {"buffer_full"}
        assert log.committer.full
        kept = await everything(log)
        assert kept == [line(n, **pad) for n in range(len(kept))]
        assert len(kept) + len(hand.rejects) == hand.numbered
        log.mark_forwarded(Position(log.epochs.current.name, log.last))  # Redis is back: room without a restart
        before = len(hand.rejects)
        await hand.append(line(1, **pad))
        assert len(hand.rejects) == before


async def test_room_that_is_only_thought_to_be_taken_is_looked_at_before_anything_is_refused_or_deleted(
    tmp_path: Path,
) -> None:
    """Between two checkpoints what is taken is counted, and a commit of one small event counts as six pages."""
    limit = 2**20
    async with a_log(tmp_path, retention=Retention(limit, limit, 1e9)) as log:
        hand = Hand(log)
        for number in range(1, 101):
            await hand.append(line(number))
        assert limit < 100 * COMMIT_OVERHEAD
        assert log.statistics().used < limit
        assert hand.rejects == []
        assert (log.oldest, log.ledger()) == (1, [])


async def test_what_would_be_kept_for_replay_goes_only_where_nothing_else_makes_room(tmp_path: Path) -> None:
    async with a_log(tmp_path, retention=Retention(2_000_000, 500_000, 1e9)) as log:
        hand = Hand(log)
        for number in range(100):  # 4 MB, in less time than between two looks at what retention may take
            await hand.append(*(line(number, data={"pad": "x" * 2000}) for _ in range(20)))
        assert log.statistics().used < 2_000_000
        assert log.oldest > 1000
        assert hand.rejects == []
        assert log.ledger() == []


def test_explanations_of_rejects_count_as_what_the_log_takes(tmp_path: Path) -> None:
    store = store_in(tmp_path, "process")
    store.open()
    store.begin_epoch()
    before = store.used
    rejects = [RejectRow("p", number, None, "invalid_json", "x" * 4000) for number in range(200)]
    store.append(Commit(at=1.0, producers=[ProducerCount("p", 0, 200)], rejects=rejects))
    counted = store.used
    store.measure()
    assert before + 800_000 < store.used <= counted
    store.close()


async def test_publishers_give_way_while_the_forwarder_is_late_and_not_once_it_has_fallen_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "MAX_BYTES", 20_000)
    slept: list[float] = []

    async def note(seconds: float) -> None:
        slept.append(seconds)

    async with a_log(tmp_path, forwarding=True) as log:
        hand = Hand(log)
        with monkeypatch.context() as patch:
            for number in range(1, 101):  # some 15 of them fill the tail
                await hand.append(line(number, data={"pad": "x" * 1000}))
                log.mark_forwarded(Position(log.epochs.current.name, {100: 99, 99: 88}.get(number, number)))
                patch.setattr(trio, "sleep", note)
                await log.give_way()
                patch.undo()
            log.mark_forwarded(Position(log.epochs.current.name, 50))
            patch.setattr(trio, "sleep", note)
            await log.give_way()
    assert slept == [*[0] * 98, GIVE_WAY, 0, 0]


async def test_two_daemons_cannot_use_one_state_directory(tmp_path: Path) -> None:
    async with a_log(tmp_path):
        with pytest.raises(StartupError, match="in use by another synceventsd"):
            async with open_log(tmp_path, "process", ROOMY, forwarding=False):
                raise AssertionError("opened twice")


async def test_a_log_that_was_set_back_is_recognised_by_its_epochs(tmp_path: Path) -> None:
    state, older = tmp_path / "state", tmp_path / "older"
    async with a_log(state) as log:
        await Hand(log).append(*map(line, range(5)))
        seen_then = str(log.position(5))
    shutil.copytree(state, older)
    async with a_log(state) as log:
        await Hand(log).append(*map(line, range(5)))
        seen_later = str(log.position(10))
        cursor = log.position(10)
    shutil.rmtree(state)
    shutil.copytree(older, state)
    async with a_log(state) as log:
        await Hand(log).append(*map(line, range(20)))
        assert log.resume(seen_then).after == 5
        assert log.resume(seen_then).gap is None
        assert log.resume(seen_later).gap is GapReason.OTHER_LOG  # the run in which it was given out is not in this log
        assert log.resume(seen_later).after == 0
        assert log.epochs.out(cursor, log.last, own_mark=5) == 5


async def test_a_log_set_back_within_a_run_continues_at_what_is_left(tmp_path: Path) -> None:
    state, older = tmp_path / "state", tmp_path / "older"
    async with a_log(state) as log:
        await Hand(log).append(*map(line, range(5)))
        shutil.copytree(state, older)  # database and WAL together, as a snapshot of the disk takes them
        await Hand(log).append(*map(line, range(5)))
        ahead = log.position(10)
    shutil.rmtree(state)
    shutil.copytree(older, state)
    async with a_log(state) as log:
        await Hand(log).append(*map(line, range(20)))
        assert log.resume(str(ahead)).gap is GapReason.SET_BACK
        assert log.resume(str(ahead)).after == 5
        assert log.epochs.out(ahead, log.last, own_mark=0) == 5


@pytest.mark.parametrize("harm", ["header", "not sqlite", "empty file"])
async def test_a_log_that_does_not_read_at_all_is_moved_aside_and_the_start_goes_on(tmp_path: Path, harm: str) -> None:
    async with a_log(tmp_path) as log:
        await Hand(log).append(*map(line, range(50)))
        log_id = log.log_id
    file = tmp_path / "events.db"
    if harm == "header":
        file.write_bytes(b"\0" * 4096 + file.read_bytes()[4096:])
    elif harm == "not sqlite":
        file.write_bytes(b"this is no database at all, " * 1000)
    else:
        file.write_bytes(b"")
    async with a_log(tmp_path) as log:
        await Hand(log).append(line(1))
        kept = [line(n) for n in range(50)] if harm == "header" else []
        assert await everything(log) == [*kept, line(1)]
        assert log.log_id != log_id
        if harm != "empty file":
            assert [entry.reason for entry in log.ledger()] == ["log_damaged"]
            assert len(list(tmp_path.glob("events.db.damaged-*"))) >= 1


async def test_a_damaged_log_is_salvaged_event_by_event_with_its_numbers_and_its_producers(tmp_path: Path) -> None:
    async with a_log(tmp_path, forwarding=True) as log:
        hand = Hand(log, producer="p", uid=7)
        for start in range(0, 50, 10):
            await hand.append(*map(line, range(start, start + 10)))
        log.mark_forwarded(Position(log.epochs.current.name, 20))
        await log.save_mark()
        log_id, sent = log.log_id, log.position(50)
    file = tmp_path / "events.db"
    file.write_bytes(file.read_bytes().replace(b'"event-33"', b'"event-33\\').replace(b'"event-47"', b'"event-47\\'))
    async with a_log(tmp_path, forwarding=True) as log:
        assert log.log_id == log_id
        assert await everything(log) == [line(n) for n in range(50) if n not in (33, 47)]
        assert (log.last, log.forwarded) == (50, 20)
        assert (await log.producer("p", 0)).accepted == 50
        lost = [(entry.first, entry.last) for entry in log.ledger() if entry.first is not None]
        assert sorted(lost) == [(34, 34), (48, 48)]
        assert log.ledger_totals() == {"log_damaged": 2}
        assert log.epochs.out(sent, log.last, own_mark=0) == 50
        with pytest.raises(LogDamaged, match="events 34 to 34 are not where they should be"):
            await log.read(33)
        await Hand(log).append(line(51))
        assert log.last == 51
    async with a_log(tmp_path, forwarding=True) as log:  # the holes are known: nothing to be salvaged again
        assert log.ledger_totals() == {"log_damaged": 2}


@pytest.mark.parametrize("page", range(1, 40, 3))
async def test_any_broken_page_costs_events_at_most_and_never_the_start(tmp_path: Path, page: int) -> None:
    lines = [line(n, business=n % 3 + 1, data={"pad": "x" * 900}) for n in range(100)]
    async with a_log(tmp_path) as log:
        for start in range(0, 100, 5):
            await Hand(log).append(*lines[start : start + 5])
    file = tmp_path / "events.db"
    text = bytearray(file.read_bytes())
    text[page * 4096 : (page + 1) * 4096] = os.urandom(4096)
    file.write_bytes(text)
    async with a_log(tmp_path) as log:
        hand = Hand(log)
        await hand.append(line(1000))
        hub = Hub(log, 10)
        with hub.subscribe(Filter(None), 0) as reader, trio.fail_after(30):
            seen: list[bytes] = []
            told = False
            while reader.after < log.last:
                delivery = await reader.next(0.1)
                assert delivery is not None
                seen += [group.lines[index] for group, indexes in delivery.runs for index in indexes]
                told = told or delivery.gap is not None
        assert seen[-1] == line(1000)
        assert set(seen) <= {*lines, line(1000)}
        # What is missing is told: to this reader, or, where the start noticed, in the ledger.
        assert len(seen) == 101 or told or log.ledger()


async def test_damage_met_while_writing_ends_the_daemon_and_the_next_start_salvages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append(store: Store, commit: Commit) -> None:
        raise LogDamaged("SQLITE_CORRUPT: database disk image is malformed")

    async with a_log(tmp_path) as log:
        await Hand(log).append(*map(line, range(10)))
    with monkeypatch.context() as patch, pytest.RaisesGroup(LogDamaged):
        async with a_log(tmp_path) as log:
            patch.setattr(Store, "append", append)
            Hand(log).hand_in(line(10))
            await trio.sleep_forever()
    async with a_log(tmp_path) as log:
        assert await everything(log) == [line(n) for n in range(10)]
        assert [entry.reason for entry in log.ledger()] == ["log_damaged"]
    async with a_log(tmp_path) as log:
        assert len(log.ledger()) == 1


async def test_a_replay_that_takes_many_looks_begins_where_as_many_as_asked_for_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "SCAN_BYTES", ROW_BYTES + 1)
    kinds = [FAILED if number % 5 == 2 else CREATED for number in range(1, 201)]
    async with a_log(tmp_path) as log:
        hand = Hand(log)
        for start in range(0, 200, 40):
            await hand.append(*[line(start + place, kinds[start + place - 1]) for place in range(1, 41)])
        for filter_ in (Filter(42), Filter(None), Filter(42, event_types=frozenset([FAILED]))):
            matching = [number for number, kind in enumerate(kinds, 1) if filter_.takes_all or kind == FAILED]
            for wanted in (1, 7, 9, 25, 40):
                start = await log.replay_start(filter_, wanted)
                assert sum(number > start for number in matching) == wanted


@pytest.mark.parametrize("broken", ["a page's pointer to the next", "the type of the text"])
@pytest.mark.parametrize("business", [None, 1])
async def test_what_sqlite_cannot_read_costs_its_own_group_and_nothing_around_it(
    tmp_path: Path, broken: str, business: int | None
) -> None:
    texts = [line(number, business=1, data={"x": "x" * 450}) for number in range(1, 121)]
    async with a_log(tmp_path) as log:
        for start in range(0, 120, 20):
            await Hand(log).append(*texts[start : start + 20])
    file = tmp_path / "events.db"
    if broken == "the type of the text":
        with closing(sqlite3.connect(file)) as db, db:
            db.execute("UPDATE event_group SET lines = 17 WHERE first = 41")
    else:
        raw = bytearray(file.read_bytes())
        page = raw.index(texts[50][:60]) // 4096 * 4096
        raw[page : page + 4] = (0x7FFFFFFF).to_bytes(4, "big")
        file.write_bytes(raw)
    async with a_log(tmp_path) as log:
        seen, after, holes = [], 0, []
        while after < 120:
            try:
                found = await log.read(after, business)
            except LogDamaged as damage:
                holes.append((after + 1, await log.end_of_damage(after, damage)))
                after = holes[-1][1]
                continue
            seen += [group.lines[index] for group in found.groups for index in group.indexes(business, after)]
            after = found.upto
        assert holes in ([(41, 60)], [])  # of one business only the pages that it needs
        assert seen == (texts[:40] + texts[60:] if holes else texts)


async def test_when_a_salvaged_group_was_accepted_is_never_nonsense(tmp_path: Path) -> None:
    async with a_log(tmp_path) as log:
        for number in (1, 2, 3):
            await Hand(log).append(line(number))
    with closing(sqlite3.connect(tmp_path / "events.db")) as db, db:
        (before,) = db.execute("SELECT accepted_at FROM event_group WHERE first = 1").fetchone()
        db.execute("UPDATE event_group SET accepted_at = 1e163 WHERE first = 2")
    (tmp_path / "events.db-suspect").touch()
    async with a_log(tmp_path) as log:
        assert await everything(log) == [line(number) for number in (1, 2, 3)]
    with closing(sqlite3.connect(tmp_path / "events.db")) as db:
        assert db.execute("SELECT accepted_at FROM event_group WHERE first = 2").fetchone() == (before,)


async def test_damage_that_says_it_ends_before_it_leads_nobody_back(tmp_path: Path) -> None:
    async with a_log(tmp_path) as log:
        await Hand(log).append(*map(line, range(1, 20)))
        assert await log.end_of_damage(10, LogDamaged("it does not read", 5)) == 11


async def test_what_retention_deletes_while_it_is_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_log(tmp_path) as log:
        hand = Hand(log)
        for number, business in enumerate((7, 8, 8), 1):
            await hand.append(line(number, business=business))

        def head_of_deleted(row: Any) -> Head | None:
            log._store.prune(1, 2**40, 1.0, 0, 1, 2**30)
            return head_of(row)

        monkeypatch.setattr("synceventsd.eventlog.reader.head_of", head_of_deleted)
        groups, _ = log._reader.groups(lambda: log.epochs, 0, 2**20, 7, 3)
        assert [bytes(group.lines[0]) for group in groups] == [line(1, business=7)]
        assert log.oldest == 2


def made_older(state: Path) -> None:
    """Make the log's file what version 1 left behind, with an entry in its ledger."""
    with closing(sqlite3.connect(state / "events.db")) as db, db:
        for first, text in db.execute("SELECT first, lines FROM event_group").fetchall():
            db.execute("UPDATE event_group SET crc = ? WHERE first = ?", (zlib.crc32(text), first))
        db.commit()
        db.executescript(
            "ALTER TABLE event_group DROP COLUMN totals; ALTER TABLE event_group DROP COLUMN sums;"
            "ALTER TABLE ledger DROP COLUMN until; ALTER TABLE ledger DROP COLUMN uid; PRAGMA user_version = 1;"
            "INSERT INTO ledger (at, reason, first, last, count, detail) VALUES (5.0, 'damaged', 3, 4, 2, 'x');"
        )


async def test_whose_an_event_is_is_not_believed_of_a_row_whose_businesses_have_no_checksum(tmp_path: Path) -> None:
    lines = [line(1, business=4), line(2, business=5)]
    async with a_log(tmp_path) as log:
        await Hand(log).append(*lines)
    made_older(tmp_path)
    with closing(sqlite3.connect(tmp_path / "events.db")) as db:
        db.execute("UPDATE event_group SET businesses = ?", (array("I", [4, 4]).tobytes(),))  # a flipped bit
        db.commit()
    async with a_log(tmp_path) as log:
        assert await everything(log, business=4) == lines[:1]


async def test_groups_read_after_an_epoch_began_bear_its_name_though_they_were_asked_for_before(tmp_path: Path) -> None:
    async with a_log(tmp_path, forwarding=True) as log:
        await Hand(log).append(line(1))
    async with a_log(tmp_path, forwarding=True) as log, trio.open_nursery() as nursery:
        found: list[Group] = []

        async def read() -> None:
            found.extend((await log.read(0)).groups)

        async with log._reading:  # as while others read
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await log.send_again(1, 0)
            await Hand(log).append(line(2))
        with trio.fail_after(30):
            while not found:
                await trio.sleep(0.01)
        assert [group.position(0) for group in found] == [log.position(1), log.position(2)]


async def test_a_look_for_a_replay_s_beginning_is_short_also_where_it_reads_no_text(tmp_path: Path) -> None:
    async with a_log(tmp_path) as log:
        hand = Hand(log)
        for number in range(1, 50):
            await hand.append(line(number))
        looks, scan = 0, Scan(None, 10**6, log.last)
        while scan.start is None:
            scan = log._reader.replay_start(Filter(None), scan.wanted, scan.down_from, 10 * ROW_BYTES)
            looks += 1
        assert (scan.start, looks) == (0, 5)


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_file_of_the_older_version_goes_on_with_its_ledger(tmp_path: Path, damaged: bool) -> None:
    async with a_log(tmp_path) as log:
        await Hand(log, producer="p").append(line(1))
    made_older(tmp_path)
    if damaged:
        store_in(tmp_path, "process").suspect()
    async with a_log(tmp_path) as log:
        assert await everything(log) == [line(1)]
        oldest = log.ledger()[-1]
        assert (oldest.reason, oldest.at, oldest.until, oldest.uid, oldest.count) == ("damaged", 5.0, 5.0, None, 2)
        hand = Hand(log, producer="p", numbered=1)
        await hand.append(b"rubbish")
    async with a_log(tmp_path) as log:
        assert log.ledger_totals()["invalid_json"] == 1
        assert (await log.producer("p", 0)).accepted == 2


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_commit_that_fails_counts_its_rejects_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    async with a_log(tmp_path) as log:
        failing = FailingStore(monkeypatch)
        hand = Hand(log, producer="p")
        failing.failures = [when, "before", when]
        await hand.append(b"rubbish", line(1), b"{}")
        failing.failures = [when, when]
        await hand.append(b"rubbish")  # no events: nothing but the ledger could tell whether it was written
    async with a_log(tmp_path) as log:
        assert log.ledger_totals() == {"invalid_json": 2, "invalid_event": 1}


async def test_rubbish_of_anonymous_publishers_costs_no_sync_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_log(tmp_path) as log:
        written: list[Commit] = []
        real = Store.append

        def append(store: Store, commit: Commit) -> None:
            written.append(commit)
            real(store, commit)

        monkeypatch.setattr(Store, "append", append)
        for _ in range(50):
            await Hand(log).append(b"rubbish")
        assert sum(bool(commit.ledger.entries) for commit in written) <= 1
        await Hand(log).append(line(1))  # what is written anyway takes it along
        assert written[-1].ledger.entries[0].count == 50


async def test_who_waits_for_room_goes_on_once_what_waited_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, begun, let = Store.append, threading.Semaphore(0), threading.Semaphore(0)

    def append(store: Store, commit: Commit) -> None:
        if commit.groups:
            begun.release()
            let.acquire()
        write(store, commit)

    monkeypatch.setattr(Store, "append", append)
    monkeypatch.setattr(committer_module, "MAX_PENDING_BYTES", 100)
    async with a_log(tmp_path) as log:
        hand = Hand(log)
        try:
            with trio.fail_after(20):
                hand.hand_in(line(1))
                await trio.to_thread.run_sync(begun.acquire)
                hand.hand_in(line(2))  # more than may wait
                let.release()
                await log.committer.wait_room()
                assert hand.dealt == 1  # the second one is still being written
        finally:
            let.release(10)
        await log.committer.wait_settled(hand)
        assert hand.dealt == 2


async def test_producers_that_are_forgotten_stand_in_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_log(tmp_path) as log:
        await Hand(log, producer="p").append(line(1), b"rubbish")
        await Hand(log, producer="q").append(line(2))
    monkeypatch.setattr("synceventsd.eventlog.committer.PRODUCER_MEMORY", -60.0)
    async with a_log(tmp_path) as log:
        with trio.fail_after(30):
            while "producers_forgotten" not in log.ledger_totals():
                await trio.sleep(0.01)
            await log.wait_noted()
        assert log.ledger_totals() == {"invalid_json": 1, "producers_forgotten": 2}
        assert await log.producer("p", 0) == await log.producer("nobody", 0)


async def test_explanations_beyond_those_that_are_kept_stand_in_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_REJECTS_KEPT", 10)
    async with a_log(tmp_path) as log:
        await Hand(log, producer="p").append(*[b"rubbish"] * 25)
        assert log.ledger_totals() == {"invalid_json": 25, "rejects_untold": 15}


async def test_a_file_of_a_newer_version_stops_the_start_and_is_left_alone(tmp_path: Path) -> None:
    async with a_log(tmp_path) as log:
        await Hand(log).append(line(1))
    with sqlite3.connect(tmp_path / "events.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StartupError, match="version 99"):
        async with open_log(tmp_path, "process", ROOMY, forwarding=False):
            raise AssertionError("opened")
    assert list(tmp_path.glob("*.damaged-*")) == []


class FailingStore:
    """A store whose next appends fail, before or after they are written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failures: list[str] = []
        real = Store.append

        def append(store: Store, commit: Commit) -> None:
            how = self.failures.pop() if self.failures else ""
            if how == "before":
                raise StorageUnavailable("SQLITE_FULL: database or disk is full")
            real(store, commit)
            if how == "after":
                raise StorageUnavailable("SQLITE_IOERR_FSYNC: disk I/O error")

        monkeypatch.setattr(Store, "append", append)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_commit_that_fails_is_tried_until_it_works_and_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    async with a_log(tmp_path) as log:
        failing = FailingStore(monkeypatch)
        hand = Hand(log, producer="p")
        await hand.append(line(1))
        failing.failures = [when, "before", when]
        hand.hand_in(line(2), line(3))
        with trio.fail_after(30):
            while log.committer.failing is None:
                await trio.sleep(0.001)
            assert hand.dealt == 1  # neither acknowledged nor rejected
            await log.committer.wait_settled(hand)
        assert (hand.dealt, hand.rejects, log.committer.failing) == (3, [], None)
        await hand.append(line(4))
        assert await everything(log) == [line(1), line(2), line(3), line(4)]


@pytest.mark.parametrize("step", range(1, 12))
async def test_an_append_cancelled_at_any_step_leaves_all_or_nothing(tmp_path: Path, step: int) -> None:
    lines = [line(number) for number in range(20)]
    async with open_log(tmp_path, "process", ROOMY, forwarding=False) as log:
        hand = Hand(log, producer="p")
        async with trio.open_nursery() as nursery:
            counter = CancelAtStep(step, nursery.cancel_scope)
            nursery.start_soon(log.committer.run, name="the committer")
            hand.hand_in(*lines)
            trio.lowlevel.add_instrument(counter)
            nursery.start_soon(log.committer.wait_settled, hand)
            with trio.move_on_after(5):
                await log.committer.wait_settled(hand)
            nursery.cancel_scope.cancel()
        trio.lowlevel.remove_instrument(counter)
    async with a_log(tmp_path) as log:
        stored = await everything(log)
        state = await log.producer("p", 0)
        assert stored in ([], lines)
        assert state.accepted == len(stored)
        assert hand.dealt <= len(stored)  # never acknowledged and not there


class CancelAtStep(trio.abc.Instrument):
    """Cancel a scope before the n-th step of the committer."""

    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self.left, self.scope = step, scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name == "the committer":
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


class LogAgainstList(RuleBasedStateMachine):
    """The store and its reader, against a plain list of lines."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.directory = Path(tempfile.mkdtemp(prefix="synceventsd-test-"))
        self.store = store_in(self.directory, "process")
        self.store.open()
        self.store.begin_epoch()
        self.lines: list[bytes] = []
        self.dropped = 0
        self.forwarded = 0

    @rule(batch=st.lists(st.sampled_from([None, 1, 2, 3]), min_size=1, max_size=6))
    def append(self, batch: list[int | None]) -> None:
        from synceventsd.core.model import Group

        start = len(self.lines)
        new = [line(start + offset + 1, business=business) for offset, business in enumerate(batch)]
        self.store.append(Commit(at=1.0, groups=[Group(start + 1, self.store.epochs.current.name, float(start), new)]))
        self.lines += new

    @rule(share=st.floats(0, 1))
    def forward(self, share: float) -> None:
        self.forwarded = max(self.forwarded, int(len(self.lines) * share))

    @rule(keep=st.integers(0, 2000), groups=st.integers(1, 4))
    def prune(self, keep: int, groups: int) -> None:
        self.store.prune(self.forwarded, 1.0, 1e9, keep, groups, 10**9)
        assert self.store.oldest - 1 <= self.forwarded or self.store.oldest - 1 == self.dropped
        self.dropped = self.store.oldest - 1

    @rule(kill=st.booleans())
    def reopen(self, kill: bool) -> None:
        if kill:
            self.store.disconnect()
        else:
            self.store.close()
        self.store = store_in(self.directory, "process")
        self.store.open()
        self.store.begin_epoch()
        assert self.store.forwarded >= self.dropped  # nothing goes that was not out, whenever the mark was saved

    @invariant()
    def reads_like_the_list(self) -> None:
        if not hasattr(self, "store"):
            return
        assert (self.store.last, self.store.oldest) == (len(self.lines), self.dropped + 1)
        with a_reader(self.store.path) as reader:
            for business in (None, 1, 2):
                found = [
                    (group.first + index, group.lines[index])
                    for group in reader.groups(
                        lambda: self.store.epochs, self.dropped, 10**9, business, self.store.last
                    )[0]
                    for index in group.indexes(business, self.dropped)
                ]
                wanted = [
                    (seq, text)
                    for seq, text in enumerate(self.lines, 1)
                    if seq > self.dropped
                    and (business is None or b"business_id" not in text or b'"business_id":%d,' % business in text)
                ]
                assert found == wanted

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.directory)


@contextmanager
def a_reader(path: Path) -> Iterator[Reader]:
    from synceventsd.eventlog.reader import open_reader

    reader = open_reader(path)
    try:
        yield reader
    finally:
        reader.close()


LogAgainstList.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_the_log_reads_like_a_plain_list = LogAgainstList.TestCase


async def test_marks_beyond_a_log_that_lost_its_end_say_nothing_of_numbers_given_out_again(
    tmp_path: Path,
) -> None:
    async with a_log(tmp_path, forwarding=True) as log:
        await Hand(log).append(*map(line, range(1, 11)))
        log.mark_forwarded(Position(log.epochs.current.name, 10))
        await log.save_mark()
        await log.save_syncs((), 10)
    with sqlite3.connect(tmp_path / "events.db") as db:
        db.execute("DELETE FROM event_group WHERE first > 1")
        db.execute(
            "UPDATE event_group SET count = 1, lines = ?, sums = NULL, totals = NULL, crc = ?",
            (line(1), zlib.crc32(line(1))),
        )
    db.close()
    async with a_log(tmp_path, forwarding=True) as log:
        await Hand(log).append(*map(line, range(2, 8)))
    async with a_log(tmp_path, forwarding=True) as log:
        assert (log.last, log.forwarded) == (7, 1)
        assert (await log.load_syncs())[0] == 1


async def test_sending_again_survives_a_restart_and_a_failed_write_asks_for_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Store.begin_again
    failures = [StorageUnavailable("after the commit"), StorageUnavailable("before it")]

    def failing(store: Store, *args: object) -> None:
        if len(failures) == 1:
            real(store, *args)  # type: ignore[arg-type]
        if failures:
            raise failures.pop()
        real(store, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "begin_again", failing)
    async with a_log(tmp_path, forwarding=True) as log:
        await Hand(log).append(*map(line, range(1, 11)))
        log.mark_forwarded(Position(log.epochs.current.name, 10))
        await log.save_mark()
        sent = log.epochs.current.name
        assert await log.send_again(4, 0) == (4, 10)
        assert len(log.epochs.items) == 2
        assert log.forwarded == 3
        log.mark_forwarded(Position(sent, 10))  # late news of what went out before
        assert log.forwarded == 3
        await Hand(log).append(line(11))
        (group,) = (await log.read(10)).groups
        assert group.epoch == log.epochs.current.name
        assert log.resume(str(group.position(0))).gap is None
    async with a_log(tmp_path, forwarding=True) as log:
        assert log.forwarded == 3
        assert log.epochs.out(Position(sent, 10), log.last, own_mark=0) == 3
        assert [entry.reason for entry in log.ledger()] == ["retried"]


async def test_a_daemon_starts_while_a_tool_looks_whether_one_runs(tmp_path: Path) -> None:
    tmp_path.joinpath("lock").touch()
    with tmp_path.joinpath("lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        timer = threading.Timer(0.05, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        timer.start()
        async with a_log(tmp_path) as log:
            assert log.last == 0
        timer.join()


async def test_a_log_whose_schema_is_no_text_any_more_is_moved_aside_and_the_daemon_starts(tmp_path: Path) -> None:
    async with a_log(tmp_path) as log:
        await Hand(log).append(line(1))
        before = log.log_id
    with (tmp_path / "events.db").open("r+b") as file:
        file.seek(4090)
        file.write(b"\x80")
    async with a_log(tmp_path) as log:
        assert log.log_id != before
        assert [entry.reason for entry in log.ledger()] == ["log_damaged"]
        await Hand(log).append(line(2))
    assert len(list(tmp_path.glob("events.db.damaged-*"))) >= 1
