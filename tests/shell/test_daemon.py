"""The daemon as a process: starting, being told to stop, and what systemd sees of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
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
    status = daemon.status()
    (running,) = status["syncs"]["running"]
    assert (running["business_id"], running["created_orders"], running["stalled"]) == (42, 2, False)
    assert (status["syncs"]["stalled"], status["syncs"]["finished"], status["syncs_in_progress"]) == (0, [], 1)
    assert status["waiting"]["history"] == {"every_seconds": 10, "counts": [0]}
    assert "integration.sync.order.created" in status["event_types"]
    assert 0 <= status["time"] - status["started_at"] < 3600
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


def test_the_watchdog_is_fed_while_redis_hangs(tmp_path: Path, notify: socket.socket) -> None:
    with redis_server(SERVER) as redis, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000")
        eventually(lambda: daemon.status()["redis"]["state"] == "connected", "it is connected")
        redis.pause()
        assert talk(daemon.socket, line(1)) == [{"ack": 1}]
        eventually(lambda: daemon.status()["redis"]["state"] == "hung", "Redis hangs")
        notify.setblocking(False)
        with pytest.raises(BlockingIOError):
            drain(notify)
        notify.settimeout(30)
        for _ in range(5):
            assert notify.recv(4096) == b"WATCHDOG=1"
        assert daemon.status()["redis"]["state"] in ("hung", "unavailable")


def test_a_stop_while_redis_hangs_ends_by_the_grace_and_keeps_what_waits(tmp_path: Path) -> None:
    with redis_server(SERVER) as redis, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start(SYNCEVENTSD_SHUTDOWN_GRACE="1", SYNCEVENTSD_REDIS_TIMEOUT="3600")
        eventually(lambda: daemon.status()["redis"]["state"] == "connected", "it is connected")
        redis.pause()
        talk(daemon.socket, *map(line, range(100)))
        assert daemon.stop() == 0
        redis.resume()
        with subscriber(redis) as channel:
            daemon.start()
            eventually(lambda: daemon.status()["waiting"]["count"] == 0, "it is out")
        # Redis may have done the first ones when it was paused, to nobody.
        assert channel.heard == [line(number) for number in range(100)][100 - len(channel.heard) :]


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


def test_numbers_that_python_does_not_decode_do_not_stop_the_daemon_now_or_at_the_next_start(daemon: Daemon) -> None:
    wild = line(1, "integration.sync.started", data={"params": {"limit": 7}}).replace(b":7}", b":1e999}")
    amount = line(2, data={"order_id": "A", "total_amount": 7}).replace(b":7}", b":1e999}")
    daemon.start()
    assert talk(daemon.socket, wild, amount)[-1] == {"ack": 2}
    daemon.kill()
    daemon.start()
    reader = SseReader(daemon.port, path="/integrations/events/sse/42?order_ids=A")
    reader.start()
    eventually(lambda: [seq for _, seq in reader.seen] == [2], "a reader that asks for the order gets it")
    reader.end()
    assert daemon.stop() == 0


def test_a_full_buffer_shows_and_ends_when_redis_is_back(tmp_path: Path) -> None:
    with redis_server(SERVER) as redis, a_daemon(tmp_path, redis.url) as daemon:
        redis.stop()
        daemon.start(SYNCEVENTSD_STORAGE_MAX_BYTES=str(2**20))
        told: list[dict[str, object]] = []
        pad = {"data": {"pad": "x" * 1000}}
        while not any("reject" in message for message in told):
            told = talk(daemon.socket, *(line(number, **pad) for number in range(100)))
        rejected = sum("reject" in message for message in told)
        assert {message["code"] for message in told if "reject" in message} == {"buffer_full"}
        assert daemon.get("/readyz")[0] == 503
        assert daemon.status()["events"]["rejected_by_code"] == {"buffer_full": rejected}
        (entry,) = daemon.status()["ledger"]
        assert (entry["reason"], entry["count"], entry["uid"]) == ("buffer_full", rejected, os.getuid())
        assert entry["at"] <= entry["until"] <= time.time()
        redis.start()
        eventually(lambda: daemon.status()["waiting"]["count"] == 0, "Redis has everything")
        eventually(lambda: daemon.get("/readyz")[0] == 200, "it is ready again")
        assert talk(daemon.socket, line(1, **pad)) == [{"ack": 1}]


def test_a_small_log_makes_room_for_new_events_where_nobody_waits_for_the_old_ones(daemon: Daemon) -> None:
    daemon.start(SYNCEVENTSD_STORAGE_MAX_BYTES=str(2**20))
    pad = {"data": {"pad": "x" * 1000}}
    told = talk(daemon.socket, *(line(number, **pad) for number in range(5000)))
    assert told[-1] == {"ack": 5000}
    assert [message for message in told if "reject" in message] == []
    (entry,) = daemon.status()["ledger"]
    assert (entry["reason"], entry["first"]) == ("replay_shortened", 1)
    assert entry["count"] == entry["last"] == daemon.status()["storage"]["oldest_seq"] - 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_as_soon_as_the_socket_is_there_is_a_clean_one(daemon: Daemon, number: signal.Signals) -> None:
    daemon.start(wait=False)
    eventually(lambda: os.path.exists(daemon.socket), "the socket is there")
    daemon.signal(number)
    assert daemon.wait() == 0
    assert not os.path.exists(daemon.socket)


def test_a_publisher_that_never_reads_does_not_hold_up_the_stop(daemon: Daemon) -> None:
    daemon.start(SYNCEVENTSD_SHUTDOWN_GRACE="3600")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(daemon.socket)
        silent.settimeout(1)
        with pytest.raises(TimeoutError):
            send_rubbish_for_ever(silent)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


def send_rubbish_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"rubbish\n" * 1000)


def test_an_idle_daemon_that_cannot_write_for_a_while_serves_publishers_afterwards(
    tmp_path: Path, daemon: Daemon
) -> None:
    """The write that fails first may be one of the daemon's own, with nobody's lines in it."""
    daemon.program = (sys.executable, str(Path(__file__).parent.parent / "faults" / "crashing_daemon.py"))
    daemon.start(CRASH_POINT="writes fail while a file exists", CRASH_FILE=str(tmp_path / "failing"))
    assert talk(daemon.socket, line(1)) == [{"ack": 1}]
    (tmp_path / "failing").touch()
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.settimeout(30)
        waiting.connect(daemon.socket)
        producer = "6f1c8f0e-1f7c-4d3e-9a57-0f4b3f6d2a11"
        waiting.sendall(b'{"hello":{"v":1,"producer":"%b","client":"t"}}\n' % producer.encode())
        eventually(lambda: daemon.get("/readyz")[0] == 503, "it shows")
        assert "injected" in daemon.get("/readyz")[1]["message"]
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(daemon.socket)
            other.sendall(line(2) + b"\n")
            (tmp_path / "failing").unlink()
            other.settimeout(30)
            assert other.recv(100) == b'{"ack":1}\n'
        assert b'"welcome"' in waiting.recv(1000)
    eventually(lambda: daemon.get("/readyz")[0] == 200, "it is ready again")


REPLIES = [
    b":5\r\n",
    b"*-1\r\n",
    b"$3\r\nabc\r\n",
    b"*2\r\n:1\r\n:2\r\n",
    b"+OK\r\n",
    b"*0\r\n",
    b"_\r\n",
    b"HTTP/1.1 400\r\n\r\n",
]


@pytest.mark.parametrize("reply", REPLIES)
def test_whatever_answers_in_the_place_of_redis_the_daemon_goes_on_and_says_so(tmp_path: Path, reply: bytes) -> None:
    def answer(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                try:
                    while connection.recv(65536):
                        connection.sendall(reply)
                except OSError:
                    continue

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "fake"))
        listener.listen()
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        with a_daemon(tmp_path, f"unix://{tmp_path / 'fake'}") as daemon:
            daemon.start()
            assert talk(daemon.socket, line(1)) == [{"ack": 1}]
            eventually(lambda: daemon.status()["redis"]["last_error"], "the reason shows")
            assert daemon.status()["waiting"]["count"] == 1
            assert daemon.stop() == 0
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)
