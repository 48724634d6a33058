"""The program `synceventsd` as an operator meets it: words, streams and exit statuses."""

import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import jwt
import pytest
from click.testing import CliRunner

import synceventsd as package
from synceventsd import cli
from synceventsd.core.errors import StartupError

SECRET = "correct-horse-battery-staple-0123456789"


def synceventsd(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SYNCEVENTSD_")}
    command = [sys.executable, "-m", "synceventsd", *arguments]
    return subprocess.run(command, env=environ | variables, capture_output=True, text=True, timeout=60)


@pytest.fixture
def file(tmp_path: Path) -> str:
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    config = tmp_path / "synceventsd.toml"
    config.write_text(f'[http]\ntoken_secret_file = "{secret}"\n[redis]\nurl = "redis://:hunter2@localhost"\n')
    return str(config)


def test_version_and_help_teach() -> None:
    assert synceventsd("--version").stdout.startswith("synceventsd ")
    assert "synceventsd token --business 42 --ttl 8h" in synceventsd("--help").stdout
    helped = synceventsd("run", "--help").stdout
    for words in ("--redis-url", "redis.backlog_rate [10000]", "SYNCEVENTSD_<SECTION>_<KEY>", "No file is read unless"):
        assert words in helped


def test_help_shows_every_command_with_one_whole_line() -> None:
    told = synceventsd("--help").stdout
    rows = told.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert {row.split()[0] for row in rows} >= {"run", "check-config", "status", "doctor", "log", "token"}
    assert all(row.endswith(".") and not row.endswith("...") for row in rows)
    assert "_SYNCEVENTSD_COMPLETE=bash_source" in told


def test_the_shell_is_offered_the_commands() -> None:
    done = synceventsd(_SYNCEVENTSD_COMPLETE="bash_complete", COMP_WORDS="synceventsd d", COMP_CWORD="1")
    assert done.stdout.split() == ["plain,doctor"]


def test_check_config_prints_the_settings_in_force_with_passwords_masked(file: str) -> None:
    done = synceventsd("check-config", "--config", file, SYNCEVENTSD_HTTP_RETRY="1.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert 'redis.url = "redis://:***@localhost"\n' in done.stdout
    assert "http.retry = 1.5\n" in done.stdout
    assert SECRET not in done.stdout


def test_check_config_warns_of_a_key_that_can_be_guessed(file: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("short")
    done = synceventsd("check-config", "--config", file)
    assert done.returncode == 0
    assert done.stderr.startswith("synceventsd: warning: http.token_secret_file = ")


def test_check_config_shows_who_may_publish_for_what(file: str) -> None:
    rules = '[{"user":"root","integrations":[13],"businesses":["*"]}]'
    done = synceventsd("check-config", "--config", file, SYNCEVENTSD_INGEST_RULES=rules)
    assert 'ingest.rules = [{ user = "root", integrations = [13], businesses = ["*"] }]\n' in done.stdout


@pytest.mark.parametrize("command", ["run", "check-config"])
def test_wrong_settings_stop_with_a_line_each_on_stderr_and_status_78(file: str, command: str) -> None:
    done = synceventsd(command, "--config", file, SYNCEVENTSD_HTTP_RETRY="x", SYNCEVENTSD_HTTP_RETRI="1")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.splitlines() == [
        'synceventsd: SYNCEVENTSD_HTTP_RETRI = "1" (from environment): '
        "unknown variable; did you mean SYNCEVENTSD_HTTP_RETRY?",
        'synceventsd: http.retry = "x" (from environment variable SYNCEVENTSD_HTTP_RETRY): '
        "allowed: seconds, a number above 0 and at most 1000000000",
    ]


@pytest.mark.parametrize("command", ["run", "check-config"])
def test_a_missing_config_file_is_status_78(command: str, tmp_path: Path) -> None:
    done = synceventsd(command, "--config", str(tmp_path / "missing.toml"))
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 1


def test_flags_of_run_are_settings_and_checked_as_such() -> None:
    flags = ["--socket", "", "--state-dir", "", "--redis-url", "ftp://x", "--http", "0.0.0.0:80"]
    done = synceventsd("run", *flags)
    assert done.returncode == 78
    told = [line.partition("synceventsd: ")[2].partition(" ")[0] for line in done.stderr.splitlines()]
    assert told == ["ingest.socket", "storage.state_dir", "redis.url", "http.bind"]
    assert "(from flag --redis-url)" in done.stderr


def test_a_wrong_command_line_is_status_2() -> None:
    assert synceventsd("run", "--sokcet", "x").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "businesses"),
    [
        (["--business", "42"], [42]),
        (["--business", "42", "--business", "43", "--business", "42"], [42, 43]),
        (["--all"], "*"),
        (["--business", "*"], "*"),
    ],
)
def test_token_prints_only_a_token_for_what_was_asked(file: str, arguments: list[str], businesses: object) -> None:
    before = int(time.time())
    done = synceventsd("token", *arguments, "--ttl", "8h", "--config", file)
    after = int(time.time())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    claims = jwt.decode(done.stdout.strip(), SECRET, algorithms=["HS256"])
    assert before + 8 * 3600 <= claims.pop("exp") <= after + 8 * 3600
    assert claims == {"businesses": businesses}


@pytest.mark.parametrize(("ttl", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("7d", 604800)])
def test_a_ttl_is_a_number_and_a_unit(file: str, ttl: str, seconds: int) -> None:
    before = int(time.time())
    done = synceventsd("token", "--all", "--ttl", ttl, "--config", file)
    claims = jwt.decode(done.stdout.strip(), SECRET, algorithms=["HS256"], options={"verify_exp": False})
    assert before + seconds <= claims["exp"] <= int(time.time()) + seconds


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--business", "0"],
        ["--business", "4294967296"],
        ["--business", "forty-two"],
        ["--business", "-1"],
        ["--business", "42", "--all"],
        ["--all", "--ttl", "0h"],
        ["--all", "--ttl", "8 hours"],
        ["--all", "--ttl", "3651d"],
    ],
)
def test_a_token_for_nothing_or_nonsense_is_refused(file: str, arguments: list[str]) -> None:
    done = synceventsd("token", *arguments, "--config", file)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_token_needs_a_key() -> None:
    done = synceventsd("token", "--business", "42")
    assert (done.returncode, done.stdout) == (78, "")
    assert "http.token_secret_file" in done.stderr


