"""Passwords, keys and tokens: configured in every way there is, and then looked for in all that the daemon says."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from attrs import define
from tests.events import line
from tests.redis_servers import BINARIES, PATIENCE, eventually, free_port, redis_server

SERVER = next(iter(BINARIES))
PASSWORD = "hunter2/ö:@s3cr3t"
KEY = "correct-horse-battery-staple-0123456789"


@define
class Speaking:
    """A daemon at level debug, and everything that it says."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def get(self, path: str, **headers: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return b"%d %s %s" % (answer.status, str(answer.getheaders()).encode(), answer.read())
        finally:
            connection.close()

    def is_up(self) -> bool:
        try:
            return self.get("/healthz").startswith(b"200")
        except OSError:
            return False

    @property
    def command_line(self) -> bytes:
        return Path(f"/proc/{self.process.pid}/cmdline").read_bytes()


@contextmanager
def speaking(directory: Path, form: str, *arguments: str, **variables: str) -> Iterator[Speaking]:
    port, log = free_port(), directory / "said"
    command = [sys.executable, "-m", "synceventsd", "run", "--socket", str(directory / "s")]
    command += ["--state-dir", str(directory / "state"), "--http", f"127.0.0.1:{port}", *arguments]
    environ = {"SYNCEVENTSD_LOGGING_LEVEL": "debug", "SYNCEVENTSD_LOGGING_FORMAT": form} | variables
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environ)
    daemon = Speaking(process, port, log)
    try:
        eventually(daemon.is_up, "it serves")
        yield daemon
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def spellings(secret: str) -> list[bytes]:
    return [secret.encode(), quote(secret, safe="").encode(), repr(secret.encode())[2:-1].encode(), secret[:7].encode()]


def assert_unsaid(texts: Sequence[bytes], *secrets: str) -> None:
    for secret in secrets:
        for spelling in spellings(secret):
            for text in texts:
                assert spelling not in text, text[max(0, text.index(spelling) - 200) :][:400]


WAYS = ["file", "environment", "password file", "query"]


@pytest.mark.parametrize("way", WAYS)
def test_no_redis_password_is_said_whatever_redis_answers(tmp_path: Path, way: str) -> None:
    """First the password is wrong, then it is right and the server goes away."""
    with redis_server(SERVER) as redis:
        port = free_port()
        redis.run("CONFIG", "SET", "requirepass", "another")
        address = redis.url.partition("://")[2] if redis.url.startswith("redis") else f"127.0.0.1:{port}"
        url = f"redis://:{quote(PASSWORD, safe='')}@{address}"
        settings = tmp_path / "synceventsd.toml"
        variables: dict[str, str] = {}
        if redis.url.startswith("unix"):
            url = f"unix://:{quote(PASSWORD, safe='')}@{redis.url.removeprefix('unix://')}"
        if way == "file":
            settings.write_text(f'[redis]\nurl = "{url}"\n')
        elif way == "environment":
            settings.write_text("")
            variables["SYNCEVENTSD_REDIS_URL"] = url
        elif way == "query":
            settings.write_text(f'[redis]\nurl = "{redis.url}?password={quote(PASSWORD, safe="")}"\n')
        else:
            secret = tmp_path / "password"
            secret.write_text(PASSWORD)
            settings.write_text(f'[redis]\nurl = "{redis.url}"\npassword_file = "{secret}"\n')
        with speaking(tmp_path, "text", "--config", str(settings), **variables) as daemon:
            eventually(lambda: b'"reason":"auth"' in daemon.get("/status"), "Redis refuses the password")
            answers = [daemon.get(path) for path in ("/status", "/metrics", "/readyz", "/")]
            checked = subprocess.run(
                [sys.executable, "-m", "synceventsd", "check-config", "--config", str(settings)],
                env=os.environ | variables,
                capture_output=True,
                check=True,
            )
            assert_unsaid([*answers, daemon.command_line, checked.stdout, checked.stderr], PASSWORD)
        assert_unsaid([daemon.log.read_bytes()], PASSWORD)
        assert b"redis.lost" in daemon.log.read_bytes()


def test_a_password_on_the_command_line_is_in_the_list_of_processes_and_the_daemon_says_so(tmp_path: Path) -> None:
    url = f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}"
    with speaking(tmp_path, "json", "--redis-url", url) as daemon:
        assert quote(PASSWORD, safe="").encode() in daemon.command_line
        eventually(lambda: b'"reason":"refused"' in daemon.get("/status"), "nobody answers there")
        assert_unsaid([daemon.get("/status"), daemon.get("/metrics")], PASSWORD)
    said = daemon.log.read_bytes()
    assert said.count(b"--redis-url has a password") == 1
    assert b"redis.password_file" in said
    assert_unsaid([said], PASSWORD)


