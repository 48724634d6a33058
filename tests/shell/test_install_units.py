"""`synceventsd install-units`: what it writes can be started by systemd, and what it cannot do it says."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from tests.users import as_nobody

from synceventsd.cli import synceventsd
from synceventsd.config import SETTINGS, Config, load
from synceventsd.config.template import template
from synceventsd.unitfiles import Hindered, check_program

UNITS = Path(__file__).parents[2] / "systemd"
PROGRAM = "/usr/local/bin/synceventsd"


def install(root: Path, *more: str) -> Result:
    return CliRunner().invoke(synceventsd, ["install-units", "--root", str(root), "--program", PROGRAM, *more])


def below(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_the_units_are_those_of_the_repository_with_the_programs_path(tmp_path: Path) -> None:
    done = install(tmp_path)
    assert (done.exit_code, done.stderr) == (0, "")
    written = below(tmp_path)
    service = (UNITS / "synceventsd.service").read_text()
    assert written.pop("etc/systemd/system/synceventsd.service") == service.replace("/usr/bin/synceventsd", PROGRAM)
    assert f"ExecStart={PROGRAM} run --config /etc/synceventsd/synceventsd.toml\n" in service.replace(
        "/usr/bin/synceventsd", PROGRAM
    )
    assert written == {
        "etc/systemd/system/synceventsd.socket": (UNITS / "synceventsd.socket").read_text(),
        "etc/sysusers.d/synceventsd.conf": (UNITS / "synceventsd.sysusers").read_text(),
        "etc/synceventsd/synceventsd.toml": template(),
    }
    for words in (f"wrote {tmp_path}/etc/sysusers.d/synceventsd.conf", "systemd-sysusers", "usermod -aG syncevents"):
        assert words in done.stdout


def test_all_files_can_be_read_by_the_daemons_user_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        install(tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o644}
    assert (tmp_path / "etc/synceventsd").stat().st_mode & 0o777 == 0o755


def test_a_second_time_units_are_brought_up_to_date_and_settings_stay(tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / "etc/systemd/system/synceventsd.service").write_text("an older one")
    (tmp_path / "etc/synceventsd/synceventsd.toml").write_text("[redis]\nurl = 'none'\n")
    done = install(tmp_path)
    assert [line.split()[0] for line in done.stdout.splitlines()[:4]] == [
        "replaced",
        "unchanged:",
        "unchanged:",
        "kept",
    ]
    assert "an older one" not in below(tmp_path)["etc/systemd/system/synceventsd.service"]
    assert below(tmp_path)["etc/synceventsd/synceventsd.toml"] == "[redis]\nurl = 'none'\n"


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = install(tmp_path, "--dry-run")
    assert done.exit_code == 0
    assert done.stdout.count("would write") == 4
    assert list(tmp_path.iterdir()) == []


def refused_to_nobody() -> int:
    done = CliRunner().invoke(synceventsd, ["install-units", "--program", PROGRAM])
    return 0 if (done.exit_code, "takes root" in done.stderr, done.stdout) == (77, True, "") else 1


def test_without_root_it_refuses_and_says_how() -> None:
    assert (as_nobody(refused_to_nobody) if os.geteuid() == 0 else refused_to_nobody()) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_directory_that_may_not_be_written_is_status_77() -> None:
    with tempfile.TemporaryDirectory() as directory:  # one that nobody can get to, unlike tmp_path
        Path(directory).chmod(0o755)
        assert as_nobody(lambda: install(Path(directory)).exit_code) == 77


@pytest.mark.parametrize("place", ["/root/.local/bin/synceventsd", "/home/ann/bin/synceventsd", "/tmp/venv/bin/x"])
def test_a_program_that_the_service_could_not_see_is_refused(tmp_path: Path, place: str) -> None:
    done = install(tmp_path, "--program", place)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "PIPX_HOME=/opt/pipx" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_python_that_the_service_could_not_see_is_refused_too() -> None:
    with pytest.raises(Hindered, match=r"/root/\.pyenv"):
        check_program(Path(PROGRAM), Path("/opt/venv"), Path("/root/.pyenv/versions/3"))


@pytest.mark.parametrize("place", ["bin/synceventsd", "/opt/my programs/synceventsd", "/opt/%h/synceventsd"])
def test_a_path_that_a_unit_would_read_otherwise_is_refused(tmp_path: Path, place: str) -> None:
    assert install(tmp_path, "--program", place).exit_code == 1


def test_the_path_is_that_of_the_running_program_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"executable": "/opt/x/bin/python3", "prefix": "/opt/x", "base_prefix": "/usr"}.items():
        monkeypatch.setattr(sys, name, value)
    done = CliRunner().invoke(synceventsd, ["install-units", "--root", str(tmp_path)])
    assert done.exit_code == 0
    service = (tmp_path / "etc/systemd/system/synceventsd.service").read_text()
    assert "\nExecStart=/opt/x/bin/synceventsd run " in service


@pytest.mark.parametrize("directory", ["usr/lib/systemd/system", "lib/systemd/system"])
def test_beside_the_package_it_refuses(tmp_path: Path, directory: str) -> None:
    (tmp_path / directory).mkdir(parents=True)
    (tmp_path / directory / "synceventsd.service").touch()
    assert install(tmp_path).exit_code == 1
    assert not (tmp_path / "etc").exists()


def test_the_first_settings_file_changes_nothing_until_a_line_is_uncommented(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    environ = {"STATE_DIRECTORY": "/var/lib/synceventsd"}
    for text in (template(), re.sub(r"(?m)^#(?=\w)", "", template())):
        file.write_text(text)
        assert load({}, environ, file) == Config()
    named = tomllib.loads(file.read_text())
    assert {f"{section}.{key}" for section, keys in named.items() for key in keys} == set(SETTINGS)


def test_its_help_says_what_each_exit_status_means() -> None:
    command = synceventsd.get_command(click.Context(synceventsd), "install-units")
    assert command is not None
    told = CliRunner().invoke(command, ["--help"]).stdout
    for status in ("0", "1", "2", "74", "77"):
        assert re.search(rf"(^|\s){status} +\w", told, re.MULTILINE)