def test_a_short_key_signs_without_a_word_beside_the_token(file: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("short")
    done = synceventsd("token", "--all", "--config", file)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_extra_is_one_line_that_says_what_to_install(tmp_path: Path) -> None:
    # `-S` leaves out site-packages: what is left is the program and nothing of its extra.
    daemon = str(Path(package.__file__).parents[1])
    client = str(Path(daemon).parent / "client")
    done = subprocess.run(
        [sys.executable, "-S", "-m", "synceventsd", "--version"],
        env={"PYTHONPATH": os.pathsep.join([daemon, client])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'syncevents[daemon]'" in done.stderr


async def cannot_start(_: object) -> None:
    raise StartupError("ingest.socket = /x:\nin use")


async def cannot_start_in_a_nursery(_: object) -> None:
    raise ExceptionGroup("", [ExceptionGroup("", [StartupError("ingest.socket = /x:\nin use")])])


@pytest.mark.parametrize("start", [cannot_start, cannot_start_in_a_nursery])
def test_a_start_that_fails_is_one_line_on_stderr_and_status_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: Callable[[object], Awaitable[None]]
) -> None:
    monkeypatch.setattr(package, "daemon", SimpleNamespace(run=start), raising=False)
    monkeypatch.setattr("synceventsd.logs.configure_logs", lambda *_: None)
    done = CliRunner().invoke(cli.synceventsd, ["run", "--state-dir", str(tmp_path)])
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "synceventsd: ingest.socket = /x: in use\n")
