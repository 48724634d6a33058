"""`syncevents tail`, `watch` and `sync-status` as programs, against the real daemon."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import pytest
from reading_daemon import KEY, LIMIT, Source, a_source
from tests.redis_servers import free_port

from syncevents import Publisher, SyncCompleted, SyncFailed, SyncOrderCreated, SyncParams, SyncStarted
from synceventsd.web.tokens import mint

PROGRAM = [sys.executable, "-m", "syncevents"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    with a_source(tmp_path_factory.mktemp("d"), STATUS_STALLED_AFTER="3600") as made:
        yield made


def settings(source: Source, **more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"SYNCEVENTS_URL": source.url} | more


@contextmanager
def running(source: Source, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        env=settings(source, **environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(source: Source, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], env=settings(source, **environ), capture_output=True, text=True, timeout=LIMIT
    )


def take(stream: IO[str] | None, count: int) -> list[str]:
    assert stream is not None
    return [stream.readline().rstrip("\n") for _ in range(count)]


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=LIMIT)
    return process.returncode, output, errors


def sync(source: Source, integration: int, orders: int, ending: str = "", business: int | None = 42) -> None:
    """Publish a sync that goes on, or ends as told."""
    now = datetime.now(UTC)
    with Publisher(source.daemon.socket) as publisher:
        if orders >= 0:
            publisher.publish_sync_started(
                integration,
                business,
                SyncStarted(
                    integration_id=integration, integration_type="shopify", params=SyncParams(), started_at=now
                ),
            )
        for number in range(orders):
            order = SyncOrderCreated(
                order_id=f"o{number}",
                order_number=f"#{number}",
                external_id=str(number),
                platform="shopify",
                status="paid",
                created_at=now,
                synced_at=now,
            )
            publisher.publish_sync_order_created(integration, business, order)
        if ending == "completed":
            end = SyncCompleted(
                integration_id=integration,
                integration_type="shopify",
                total_orders=7,
                created_orders=4,
                updated_orders=2,
                rejected_orders=1,
                duration=timedelta(seconds=1),
                completed_at=now,
            )
            publisher.publish_sync_completed(integration, business, end)
        elif ending == "failed":
            failed = SyncFailed(
                integration_id=integration, integration_type="shopify", error="no answer", failed_at=now
            )
            publisher.publish_sync_failed(integration, business, failed)
        publisher.flush(timeout=LIMIT)


def test_tail_shows_the_newest_events_and_those_that_come(source: Source) -> None:
    source.publish(12, business=101)
    with running(source, "tail", "--business", "101") as process:
        lines = take(process.stdout, 10)
        source.publish(1, business=101)
        lines += take(process.stdout, 1)
        assert [line.split()[4] for line in lines] == [
            f"#{n}" for n in range(source.published - 10, source.published + 1)
        ]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  13/101    order\.created   #\d+ +", lines[0] + " ")
        assert interrupt(process) == (130, "", "")


def test_tail_takes_filters_and_short_names_of_types(source: Source) -> None:
    source.publish_lines(*(line_of(kind, integration) for kind in ("created", "rejected") for integration in (13, 14)))
    with running(source, "tail", "-b", "102", "-t", "order.rejected", "-i", "14", "--json") as process:
        (line,) = take(process.stdout, 1)
    assert json.loads(line)["data"] == {"n": "rejected14"}
    with running(source, "tail", "-b", "102", "-o", "the-order", "--json", "-n", "1") as process:
        (line,) = take(process.stdout, 1)
    assert json.loads(line)["type"] == "integration.sync.order.rejected"


def line_of(kind: str, integration: int, **more: Any) -> bytes:
    event = {
        "event_type": f"integration.sync.order.{kind}",
        "integration_id": integration,
        "business_id": 102,
        "data": {"n": f"{kind}{integration}"},
        "metadata": {"order_id": "the-order"},
    }
    return json.dumps(event | more).encode()


def test_tail_json_has_the_daemons_payload_with_every_digit_and_the_position(source: Source) -> None:
    text = line_of("created", 13, business_id=103, id="x", timestamp="2026-01-02T03:04:05.123456Z", data={"n": "@"})
    source.publish_lines(text.replace(b'"@"', b"12.50"))
    with running(source, "tail", "-b", "103", "--json") as process:
        (line,) = take(process.stdout, 1)
    assert '"data":{"n":12.50}' in line
    told = json.loads(line)
    assert told["timestamp"] == "2026-01-02T03:04:05.123456+00:00"
    assert set(told) == {
        "id",
        "type",
        "integration_id",
        "business_id",
        "timestamp",
        "data",
        "metadata",
        "seq",
        "position",
    }


def test_tail_since_begins_with_the_first_event_of_that_time(source: Source) -> None:
    old, new = (datetime.now(UTC) - timedelta(minutes=minutes) for minutes in (20, 5))
    lines = [
        line_of("created", number, business_id=104, timestamp=at.isoformat())
        for number, at in ((1, old), (2, new), (3, old))
    ]
    source.publish_lines(*lines)
    with running(source, "tail", "-b", "104", "--since", "10m", "--json") as process:
        told = [json.loads(line) for line in take(process.stdout, 2)]
    assert [each["integration_id"] for each in told] == [2, 3]


def test_a_reader_of_the_output_that_leaves_ends_it_quietly(source: Source) -> None:
    command = f"{sys.executable} -m syncevents tail -b 105 | head -n 2; exit ${{PIPESTATUS[0]}}"
    with subprocess.Popen(
        ["bash", "-c", command], env=settings(source), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + LIMIT
        while process.poll() is None and time.monotonic() < deadline:
            source.publish(1, business=105)  # as with any program, the next line shows that nobody reads any more
            time.sleep(0.05)
        process.kill()
        output, errors = process.communicate()
    assert (process.returncode, output.count("\n"), errors) == (0, 2, "")


def test_tail_survives_a_restart_and_says_so(tmp_path: Path) -> None:
    with a_source(tmp_path) as source:
        source.publish(1)
        with running(source, "tail", "--json") as process:
            lines = take(process.stdout, 1)
            source.restart()
            source.publish(1)
            lines += take(process.stdout, 1)
            status, _, errors = interrupt(process)
    assert [json.loads(line)["id"] for line in lines] == ["event-1", "event-2"]
    assert status == 130
    assert re.fullmatch(
        r"syncevents: the connection is lost \(.+\); trying again until it is back\nsyncevents: connected again\n",
        errors,
    )


def test_a_daemon_that_is_not_there_is_told_in_one_line(source: Source) -> None:
    for command in (["tail"], ["watch"], ["sync-status", "13"]):
        done = run(source, *command, SYNCEVENTS_URL=f"http://127.0.0.1:{free_port()}")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (69, "", 1)
        assert done.stderr.startswith("syncevents: no daemon answers at http://127.0.0.1:")
        assert "Connection refused" in done.stderr


def test_a_wrong_path_and_wrong_arguments_have_statuses_of_their_own(source: Source) -> None:
    for command in (["tail"], ["watch"], ["sync-status", "13"]):
        done = run(source, *command, "--url", f"{source.url}/elsewhere")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "answered 404" in done.stderr
        done = run(source, *command, "--url", "ftp://here")
        assert done.returncode == 2
        assert "url must be http://" in done.stderr
    for wrong in (["--since", "ten"], ["--order", "a,b"], ["--business", "0"]):
        assert run(source, "tail", *wrong).returncode == 2


def test_a_token_comes_from_a_file_or_the_environment_and_its_absence_has_a_status(tmp_path: Path) -> None:
    with a_source(tmp_path, tokens=True) as source:
        token = mint(KEY.encode(), [42], 600, time.time())
        (tmp_path / "token").write_text(f"{token}\n")
        sync(source, 13, 1)
        for given, environ in ((["--token-file", str(tmp_path / "token")], {}), ([], {"SYNCEVENTS_TOKEN": token})):
            done = run(source, "sync-status", "13", "-b", "42", *given, **environ)
            assert (done.returncode, done.stdout[:27]) == (0, "integration 13, business 42")
        for command in (["sync-status", "13"], ["tail", "-b", "7"]):
            assert run(source, *command, SYNCEVENTS_TOKEN=token).returncode == 77
        for command in (["sync-status", "13", "-b", "42"], ["tail", "-b", "42"], ["watch", "-b", "42"]):
            done = run(source, *command)
            assert (done.returncode, done.stderr.count("\n")) == (77, 1)
            assert "a token is needed" in done.stderr
        done = run(source, "tail", "--token-file", "/nowhere")
        assert (done.returncode, done.stderr) == (
            1,
            "Error: --token-file /nowhere cannot be read: [Errno 2] No such file or directory: '/nowhere'\n",
        )


def test_the_sync_status_is_told_for_people_and_for_programs(source: Source) -> None:
    assert run(source, "sync-status", "200").stdout == "integration 200: no sync is known\n"
    sync(source, 201, 3)
    first, second = run(source, "sync-status", "201").stdout.splitlines()
    assert re.fullmatch(r"integration 201, business 42 \(shopify\): in progress for [\d.]+ s", first)
    assert second == "  3 orders: 3 created, 0 updated, 0 rejected"
    sync(source, 201, -1, "completed")
    first, second, third = run(source, "sync-status", "201", "--business", "42").stdout.splitlines()
    assert first == "integration 201, business 42 (shopify): no sync is going on"
    assert re.fullmatch(r"last sync: completed \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, took [\d.]+ s", second)
    assert third == "  7 orders: 4 created, 2 updated, 1 rejected"
    sync(source, 201, 0, "failed")
    assert run(source, "sync-status", "201").stdout.splitlines()[1:][1] == "  no answer"
    told = run(source, "sync-status", "201", "--json").stdout
    assert json.loads(told) == source.daemon.get("/integrations/events/sync-status/201")[1]


def test_watch_tells_programs_of_each_sync_from_start_to_end(source: Source) -> None:
    sync(source, 210, 2, business=44)
    with running(source, "watch", "--json", "--interval", "0.2", "--business", "44") as process:
        (line,) = take(process.stdout, 1)  # it began before
        told = json.loads(line)
        assert (told["integration_id"], told["status"], told["business_id"]) == (210, "in_progress", 44)
        seen = [told]
        sync(source, 211, 1, "failed", business=44)
        sync(source, 210, -1, "completed", business=44)
        while seen[-1]["status"] != "completed":
            seen.append(json.loads(take(process.stdout, 1)[0]))
        assert interrupt(process)[0] == 130
    of_211 = [each["status"] for each in seen if each["integration_id"] == 211]
    assert [status for status in of_211 if status != "in_progress"] == ["started", "failed"]
    assert any(each["total_orders"] == 2 for each in seen if each["integration_id"] == 210)
    assert (seen[-1]["integration_id"], seen[-1]["total_orders"], seen[-1]["rejected_orders"]) == (210, 7, 1)


def test_watch_writes_plain_lines_where_no_terminal_is(source: Source) -> None:
    with running(source, "watch", "-n", "0.2", "-b", "45") as process:
        deadline = time.monotonic() + LIMIT
        while source.daemon.status()["sse_connections"] < 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        sync(source, 220, 2, "completed", business=45)
        lines = take(process.stdout, 2)
        assert interrupt(process)[0] == 130
    assert lines[0].endswith("220/45 shopify  started")
    assert re.search(r"220/45 shopify  completed after [\d.]+ s: 7 orders: 4 created, 2 updated, 1 rejected$", lines[1])
    assert "\x1b" not in "".join(lines)


_DRAWN = "\x1b[J"  # clears what is below; the last that `watch` writes of a table


class Terminal:
    """What a terminal shows after the few sequences that `watch` uses."""

    def __init__(self) -> None:
        self.text = ""

    @property
    def screen(self) -> list[str]:
        """The rows after the last drawing that is there whole: one write may be read in several pieces."""
        rows, at = [""], 0
        drawn = self.text.rfind(_DRAWN)
        whole = self.text if drawn < 0 else self.text[: drawn + len(_DRAWN)]
        for part in re.findall(r"\x1b\[[\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", whole):
            if part == "\n":
                at += 1
                if at == len(rows):
                    rows.append("")
            elif part.endswith("A") and part.startswith("\x1b"):
                at = max(0, at - int(part[2:-1]))
            elif part == _DRAWN:
                rows[at:] = [""]
            elif not part.startswith("\x1b") and part != "\r":
                rows[at] = part
        return rows


@contextmanager
def on_a_terminal(source: Source, *arguments: str, **environ: str) -> Iterator[tuple[subprocess.Popen[bytes], Any]]:
    ours, theirs = pty.openpty()
    environ = {"TERM": "xterm", "COLUMNS": "120", "LINES": "12"} | environ
    process = subprocess.Popen([*PROGRAM, *arguments], env=settings(source, **environ), stdout=theirs, stderr=theirs)
    os.close(theirs)
    terminal = Terminal()

    def until(words: str) -> Terminal:
        deadline = time.monotonic() + LIMIT
        while words not in "\n".join(terminal.screen):
            assert time.monotonic() < deadline, terminal.screen
            terminal.text += os.read(ours, 65536).decode()
        return terminal

    try:
        yield process, until
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_watch_keeps_one_table_up_to_date_on_a_terminal(source: Source) -> None:
    with on_a_terminal(source, "watch", "-n", "0.2", "-b", "46") as (process, until):
        until("no sync is going on")
        sync(source, 230, 3, business=46)
        sync(source, 231, 1, business=46)
        terminal = until("\n        231")
        until("        230          46  shopify               3        3        0         0")
        assert sum("INTEGRATION" in row for row in terminal.screen) == 1
        sync(source, 230, -1, "completed", business=46)
        screen = until("completed after").screen
        assert "230/46 shopify  completed after" in screen[0]
        assert [row.split()[0] for row in screen[1:3]] == ["INTEGRATION", "231"]
        assert len([row for row in screen if row]) == 3
        assert "\x1b[32m" in terminal.text
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 130


def test_nobody_gets_colours_who_asked_for_none(source: Source) -> None:
    source.publish(1, business=47)
    with on_a_terminal(source, "tail", "-b", "47") as (_, until):
        assert "\x1b[32m" in until(f"#{source.published}").text
    with on_a_terminal(source, "tail", "-b", "47", NO_COLOR="1") as (_, until):
        assert "\x1b" not in until(f"#{source.published}").text


def test_help_teaches_and_the_shell_completes(source: Source) -> None:
    for command in ("tail", "watch", "sync-status"):
        text = run(source, command, "--help").stdout
        assert "Examples:" in text
        for status in ("0 ", "1 ", "2 ", "69", "77", "130"):
            assert re.search(rf"\n +{status} +\w", text), (command, status)
    words = {"_SYNCEVENTS_COMPLETE": "bash_complete", "COMP_WORDS": "syncevents tail --type order.c", "COMP_CWORD": "3"}
    assert run(source, **words).stdout == "plain,order.created\n"
    assert "_syncevents_completion" in run(source, _SYNCEVENTS_COMPLETE="bash_source").stdout


def test_without_the_extra_the_program_says_so(tmp_path: Path, source: Source) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u; f = u.find_spec\n"
        "u.find_spec = lambda n, p=None: None if n == 'click' else f(n, p)\n"
    )
    done = run(source, "tail", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        1,
        "syncevents: this program needs click: pip install 'syncevents[cli]'\n",
    )