@pytest.mark.parametrize("way", ["file", "environment", "flag"])
def test_a_setting_that_is_refused_does_not_say_the_password_in_it(tmp_path: Path, way: str) -> None:
    url = f"redis://:{PASSWORD.replace('/', '%2F')}@host:port/0?nonsense=1"
    settings = tmp_path / "synceventsd.toml"
    settings.write_text(f'[redis]\nurl = "{url}"\n' if way == "file" else "")
    flag = ["--redis-url", url] if way == "flag" else []
    variables = {"SYNCEVENTSD_REDIS_URL": url} if way == "environment" else {}
    done = subprocess.run(
        [sys.executable, "-m", "synceventsd", "run", "--config", str(settings), *flag],
        env=os.environ | variables,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 78
    assert b"redis.url = " in done.stderr
    assert_unsaid([done.stdout, done.stderr], "hunter2", "s3cr3t")


def test_neither_the_key_of_the_tokens_nor_a_token_is_said(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    settings = tmp_path / "synceventsd.toml"
    settings.write_text(f'[redis]\nurl = "none"\n[http]\ntoken_secret_file = "{key}"\n')
    command = [sys.executable, "-m", "synceventsd", "token", "--all", "--config", str(settings)]
    token = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    broken = f"{token[:-4]}AAAA"
    with speaking(tmp_path, "text", "--config", str(settings)) as daemon:
        answers = [
            daemon.get(path, **headers)
            for path in ("/status", "/metrics", "/nowhere", "/integrations/events/sse/x", f"/status?token={token}")
            for headers in (
                {"Authorization": f"Bearer {token}"},
                {"Authorization": f"Bearer {broken}"},
                {"Cookie": f"syncevents_token={broken}"},
                {"Host": "evil.example", "Authorization": f"Bearer {token}"},
            )
        ]
        assert any(answer.startswith(b"200") for answer in answers)
        signature = token.rpartition(".")[2]
        assert_unsaid([*answers, daemon.command_line], KEY, token, signature, broken)
    assert_unsaid([daemon.log.read_bytes()], KEY, token, signature, broken)


# Lines of the log that a publisher or a reader would like to forge

FORGED = 'x\r\n{"level":"error","event":"forged"}\n<2>forged\x1b[2J\x00\u2028\u2029\x85\u202eforged'


@pytest.mark.parametrize("form", ["text", "json", "journald"])
def test_nobody_outside_can_begin_a_line_of_the_log(tmp_path: Path, form: str) -> None:
    import json
    import socket

    hello = {"hello": {"v": 1, "producer": "6f1c8f0e-1f7c-4d3e-9a57-0f4b3f6d2a11", "client": FORGED}}
    rules = '[{"user":"root","integrations":[13],"businesses":[42]}]'
    with speaking(tmp_path, form, SYNCEVENTSD_REDIS_URL="none", SYNCEVENTSD_INGEST_RULES=rules) as daemon:
        with socket.socket(socket.AF_UNIX) as publisher, publisher.makefile("rb") as answers:
            publisher.settimeout(PATIENCE)
            publisher.connect(str(tmp_path / "s"))
            lines = [
                json.dumps(hello).encode(),
                line(1, event_type=FORGED),
                line(2, id=FORGED, timestamp=FORGED),
                line(3, id=FORGED, business=7),
                line(4, **{FORGED: 1, "ID": 2}),
                FORGED.replace("\n", " ").encode(),
                json.dumps(hello).encode(),
            ]
            publisher.sendall(b"\n".join(lines) + b"\n")
            told = [json.loads(text) for text in answers]
        assert told[-1]["code"] == "bad_hello"
        for target in (f"/{quote(FORGED)}", f"/integrations/events/sse/{quote(FORGED)}?x={quote(FORGED)}"):
            daemon.get(target, **{"Last-Event-ID": "x\x1b[2Jforged"})
    said = daemon.log.read_bytes().decode()
    begins = {"text": "20", "json": "{", "journald": "<"}[form]
    assert said.endswith("\n")
    for record in said.removesuffix("\n").split("\n"):
        assert record.startswith(begins), record
        assert not record.startswith("<2>")
        assert record.isprintable(), record
        if form == "json":
            assert json.loads(record)["event"] != "forged"
