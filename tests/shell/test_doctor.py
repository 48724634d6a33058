"""`synceventsd status` and `doctor` against what really goes wrong: servers, sockets, rights, files."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.events import line
from tests.faults.harness import Daemon, a_daemon, eventually
from tests.redis_servers import BINARIES, RedisServer, each_server, free_port, redis_server
from tests.shell.test_cli import synceventsd
from tests.shell.test_daemon import talk

from synceventsd.config import RedisConfig
from synceventsd.redis_sink.probe import probe

SERVER = next(iter(BINARIES))
SECRET = "correct-horse-battery-staple-0123456789"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with a_daemon(tmp_path, "none") as one:
        yield one


def settings(directory: Path, redis: str = "none", **more: str) -> dict[str, str]:
    """The environment by which the program means a daemon of the harness in this directory."""
    return {
        "SYNCEVENTSD_INGEST_SOCKET": str(directory / "s"),
        "SYNCEVENTSD_STORAGE_STATE_DIR": str(directory / "state"),
        "SYNCEVENTSD_STORAGE_MAX_BYTES": str(2**20),
        "SYNCEVENTSD_REDIS_URL": redis,
        "SYNCEVENTSD_REDIS_TIMEOUT": "2",
        "SYNCEVENTSD_HTTP_BIND": f"127.0.0.1:{free_port()}",
    } | more


def of(daemon: Daemon, **more: str) -> dict[str, str]:
    return settings(daemon.directory, daemon.redis_url, SYNCEVENTSD_HTTP_BIND=f"127.0.0.1:{daemon.port}") | more


def examined(**variables: str) -> dict[str, tuple[str, str]]:
    """Level and words of each check; where there are several, the worst."""
    done = synceventsd("doctor", "--json", **variables)
    assert done.stderr == ""
    report = json.loads(done.stdout)
    levels = ["OK", "WARN", "FAIL"]
    found: dict[str, tuple[str, str]] = {}
    for one in sorted(report["findings"], key=lambda one: levels.index(one["level"])):
        assert bool(one["remedy"]) is (one["level"] != "OK")
        found[one["check"]] = (one["level"], f"{one['found']} -> {one['remedy']}")
    failed = any(level == "FAIL" for level, _ in found.values())
    assert (report["ok"], done.returncode) == (not failed, int(failed))
    return found


# status


def test_status_of_a_daemon_that_does_well_is_ten_lines_and_0(daemon: Daemon) -> None:
    daemon.start()
    talk(daemon.socket, line(1), b"rubbish")
    done = synceventsd("status", **of(daemon))
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.splitlines()
    assert len(told) == 10
    assert told[0].startswith("OK: ")
    assert "1 accepted" in done.stdout
    assert "invalid_json 1" in done.stdout
    assert "\x1b" not in done.stdout, "no colours into a pipe"


def test_status_says_that_events_are_stuck_and_why_with_1(tmp_path: Path) -> None:
    with a_daemon(tmp_path, f"redis://127.0.0.1:{free_port()}/0") as daemon:
        daemon.start()
        talk(daemon.socket, line(1), line(2))
        eventually(lambda: (daemon.status()["waiting"]["oldest_age_seconds"] or 0) > 1.0, "it waits")
        done = synceventsd("status", "--url", f"http://127.0.0.1:{daemon.port}/")
        assert done.returncode == 1
        assert done.stdout.startswith("EVENTS STUCK: 2 wait for Redis")
        assert "(refused)" in done.stdout.splitlines()[0]
        report = json.loads(synceventsd("status", "--json", **of(daemon)).stdout)
        assert (report["health"], report["waiting"]["count"]) == ("EVENTS STUCK", 2)


def test_status_over_a_unix_socket_with_a_base_path_and_tokens(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    guarded = {"SYNCEVENTSD_HTTP_BASE_PATH": "/api/v1", "SYNCEVENTSD_HTTP_TOKEN_SECRET_FILE": str(secret)}
    http = f"unix:{tmp_path / 'h'}"
    environ = settings(tmp_path, SYNCEVENTSD_HTTP_BIND=http) | guarded
    command = [sys.executable, "-m", "synceventsd", "run"]
    process = subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: (tmp_path / "h").exists(), "it listens")
        assert synceventsd("status", **environ).stdout.startswith("OK: ")
        without = synceventsd("status", "--http", http, SYNCEVENTSD_HTTP_BASE_PATH="/api/v1")
        assert (without.returncode, "token" in without.stderr) == (77, True)
    finally:
        process.terminate()
        process.wait()


def test_status_where_nobody_or_somebody_else_answers_is_69(tmp_path: Path) -> None:
    done = synceventsd("status", "--url", f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout) == (69, "")
    assert "doctor" in done.stderr
    with something_else() as port:
        assert synceventsd("status", "--url", f"http://127.0.0.1:{port}").returncode == 69
    assert synceventsd("status", SYNCEVENTSD_HTTP_BIND="none").returncode == 69


@pytest.mark.parametrize("url", ["https://x", "x", "http://", "http://user@x/", "http://x/?a=b", "http://x:99999"])
def test_status_of_what_is_no_place_is_2(url: str) -> None:
    assert synceventsd("status", "--url", url).returncode == 2


@contextmanager
def something_else() -> Iterator[int]:
    """A server that speaks something else than HTTP to one client."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection = server.accept()[0]
            with connection:
                connection.recv(1000)
                connection.sendall(b"-ERR unknown command\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


# doctor


def test_a_daemon_that_does_well_has_no_failures(tmp_path: Path) -> None:
    with redis_server(SERVER, "--appendonly", "yes") as server, a_daemon(tmp_path, server.url) as daemon:
        daemon.start()
        talk(daemon.socket, line(1))
        found = examined(**of(daemon))
    well = ("socket", "group", "disk", "log", "port", "settings", *(name for name in found if name.startswith("redis")))
    assert {name: found[name] for name in well if found[name][0] != "OK"} == {}
    assert "a daemon has it open" in found["log"][1]
    assert "a synceventsd answers" in found["port"][1]


def test_without_a_daemon_and_without_redis_both_are_told_with_the_remedy(tmp_path: Path) -> None:
    found = examined(**settings(tmp_path, f"redis://127.0.0.1:{free_port()}/0"))
    assert found["socket"][0] == found["redis"][0] == "FAIL"
    assert "start the daemon" in found["socket"][1]
    assert "(refused)" in found["redis"][1]
    assert [found[name][0] for name in ("disk", "log", "port")] == ["OK"] * 3
    assert not (tmp_path / "state").exists(), "looking makes nothing"


def test_a_socket_that_nobody_serves_and_one_of_another_mode_are_told(daemon: Daemon) -> None:
    daemon.start(SYNCEVENTSD_INGEST_SOCKET_MODE="0666")
    assert "socket_mode is 0660" in examined(**of(daemon))["socket"][1]
    daemon.kill()
    level, words = examined(**of(daemon))["socket"]
    assert level == "FAIL"
    assert "nobody listens" in words


def test_a_file_in_place_of_the_socket_and_a_foreign_port_are_told(tmp_path: Path) -> None:
    (tmp_path / "s").touch()
    with something_else() as port:
        found = examined(**settings(tmp_path, SYNCEVENTSD_HTTP_BIND=f"127.0.0.1:{port}"))
    assert "is no socket" in found["socket"][1]
    assert found["port"][0] == "FAIL"


def of_version(directory: Path, version: int) -> None:
    """Make the log in this directory one of another version; the daemon is stopped."""
    with closing(sqlite3.connect(directory / "state/events.db")) as database:
        database.execute(f"PRAGMA user_version = {version}")


def test_an_older_log_is_no_failure_as_the_next_start_brings_it_up(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start()
    daemon.stop()
    of_version(tmp_path, 1)
    level, words = examined(**of(daemon))["log"]
    assert level == "WARN"
    assert "the next start" in words


def test_a_newer_log_and_a_secret_that_all_may_read_are_told(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start()
    daemon.stop()
    of_version(tmp_path, 99)
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    found = examined(**of(daemon, SYNCEVENTSD_HTTP_TOKEN_SECRET_FILE=str(secret)))
    assert found["log"][0] == "FAIL"
    assert "version 99" in found["log"][1]
    assert found["settings"][0] == "WARN"
    assert "chmod o=" in found["settings"][1]
    assert SECRET not in str(found)


def test_wrong_settings_are_78_as_everywhere() -> None:
    assert synceventsd("doctor", SYNCEVENTSD_HTTP_RETRY="x").returncode == 78


# Redis, on each server that is here


@pytest.fixture(params=each_server())
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(request.param) as one:
        yield one


def probed(server: RedisServer, url: str | None = None, **more: Any) -> Any:
    return probe(RedisConfig(url=url or server.url, timeout=5.0, **more))


def test_a_primary_is_known_as_what_it_is_and_nothing_is_changed(server: RedisServer) -> None:
    with server.client() as client:
        before = client.dbsize()
        facts = probed(server)
        assert client.dbsize() == before
        assert client.info("clients")["connected_clients"] == 1
    assert (facts.role, facts.refusals, facts.scripts, facts.transactions) == ("master", {}, True, True)
    assert (facts.append_only, facts.saves, facts.maxmemory, facts.policy) == (False, "", 0, "noeviction")
    assert (facts.pubsub_hard, facts.pubsub_soft, facts.pubsub_soft_seconds) == (32 * 2**20, 8 * 2**20, 60)
    server.run("CONFIG", "SET", "appendonly", "yes")
    server.run("CONFIG", "SET", "save", "900 1")
    facts = probed(server)
    assert (facts.append_only, facts.saves) == (True, "900 1")


def test_a_replica_and_missing_rights_are_found_by_rehearsal(server: RedisServer) -> None:
    rights = {
        "reader": ("+@all", "~*", "&*", "-publish"),
        "keyless": ("+@all", "~other:*", "&*"),
        "scriptless": ("+@all", "~*", "&*", "-eval", "-evalsha"),
        "blind": ("+get", "+set", "+publish", "+eval", "+evalsha", "+multi", "+discard", "+watch", "~*", "&*"),
    }
    for name, given in rights.items():
        server.run("ACL", "SETUSER", name, "on", ">p", *given)
    as_user = {name: probed(server, f"unix://{name}:p@{server.socket_path}") for name in rights}
    assert set(as_user["reader"].refusals) == {"PUBLISH"}
    assert {"GET", "SET"} <= set(as_user["keyless"].refusals) | {"SET"}
    assert "GET" in as_user["keyless"].refusals
    assert (as_user["scriptless"].scripts, as_user["scriptless"].refusals) == (False, {})
    assert (as_user["blind"].role, as_user["blind"].saves, as_user["blind"].refusals) == (None, None, {})
    server.run("REPLICAOF", "127.0.0.1", "1")
    facts = probed(server)
    assert facts.role == "slave"
    assert "READONLY" in facts.refusals["SET"]
