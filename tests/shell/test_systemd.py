"""What passes between systemd and the daemon, over real sockets, and that the units are sound."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from synceventsd import systemd

UNITS = Path(__file__).parents[2] / "systemd"
needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: the units cannot be verified"
)


@contextlib.contextmanager
def listener(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.settimeout(10)
        yield receiver


def test_each_notification_arrives_as_systemd_reads_it(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    with listener(environ["NOTIFY_SOCKET"]) as receiver:
        assert systemd.notify_ready("listening\non two lines", environ=environ)
        assert systemd.notify_ready(environ=environ)
        assert systemd.notify_status("forwarding\nREADY=0", environ=environ)
        assert systemd.notify_watchdog(environ=environ)
        assert systemd.notify_stopping(environ=environ)
        assert [receiver.recv(1000) for _ in range(5)] == [
            b"READY=1\nSTATUS=listening on two lines",
            b"READY=1",
            b"STATUS=forwarding READY=0",
            b"WATCHDOG=1",
            b"STOPPING=1",
        ]


def test_an_at_sign_means_the_abstract_name_space() -> None:
    name = f"synceventsd-test-{os.getpid()}"
    with listener(f"\0{name}") as receiver:
        assert systemd.notify_ready(environ={"NOTIFY_SOCKET": f"@{name}"})
        assert receiver.recv(1000) == b"READY=1"


@pytest.mark.parametrize(
    "environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}, {"NOTIFY_SOCKET": "/no/such"}]
)
def test_without_a_listener_a_notification_is_no_error(environ: dict[str, str]) -> None:
    assert not systemd.notify_ready("up", environ=environ)


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_each_wait_and_only_by_whom_it_watches(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert systemd.watchdog_interval(environ, 7) == seconds


# Handed-over descriptors begin at 3, which the test's own process uses otherwise: so a process of its own.
TAKES_SOCKETS = """
import os, sys
from synceventsd.systemd import listen_fds
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
sockets = listen_fds(os.environ, os.getpid())
for name, members in sorted(sockets.items()):
    for member in members:
        print(name, member.getsockname(), member.type.name, member.get_inheritable(), member.getblocking())
print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
"""


def take_sockets(environ: dict[str, str], *handed: socket.socket, pid_offset: int = 0) -> list[str]:
    numbers = [member.fileno() for member in handed]
    redirects = " ".join(f"{index}<&{number}" for index, number in enumerate(numbers, 3))
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" {redirects}', "bash", sys.executable, "-c", TAKES_SOCKETS, str(pid_offset)],
        pass_fds=numbers,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.fixture
def two_listeners(tmp_path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.socket(socket.AF_UNIX) as ingest, socket.socket() as http, contextlib.ExitStack() as copies:
        ingest.bind(str(tmp_path / "ingest"))
        http.bind(("127.0.0.1", 0))
        for member in (ingest, http):
            member.listen()
        # Numbers well above 3, so that bash's redirections do not overwrite what they copy.
        high = [os.dup2(member.fileno(), 100 + index) for index, member in enumerate((ingest, http))]
        members = [copies.enter_context(socket.socket(fileno=number)) for number in high]
        yield members[0], members[1]


def test_sockets_are_taken_over_by_name_and_no_child_gets_them(
    tmp_path: Path, two_listeners: tuple[socket.socket, socket.socket]
) -> None:
    port = two_listeners[1].getsockname()[1]
    assert take_sockets({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "ingest:http"}, *two_listeners) == [
        f"http ('127.0.0.1', {port}) SOCK_STREAM False True",
        f"ingest {tmp_path}/ingest SOCK_STREAM False True",
        "[]",
    ]


def test_sockets_without_a_name_are_unknown_and_several_may_share_one(
    two_listeners: tuple[socket.socket, socket.socket],
) -> None:
    unnamed = take_sockets({"LISTEN_FDS": "2"}, *two_listeners)
    assert [line.split()[0] for line in unnamed] == ["unknown", "unknown", "[]"]
    shared = take_sockets({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "ingest:ingest"}, *two_listeners)
    assert [line.split()[0] for line in shared] == ["ingest", "ingest", "[]"]


@pytest.mark.parametrize(("count", "offset"), [("2", 1), ("0", 0), ("-1", 0), ("two", 0), ("", 0)])
def test_sockets_for_another_process_or_malformed_variables_hand_over_nothing(
    two_listeners: tuple[socket.socket, socket.socket], count: str, offset: int
) -> None:
    environ = {"LISTEN_FDS": count, "LISTEN_FDNAMES": "ingest:http"}
    assert take_sockets(environ, *two_listeners, pid_offset=offset) == ["[]"]


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Copies whose program exists wherever the tests run."""
    for name in ("synceventsd.service", "synceventsd.socket"):
        text = (UNITS / name).read_text()
        (tmp_path / name).write_text(
            text.replace("ExecStart=/usr/bin/synceventsd", f"ExecStart={shutil.which('true')}")
        )
    return tmp_path


@needs_systemd_analyze
def test_systemd_finds_no_fault_in_the_units(units: Path) -> None:
    files = [str(units / "synceventsd.service"), str(units / "synceventsd.socket")]
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", *files], capture_output=True, text=True
    )
    assert (verified.returncode, verified.stderr) == (0, "")


@needs_systemd_analyze
def test_the_services_exposure_is_below_two(units: Path) -> None:
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(units / "synceventsd.service")],
        capture_output=True,
        text=True,
    )
    assert rated.returncode == 0, rated.stdout


def directives(name: str) -> dict[str, str]:
    lines = (UNITS / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_the_socket_outlives_the_service_and_shows_who_connects() -> None:
    service, ingest = directives("synceventsd.service"), directives("synceventsd.socket")
    assert ingest["ListenStream"] == "/run/synceventsd/synceventsd.sock"
    assert (ingest["SocketMode"], ingest["SocketGroup"], ingest["FileDescriptorName"]) == (
        "0660",
        "syncevents",
        "ingest",
    )
    assert "RuntimeDirectory" not in service
    assert "PrivateUsers" not in service
    assert "syncevents" in (UNITS / "synceventsd.sysusers").read_text()


def test_systemd_waits_longer_for_the_stop_than_the_daemon_takes() -> None:
    from synceventsd.config import SETTINGS

    grace = tomllib.loads(f"grace = {SETTINGS['shutdown.grace'].default}")["grace"]
    assert int(directives("synceventsd.service")["TimeoutStopSec"]) >= 2 * grace


def test_a_daemon_that_fails_again_and_again_is_given_up_and_one_that_cannot_start_is_not_tried_again() -> None:
    service = directives("synceventsd.service")
    assert service["Restart"] == "on-failure"
    # Restarts that fail at once must come fast enough to reach the limit; else systemd would restart for ever.
    burst, interval = int(service["StartLimitBurst"]), int(service["StartLimitIntervalSec"])
    assert burst * (int(service["RestartSec"]) + 1) < interval
    assert service["RestartPreventExitStatus"].split() == ["2", "78"]
