"""Where a setting's value came from, and how a problem line tells of it: name, value, origin, never a secret."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from synceventsd.config.addresses import mask_password
from synceventsd.config.settings import ENVIRONMENT_PREFIX, SECTIONS, SETTINGS

_LONGEST_SHOWN = 200  # characters of a value
_SECRET_NAME = re.compile(r"pass|secret|token|key|url|credential", re.IGNORECASE)


@attrs.frozen
class Given:
    """A value as it came. `is_text`: from a flag or the environment, where everything is text."""

    value: object
    origin: str
    is_text: bool


Sections = dict[str, dict[str, Given]]
"""Values by section and key; keys may be unknown, sections are not."""


def collect(flags: Mapping[str, str], environ: Mapping[str, str], file: Path | None, problems: list[str]) -> Sections:
    """The strongest value of each setting: flag over environment over file. Adds to `problems` what it cannot place."""
    given: Sections = {section: {} for section in SECTIONS}
    given["storage"]["state_dir"] = _default_state_dir(environ)
    for section, keys in _from_file(file, problems).items():
        given[section].update(keys)
    _overlay(given, _from_environment(environ, problems))
    _overlay(given, {name: Given(value, f"flag {SETTINGS[name].flag}", True) for name, value in flags.items()})
    return given


def told(name: str, given: Given) -> str:
    """The beginning of a problem line: the setting, its value on one line and without secrets, its origin."""
    # The value of a setting that does not exist is shown, unless its name sounds like a secret's.
    hidden = name not in SETTINGS and _SECRET_NAME.search(name)
    return f"{name} = {'***' if hidden else shown(given.value, is_url=name == 'redis.url')} (from {given.origin})"


def shown(value: object, *, is_url: bool = False) -> str:
    """A value as TOML writes it, on one line, cut to a readable length, with passwords in URLs masked."""
    if isinstance(value, str) and (is_url or "://" in value):
        value = mask_password(value)
    try:
        text = json.dumps(value, default=str)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists nested too deep
        return "(a value too large to show)"
    if not isinstance(value, str) and "://" in text:  # a URL where it does not belong, in a list for example
        text = mask_password(text)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def one_line(problem: str) -> str:
    """The line with what would end or disturb it escaped: names of keys, variables and files are foreign text too."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in problem)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a problem line about an unknown name: the one that was probably meant, or all there are."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; allowed: {', '.join(names)}"


def _overlay(given: Sections, stronger: Mapping[str, Given]) -> None:
    for name, value in stronger.items():
        section, _, key = name.partition(".")
        given[section][key] = value


def _from_file(file: Path | None, problems: list[str]) -> Sections:
    given: Sections = {}
    origin = f"file {shown(str(file))}"
    for section, keys in _parse(file, problems).items():
        if section not in SECTIONS:
            problems.append(f"{section} (from {origin}): unknown section{nearest(section, SECTIONS)}")
        elif not isinstance(keys, dict):
            problems.append(f"{section} = {shown(keys)} (from {origin}): not a section; allowed: [{section}] with keys")
        else:
            given[section] = {key: Given(value, origin, False) for key, value in keys.items()}
    return given


def _parse(file: Path | None, problems: list[str]) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        content = file.read_bytes()
    except OSError as error:
        problems.append(f"--config {shown(str(file))}: cannot read it: {error.strerror}; allowed: a readable TOML file")
        return {}
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested too deep
        problems.append(f"--config {shown(str(file))}: not TOML: {' '.join(str(error).split())}")
        return {}


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Given]:
    names = {setting.variable: setting.name for setting in SETTINGS.values()}
    given = {}
    for variable, value in environ.items():
        if variable in names:
            given[names[variable]] = Given(value, f"environment variable {variable}", True)
        elif variable.startswith(ENVIRONMENT_PREFIX):
            start = told(variable, Given(value, "environment", True))
            problems.append(f"{start}: unknown variable{nearest(variable, names)}")
    return given


def _default_state_dir(environ: Mapping[str, str]) -> Given:
    # systemd lists several directories with colons between them; the unit asks for one.
    passed = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if passed:
        return Given(passed, "environment variable STATE_DIRECTORY", True)
    if os.geteuid() == 0:
        return Given(SETTINGS["storage.state_dir"].default, "default", True)
    home = Path(environ.get("HOME") or os.path.expanduser("~"))  # Path.home() raises where there is none
    base = Path(environ.get("XDG_STATE_HOME", ""))
    state = base if base.is_absolute() else home / ".local" / "state"
    return Given(str(state / "synceventsd"), "default", True)
