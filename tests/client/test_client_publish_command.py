"""`syncevents publish` as a program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from client_peer import Peer

import syncevents


def publish(*arguments: str, text: bytes = b"", **settings: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "syncevents", "publish", *arguments],
        input=text,
        env=os.environ | settings,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_lines_are_stored_as_they_are(peer: Peer, tmp_path: Path) -> None:
    peer.start()
    lines = [b'{"id":"1"}', b' {"id" : "\\u00e9"} ', b'{"id":"last, without a newline"}']
    (tmp_path / "events").write_bytes(b"\n\r\n".join(lines))
    done = publish(str(tmp_path / "events"), "--socket", str(peer.path))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert peer.stored == lines


def test_standard_input_and_the_environments_socket_are_the_defaults(peer: Peer) -> None:
    peer.start()
    for arguments in ([], ["-"]):
        assert publish(*arguments, text=b"{}\n", SYNCEVENTS_SOCKET=str(peer.path)).returncode == 0
    assert peer.stored == [b"{}", b"{}"]


def test_each_rejected_line_is_told_by_its_number_in_the_input(peer: Peer) -> None:
    peer.start()
    text = b'\n{"id":"2"}\n\nnonsense\n{"hello":{}}\n\n\n{"id":"8"}\n{\n'
    done = publish("--socket", str(peer.path), text=text)
    assert done.returncode == 1
    assert sorted(done.stderr.decode().splitlines()) == [
        "line 4: invalid_json: not JSON",
        "line 5: invalid_event: envelope must not be a hello",
        "line 9: invalid_json: not JSON",
    ]
    assert peer.stored == [b'{"id":"2"}', b'{"id":"8"}']


def test_a_line_above_max_frame_is_told_and_the_rest_is_stored(peer: Peer) -> None:
    peer.start()
    large = b'{"x":"' + b"x" * 17_000_000 + b'"}\n'
    frame = b'{"x":"' + b"x" * 300_000 + b'"}\n'
    done = publish("--socket", str(peer.path), text=b'{"id":"1"}\n' + frame + large + b'{"id":"4"}\n')
    assert done.returncode == 1
    told = sorted(done.stderr.decode().splitlines())
    assert [line.split(":")[:2] for line in told] == [["line 2", " frame_too_large"], ["line 3", " frame_too_large"]]
    assert peer.stored == [b'{"id":"1"}', b'{"id":"4"}']


def test_more_lines_than_the_queue_holds_are_stored_in_order(peer: Peer) -> None:
    peer.judge = lambda line: ("invalid_event", "seventh") if json.loads(line)["n"] % 7 == 0 else None
    peer.start()
    text = b"".join(b'{"n":%d}\n' % n for n in range(1, 20001))
    done = publish("--socket", str(peer.path), text=text)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [f"line {n}: invalid_event: seventh" for n in range(7, 20001, 7)]
    assert [event["n"] for event in peer.events()] == [n for n in range(1, 20001) if n % 7]


@pytest.mark.parametrize("count", [1, 5000])
def test_without_a_daemon_it_gives_up_and_names_the_socket(peer: Peer, count: int) -> None:
    done = publish("--socket", str(peer.path), "--timeout", "0.2", text=b"{}\n" * count)
    assert done.returncode == 1
    assert str(peer.path) in done.stderr.decode()
    assert "does synceventsd run?" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize(
    "arguments",
    [["--nonsense"], ["/does/not/exist"], ["--timeout", "-1"], ["--timeout", "soon"], ["--socket", "x" * 200]],
)
def test_wrong_arguments_are_status_2(arguments: list[str]) -> None:
    assert publish(*arguments).returncode == 2


def test_the_version_is_told() -> None:
    done = subprocess.run([sys.executable, "-m", "syncevents", "--version"], capture_output=True, text=True, check=True)
    assert syncevents.__version__ in done.stdout


def test_without_click_one_line_says_what_to_install() -> None:
    script = "import sys; sys.modules['click'] = None; from syncevents.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "pip install 'syncevents[cli]'" in done.stderr
