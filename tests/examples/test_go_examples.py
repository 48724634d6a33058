"""The examples in Go: a publisher that resumes, and a subscriber with the consumers' strict struct."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.events import line
from tests.examples.conftest import EXAMPLES, Stage
from tests.faults.harness import a_daemon
from tests.redis_servers import PATIENCE, eventually

GO = shutil.which("go")
pytestmark = pytest.mark.skipif(GO is None, reason="no Go toolchain here (Debian: golang-go)")
ORDERS = 3000


def go(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    assert GO is not None
    environ = os.environ | {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    return subprocess.run(
        [GO, *arguments], cwd=directory, env=environ, capture_output=True, text=True, timeout=4 * PATIENCE
    )


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both, with nothing but the standard library."""
    built = tmp_path_factory.mktemp("go")
    done = go("build", "-o", f"{built}/", "./...", directory=EXAMPLES / "go")
    assert done.returncode == 0, done.stderr
    return built


def test_go_vet_finds_nothing() -> None:
    done = go("vet", "./...", directory=EXAMPLES / "go")
    assert (done.returncode, done.stderr) == (0, "")


def numbers(exported: str) -> list[int]:
    events = [json.loads(text) for text in exported.splitlines()]
    return [int(event["data"]["order_id"]) for event in events if event["event_type"].endswith("created")]


def test_the_publisher_resumes_after_kills_and_nothing_is_lost_doubled_or_out_of_order(
    programs: Path, tmp_path: Path
) -> None:
    with a_daemon(tmp_path, "none") as daemon:
        daemon.start()
        command = [programs / "publisher", "-socket", daemon.socket, "-orders", str(ORDERS), "-pause", "1ms"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            for share in (1, 2, 3):
                accepted = ORDERS * share // 4
                eventually(lambda accepted=accepted: daemon.status()["events"]["accepted"] >= accepted)  # type: ignore[misc]
                daemon.kill()
                daemon.start()
            _, told = process.communicate(timeout=2 * PATIENCE)
        finally:
            process.kill()
            process.wait()
        assert (process.returncode, told) == (0, "")
        assert daemon.stop() == 0
    export = ["synceventsd", "log", "export", "--state-dir", str(daemon.state)]
    exported = subprocess.run([sys.executable, "-m", *export], capture_output=True, text=True, timeout=PATIENCE)
    assert numbers(exported.stdout) == list(range(1, ORDERS + 1))


def test_the_publisher_tells_what_was_rejected_once(programs: Path, tmp_path: Path) -> None:
    rules = '[{"user":"nobody","integrations":["*"],"businesses":["*"]}]'
    with a_daemon(tmp_path, "none", settings={"SYNCEVENTSD_INGEST_RULES": rules}) as daemon:
        daemon.start()
        done = subprocess.run(
            [programs / "publisher", "-socket", daemon.socket, "-orders", "3"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert done.returncode == 0
    assert [text.split(":")[:2] for text in done.stderr.splitlines()] == [["not stored", " forbidden"]] * 5


def test_the_publishers_events_come_to_redis(programs: Path, stage: Stage) -> None:
    done = stage.run(programs / "publisher", "-socket", stage.daemon.socket, "-orders", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert stage.types(4) == ["started", "order.created", "order.created", "completed"]


def test_the_subscribers_strict_struct_takes_what_every_publisher_sends(
    programs: Path, stage: Stage, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    address = f"127.0.0.1:{stage.redis.port}"
    with output.open("wb") as log:
        process = subprocess.Popen([programs / "subscriber", "-redis", address], stdout=log, stderr=log)
    try:
        eventually(lambda: "subscribed" in output.read_text())
        assert stage.python("plain_script.py").returncode == 0
        assert stage.run(programs / "publisher", "-socket", stage.daemon.socket, "-orders", "1").returncode == 0
        (tmp_path / "global").write_bytes(line(business=None) + b"\n" + line(2, business=None, metadata={"a": 1}))
        assert stage.python("-m", "syncevents", "publish", tmp_path / "global").returncode == 0
        eventually(lambda: output.read_text().count("\n") == 1 + 5 + 3 + 2, output.read_text())
    finally:
        process.kill()
        process.wait()
    told = output.read_text().splitlines()[1:]
    assert [text.split()[1:4] for text in told[:1] + told[-1:]] == [
        ["integration.sync.started", "13", "42"],
        ["integration.sync.order.created", "13", "all"],
    ]
