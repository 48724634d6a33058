"""The tools that look at a log: they tell what is there and what is broken, and change nothing."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from io import BytesIO
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.events import Hand, a_log, line
from tests.faults.harness import Load, a_daemon
from tests.other_users import let_everybody_in
from tests.users import as_nobody

from syncevents.publish_command import publish
from synceventsd import cli
from synceventsd.core.errors import LogDamaged, StorageUnavailable
from synceventsd.eventlog.audit import Audit
from synceventsd.eventlog.onlooker import Onlooker
from synceventsd.logtool.export import Export

COUNT = 300


def event(number: int) -> bytes:
    return line(
        number, business=(None, 1, 2, 3)[number % 4], integration=number % 2, data={"pad": "x" * (number % 700)}
    )


LINES = [event(number) for number in range(1, COUNT + 1)]


async def _fill(state: Path) -> None:
    async with a_log(state) as log:
        hand = Hand(log, producer="p")
        await hand.append(b"rubbish")
        for start in range(0, COUNT, 7):
            await hand.append(*LINES[start : start + 7])


async def _fill_and_copy(state: Path, copy: Path) -> None:
    async with a_log(state) as log:
        await Hand(log).append(*LINES[:100])
        await trio.to_thread.run_sync(log._store._checkpoint, "PASSIVE")
        await Hand(log).append(*LINES[100:])
        shutil.copytree(state, copy)  # what a kill leaves: much of it is in the WAL only


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = tmp_path_factory.mktemp("filled")
    trio.run(_fill, state)
    return state


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = tmp_path_factory.mktemp("killed")
    trio.run(_fill_and_copy, state / "running", state / "killed")
    return state / "killed"


@pytest.fixture
def log(filled: Path, tmp_path: Path) -> Path:
    shutil.copytree(filled, tmp_path / "state")
    return tmp_path / "state"


def tool(state: Path, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli.synceventsd, ["log", command, "--state-dir", str(state), *arguments])


def prints(state: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(state.iterdir())}


def harm(state: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(state / "events.db")) as db, db:
        assert db.execute(sql, values).rowcount > 0


# What is told


def test_stat_tells_what_the_log_holds(log: Path) -> None:
    done = tool(log, "stat", "--json")
    assert done.exit_code == 0
    facts = json.loads(done.stdout)
    told = {
        name: facts[name] for name in ("first", "newest", "events", "text_bytes", "producers", "rejects", "running")
    }
    # The text of a group holds the newlines between its events too.
    size = sum(map(len, LINES)) + COUNT - (COUNT + 6) // 7
    assert list(told.values()) == [1, COUNT, COUNT, size, 1, 1, False]
    assert facts["log_id"] in tool(log, "stat").stdout


def test_the_newest_events_are_listed_a_line_each(log: Path) -> None:
    lines = tool(log, "list").stdout.splitlines()
    assert [int(text.split()[0]) for text in lines] == list(range(COUNT - 19, COUNT + 1))
    seq, at, kind, integration, business, name, size = lines[-1].split()
    assert (seq, kind, integration, business) == ("300", "integration.sync.order.created", "0", "-")
    assert (name, size) == ("event-300", str(len(LINES[-1])))
    assert at.endswith("Z")


@given(
    first=st.none() | st.integers(1, COUNT + 20),
    length=st.none() | st.integers(0, COUNT),
    limit=st.integers(0, 50),
    business=st.none() | st.integers(1, 5),
    integration=st.none() | st.integers(0, 2),
    kind=st.sampled_from([None, "integration.sync.order.created", "nothing"]),
)
@settings(max_examples=60, deadline=None)
def test_exactly_what_matches_is_listed(
    filled: Path,
    first: int | None,
    length: int | None,
    limit: int,
    business: int | None,
    integration: int | None,
    kind: str | None,
) -> None:
    last = None if length is None else (first or 1) + length
    given_ = {"--from": first, "--to": last, "--limit": limit, "--business": business}
    given_ |= {"--integration": integration, "--type": kind}
    done = tool(filled, "list", "--json", *(str(x) for pair in given_.items() if pair[1] is not None for x in pair))
    assert done.exit_code == 0, done.stderr
    found = [json.loads(text)["seq"] for text in done.stdout.splitlines()]
    wanted = [
        n
        for n in range(first or 1, min(last or COUNT, COUNT) + 1)
        if business in (None, (None, 1, 2, 3)[n % 4]) and integration in (None, n % 2) and kind != "nothing"
    ]
    if limit:
        wanted = wanted[:limit] if first is not None else wanted[-limit:]
    assert found == wanted


def test_foreign_text_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    async def fill() -> None:
        async with a_log(tmp_path) as log:
            await Hand(log).append(line(1, id="a\n\x1b[31m b\u202e" + "c" * 500))

    trio.run(fill)
    (told,) = tool(tmp_path, "list").stdout.splitlines()
    assert told.isascii()
    assert len(told.split()) == 7
    assert len(told) < 250


@given(first=st.none() | st.integers(1, COUNT), length=st.none() | st.integers(0, COUNT))
@settings(max_examples=40, deadline=None)
def test_an_export_is_byte_for_byte_what_was_accepted(filled: Path, first: int | None, length: int | None) -> None:
    last = None if length is None else min((first or 1) + length, COUNT)
    ends = {"--from": first, "--to": last}
    done = tool(filled, "export", *(str(x) for pair in ends.items() if pair[1] is not None for x in pair))
    assert done.exit_code == 0
    assert done.stdout_bytes == b"".join(text + b"\n" for text in LINES[(first or 1) - 1 : last])


def test_what_an_export_has_not_is_told_and_status_1(log: Path) -> None:
    done = tool(log, "export", "--from", "290", "--to", "310")
    assert (done.exit_code, done.stdout_bytes.count(b"\n")) == (1, 11)
    assert done.stderr == "synceventsd: events 301 to 310: not there yet: the newest event is 300\n"
    harm(log, "DELETE FROM event_group WHERE first <= 8")
    harm(log, "INSERT OR REPLACE INTO meta VALUES ('last_deleted', 14)")
    done = tool(log, "export", "--from", "10", "--to", "20")
    assert (done.exit_code, done.stdout_bytes.count(b"\n")) == (1, 6)
    assert done.stderr == "synceventsd: events 10 to 14: deleted by retention\n"


def test_an_exported_file_appears_whole_or_not_at_all(log: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    assert tool(log, "export", "-o", str(target)).exit_code == 0
    assert target.read_bytes().split(b"\n")[:-1] == LINES
    assert target.stat().st_mode & 0o777 == 0o600
    directory = tmp_path / "taken"
    directory.mkdir()
    done = tool(log, "export", "-o", str(directory))
    assert done.exit_code == 74
    assert tool(log, "export", "-o", str(tmp_path / "no" / "where")).exit_code == 74
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "state", "taken"]


def test_an_exported_log_can_be_published_again(log: Path, tmp_path: Path) -> None:
    with a_daemon(tmp_path / "other", "none") as daemon:
        (tmp_path / "other").mkdir()
        daemon.start()
        exported = tool(log, "export").stdout_bytes
        done = CliRunner().invoke(publish, ["--socket", daemon.socket], input=exported)
        assert done.exit_code == 0, done.stderr
        assert tool(daemon.state, "export").stdout_bytes == exported


# Where a log is, and where none is


@pytest.mark.parametrize("command", ["stat", "list", "export", "verify"])
def test_no_tool_changes_a_log_that_is_at_rest(log: Path, killed: Path, command: str, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path / "killed")
    for state in (log, tmp_path / "killed"):
        before = prints(state)
        done = tool(state, command)
        assert done.exit_code == 0, done.stderr
        assert prints(state) == before


def test_what_only_the_wal_of_a_killed_daemon_holds_is_seen(killed: Path) -> None:
    assert (killed / "events.db-wal").stat().st_size > 0
    assert tool(killed, "export").stdout_bytes.split(b"\n")[:-1] == LINES
    assert json.loads(tool(killed, "verify", "--json").stdout)["events"] == COUNT


@pytest.mark.parametrize("command", ["stat", "list", "export", "verify"])
def test_no_log_is_status_66(tmp_path: Path, command: str) -> None:
    for state in (tmp_path / "missing", tmp_path):
        done = tool(state, command)
        assert (done.exit_code, done.stdout) == (66, "")
        assert done.stderr.startswith(f"synceventsd: there is no log at {state}/events.db; name its directory")
    (tmp_path / "events.db").touch()
    assert tool(tmp_path, command).exit_code == 66


@pytest.mark.parametrize("command", ["stat", "list", "export", "verify"])
def test_a_file_that_is_no_log_of_this_version_is_status_65(log: Path, command: str) -> None:
    harm_pragma(log, "user_version = 99")
    done = tool(log, command)
    assert (done.exit_code, done.stdout) == (65, "")
    assert "version 99" in done.stderr
    harm_pragma(log, "application_id = 7")
    assert "no log of synceventsd" in tool(log, command).stderr
    (log / "events.db").write_bytes(b"rubbish" * 1000)
    assert tool(log, command).exit_code == 65


def harm_pragma(state: Path, text: str) -> None:
    with closing(sqlite3.connect(state / "events.db")) as db:
        db.execute(f"PRAGMA {text}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_log_that_may_not_be_read_is_status_77_and_a_read_only_directory_is_enough(
    log: Path, killed: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert tool(log, "verify").exit_code == 0  # loads what the child could not read
    place = tmp_path_factory.mktemp("readable")
    let_everybody_in(place)
    for name, state in (("stopped", log), ("killed", killed)):
        copy = place / name
        shutil.copytree(state, copy)
        copy.chmod(0o700)
        assert as_nobody(lambda copy=copy: tool(copy, "stat").exit_code) == 77  # type: ignore[misc]
        copy.chmod(0o555)
        for path in copy.iterdir():
            path.chmod(0o444)
        before = prints(copy)
        for command in ("stat", "list", "export", "verify"):
            assert as_nobody(lambda c=command, copy=copy: tool(copy, c).exit_code) == 0  # type: ignore[misc]
        assert prints(copy) == before


def test_beside_a_running_daemon_the_tools_tell_the_truth_and_the_writer_goes_on(tmp_path: Path) -> None:
    with a_daemon(tmp_path, "none") as daemon:
        daemon.start()
        load = Load(daemon.socket)
        load.start()
        seen = 0
        for command in ("stat", "list", "verify", "export", "verify"):
            done = tool(daemon.state, command)
            assert done.exit_code == 0, done.output
            newest = json.loads(tool(daemon.state, "stat", "--json").stdout)
            assert newest["running"] is True
            assert (newest["newest"] or 0) >= seen
            seen = newest["newest"] or 0
        load.finish()
        assert len(tool(daemon.state, "export").stdout_bytes.split(b"\n")) == load.total + 1
        assert daemon.stop() == 0
        assert sorted(path.name for path in daemon.state.iterdir() if "ballast" not in path.name) == [
            "events.db",
            "lock",
        ]


def test_a_look_during_which_a_daemon_began_is_done_again(log: Path) -> None:
    looks = []
    with closing(Onlooker(log)) as onlooker:

        def look(db: sqlite3.Connection) -> int:
            looks.append(onlooker.running)
            if len(looks) == 1:
                harm(log, "UPDATE meta SET value = 0 WHERE key = 'log_id'")
            return int(db.execute("SELECT count(*) FROM epoch").fetchone()[0])

        assert onlooker.look(look) == 1
    assert looks == [False, False]


# What is broken


def findings(state: Path) -> list[tuple[str, int | None, int | None]]:
    done = tool(state, "verify", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == (0 if told["ok"] else 1)
    return [(finding["what"], finding["first"], finding["last"]) for finding in told["findings"]]


DAMAGE: dict[str, tuple[str, list[tuple[str, int | None, int | None]]]] = {
    "nothing": ("UPDATE meta SET value = value", []),
    "a checksum": ("UPDATE event_group SET crc = crc + 1 WHERE first = 8", [("damaged", 8, 14)]),
    "a count": ("UPDATE event_group SET count = 6 WHERE first = 8", [("missing", 14, 14), ("damaged", 8, 13)]),
    "the text": ("UPDATE event_group SET lines = NULL || 'x' WHERE first = 8", []),
    "bytes_before": ("UPDATE event_group SET bytes_before = 5 WHERE first = 8", [("damaged", 8, 14)]),
    "a group that is gone": (
        "DELETE FROM event_group WHERE first = 8",
        [("missing", 8, 14), *[("index", 8, None)] * 4],
    ),
    "an index entry that is gone": ("DELETE FROM place WHERE first = 8 AND business = 1", [("index", 8, 14)]),
    "an index entry too many": ("INSERT INTO place VALUES (77, 8)", [("index", 8, None)]),
    "whose events they are": (
        "UPDATE event_group SET businesses = X'01000000' WHERE first = 8",
        [("damaged", 8, 14), *[("index", 8, None)] * 3],
    ),
    "the mark": ("INSERT OR REPLACE INTO meta VALUES ('forwarded', 301)", [("marks", None, None)]),
    "the epochs": ("UPDATE epoch SET first = 500", [("marks", None, None)]),
}
del DAMAGE["the text"]


@pytest.mark.parametrize("what", list(DAMAGE))
def test_verify_finds(log: Path, what: str) -> None:
    sql, wanted = DAMAGE[what]
    harm(log, sql)
    assert sorted(findings(log), key=str) == sorted(wanted, key=str)


def test_a_hole_that_the_ledger_tells_of_is_a_note(log: Path) -> None:
    harm(log, "DELETE FROM event_group WHERE first IN (8, 15)")
    harm(log, "DELETE FROM place WHERE first IN (8, 15)")
    harm(log, "INSERT INTO ledger VALUES (99, 0, 'log_damaged', 5, 30, 9, 'does not read', 0, NULL)")
    assert findings(log) == []
    assert "note: events 8 to 21 are missing, as the ledger says" in tool(log, "verify").stdout


def test_damaged_events_are_left_out_told_and_status_1(log: Path) -> None:
    harm(log, "UPDATE event_group SET crc = crc + 1 WHERE first IN (8, 295)")
    done = tool(log, "export")
    assert done.exit_code == 1
    assert done.stdout_bytes.split(b"\n")[:-1] == LINES[:7] + LINES[14:294]
    assert done.stderr.splitlines() == [
        "synceventsd: events 8 to 14: damaged: checksum does not match",
        "synceventsd: events 295 to 300: damaged: checksum does not match",
    ]
    done = tool(log, "list")
    assert (done.exit_code, len(done.stdout.splitlines())) == (1, 20)
    assert done.stderr == "synceventsd: events 295 to 300: damaged; see `synceventsd log verify`\n"
    told = tool(log, "verify").stdout
    assert "damaged: events 8 to 14: checksum does not match" in told
    assert "touch events.db-suspect" in told


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@given(page=st.integers(0, 10**6), offset=st.integers(0, 4095), garbage=st.binary(min_size=1, max_size=64))
@example(page=0, offset=4090, garbage=b"\x80")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_are_overwritten_no_false_event_is_exported_and_none_is_lost_in_silence(
    filled: Path, scratch: Path, page: int, offset: int, garbage: bytes
) -> None:
    pristine = (filled / "events.db").read_bytes()
    start = page % (len(pristine) // 4096) * 4096 + offset
    (scratch / "events.db").write_bytes(
        (pristine[:start] + garbage + pristine[start + len(garbage) :])[: len(pristine)]
    )
    output, missed = BytesIO(), set[int]()
    with closing(Onlooker(scratch)) as onlooker:
        export = Export(onlooker, lambda *_: None, lambda a, b, _: missed.update(range(a, b + 1)))
        try:
            export.run(1, COUNT, output)
            audit = Audit(onlooker, lambda *_: None)
            audit.run()
        except (LogDamaged, StorageUnavailable):
            return  # told as such
        except Exception as error:
            if type(error).__name__ in ("LogForeign", "LogMissing"):
                return
            raise
    written = output.getvalue().split(b"\n")[:-1]
    found = [LINES.index(text) for text in written]
    assert found == sorted(set(found))
    assert len(written) + len(missed) == COUNT
    if written != LINES:
        assert audit.findings
