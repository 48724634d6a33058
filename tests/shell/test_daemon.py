"""The daemon as a process: starting, being told to stop, and what systemd sees of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.events import line
from tests.faults.harness import Daemon, SseReader, a_daemon, eventually, free_port
from tests.redis_servers import BINARIES, redis_server, subscriber

SERVER = next(iter(BINARIES))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with a_daemon(tmp_path, "none") as one:
        yield one


def talk(path: str, *lines: bytes) -> list[dict[str, object]]:
    """Send lines, end the input, and return what is told."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(path)
        connection.sendall(b"".join(text + b"\n" for text in lines))
        connection.shutdown(socket.SHUT_WR)
        told = b""
        while data := connection.recv(65536):
            told += data
    return [json.loads(text) for text in told.splitlines()]


def test_a_daemon_without_redis_accepts_and_nothing_waits(daemon: Daemon) -> None:
    daemon.start()
    assert talk(daemon.socket, line(1), line(2))[-1] == {"ack": 2}
    status = daemon.status()
    assert (status["redis"]["state"], status["waiting"]["count"], status["events"]["accepted"]) == ("off", 0, 2)
    assert daemon.get("/healthz")[0] == 200
    assert daemon.stop() == 0


def test_an_acknowledged_sync_is_in_the_status_at_once_and_after_a_restart(daemon: Daemon) -> None:
    daemon.start()
    started = line(
        1, "integration.sync.started", data={"integration_type": "shopify", "started_at": "2026-11-24T02:30:15Z"}
    )
    talk(daemon.socket, started, line(2), line(3))
    path = "/integrations/events/sync-status/13?business_id=42"
    before = daemon.get(path)[1]
    assert before["sync_state"]["created_orders"] == 2
    daemon.kill()
    daemon.start()
    assert daemon.get(path)[1] == before
    assert daemon.get("/integrations/events/sync-status/13")[1]["in_progress"] is True
    assert daemon.get("/integrations/events/sync-status/14")[1]["last_started"] is False


def test_both_stop_signals_end_it_cleanly_with_streams_open(daemon: Daemon) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        daemon.start()
        reader = SseReader(daemon.port)
        reader.start()
        assert reader.connected.wait(30)
        daemon.signal(number)
        assert daemon.wait() == 0
        reader.end()
        assert not os.path.exists(daemon.socket)


def test_a_socket_left_by_a_killed_daemon_is_replaced_and_a_living_one_is_not(tmp_path: Path, daemon: Daemon) -> None:
    daemon.start()
    daemon.kill()
    assert os.path.exists(daemon.socket)
    daemon.start()
    other_directory = tmp_path / "other"
    other_directory.mkdir()
    with a_daemon(other_directory, "none") as other:
        command = [*other.program, "run", "--socket", daemon.socket, "--state-dir", str(other.state)]
        refused = subprocess.run([*command, "--http", "none"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "another process listens there" in refused.stderr
    assert talk(daemon.socket, line(1)) == [{"ack": 1}]


def test_a_port_that_is_taken_stops_the_start_with_one_line(daemon: Daemon) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", daemon.port))
        taken.listen()
        daemon.start(wait=False)
        assert daemon.wait() == 1
    assert "http.bind" in daemon.log_text.splitlines()[-1]
    assert "Traceback" not in daemon.log_text


def test_a_second_signal_cuts_the_waiting_for_redis_short(tmp_path: Path) -> None:
    with redis_server(SERVER) as redis, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start(SYNCEVENTSD_SHUTDOWN_GRACE="3600", SYNCEVENTSD_REDIS_TIMEOUT="3600")
        eventually(lambda: daemon.status()["redis"]["state"] == "connected", "it is connected")
        redis.pause()
        talk(daemon.socket, line(1))
        daemon.signal(signal.SIGTERM)
        eventually(lambda: "daemon.stopping" in daemon.log_text, "it stops")
        time.sleep(0.3)
        assert daemon.process is not None
        assert daemon.process.poll() is None  # it waits for Redis, which has not answered yet
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        redis.resume()
        with subscriber(redis) as channel:
            daemon.start()
            time.sleep(0.3)
            eventually(lambda: daemon.status()["waiting"]["count"] == 0, "it is out")
        # Redis may have done it when it was paused, to nobody, or now: in no case twice.
        assert len(channel.heard) <= 1


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        yield listener


def test_systemd_is_told_ready_watchdog_and_stopping(tmp_path: Path, daemon: Daemon, notify: socket.socket) -> None:
    daemon.start(wait=False, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000")
    first = notify.recv(4096)
    while b"WATCHDOG=1" in first:
        first = notify.recv(4096)
    assert b"READY=1" in first
    assert talk(daemon.socket, line(1)) == [{"ack": 1}]  # ready means: accepting and storing
    for _ in range(3):
        assert b"WATCHDOG=1" in notify.recv(4096)
    daemon.signal(signal.SIGTERM)
    while b"STOPPING=1" not in notify.recv(4096):
        pass
    assert daemon.wait() == 0


def test_the_watchdog_is_not_fed_when_the_writer_hangs(tmp_path: Path, notify: socket.socket) -> None:
    program = (sys.executable, str(Path(__file__).parent.parent / "faults" / "crashing_daemon.py"))
    with a_daemon(tmp_path, "none", program=program) as daemon:
        daemon.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000", CRASH_POINT="the writer hangs")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(daemon.socket)
            connection.sendall(line(1) + b"\n")
            notify.settimeout(2)
            with pytest.raises(TimeoutError):
                drain(notify)


def drain(notify: socket.socket) -> None:
    """Receive until nothing comes any more."""
    while True:
        notify.recv(4096)


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not installed")
def test_under_socket_activation_no_connect_fails_while_it_restarts(tmp_path: Path) -> None:
    path, port = str(tmp_path / "handed"), free_port()
    arguments = ["run", "--state-dir", str(tmp_path / "state"), "--redis-url", "none", "--http", f"127.0.0.1:{port}"]
    command = [
        "systemd-socket-activate",
        "-l",
        path,
        "--fdname=ingest",
        sys.executable,
        "-m",
        "synceventsd",
        *arguments,
    ]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        eventually(lambda: os.path.exists(path), "systemd listens")
        assert talk(path, line(1))[-1] == {"ack": 1}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert os.path.exists(path)  # the socket is systemd's: the daemon leaves it where it is
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_a_listening_socket_handed_over_survives_restarts_and_queues_publishers(tmp_path: Path) -> None:
    """What the socket unit does: one listening socket, and daemons that come and go behind it."""
    path, port = str(tmp_path / "s"), free_port()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(100)
        arguments = [
            "run",
            "--state-dir",
            str(tmp_path / "state"),
            "--redis-url",
            "none",
            "--http",
            f"127.0.0.1:{port}",
        ]
        handing = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
            "os.execv(sys.executable, [sys.executable, '-m', 'synceventsd', *sys.argv[2:]])"
        )
        command = [sys.executable, "-c", handing, str(listener.fileno()), *arguments]
        environ = os.environ | {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "ingest"}
        for round_ in range(3):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(30)
            connection.connect(path)  # nobody accepts yet
            connection.sendall(line(round_) + b"\n")
            with (tmp_path / "log").open("ab") as log:
                process = subprocess.Popen(command, stderr=log, env=environ, pass_fds=[listener.fileno()])
            assert connection.recv(100) == b'{"ack":1}\n'
            connection.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
