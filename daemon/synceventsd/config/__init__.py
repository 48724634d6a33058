"""Reading the settings: flag over environment over TOML file over default, all problems told at once.

Values are untrusted until `load` has structured them; a `Config` from here is valid, and nobody checks again.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, override

from synceventsd.config.addresses import TcpBind, UnixBind, holds_password, mask_password
from synceventsd.config.publishing import PublishRule
from synceventsd.config.rules import read_secret
from synceventsd.config.settings import (
    SECTIONS,
    SETTINGS,
    Config,
    HttpConfig,
    IngestConfig,
    LoggingConfig,
    RedisConfig,
    Setting,
    ShutdownConfig,
    StatusConfig,
    StorageConfig,
)
from synceventsd.config.sources import Given, Sections, collect, nearest, one_line, shown, told

__all__ = [
    "SETTINGS",
    "Config",
    "ConfigError",
    "HttpConfig",
    "IngestConfig",
    "LoggingConfig",
    "PublishRule",
    "RedisConfig",
    "Setting",
    "ShutdownConfig",
    "StatusConfig",
    "StorageConfig",
    "TcpBind",
    "UnixBind",
    "concerns",
    "dump",
    "holds_password",
    "load",
    "mask_password",
    "read_secret",
]

_SHORTEST_KEY = 32  # bytes, of a key for HS256: RFC 7518, section 3.2


class ConfigError(Exception):
    """The settings cannot be used: `problems` has one line for each fault, without secrets."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(flags: Mapping[str, str], environ: Mapping[str, str], file: Path | None) -> Config:
    """The settings in force.

    `flags` holds texts by setting name (`"http.bind"`). Raises `ConfigError` with every problem there is; looks at the
    secrets' files, users and groups that the settings name, and at nothing else.
    """
    problems: list[str] = []
    given = collect(flags, environ, file, problems)
    faulty: set[str] = set()
    config = Config(**{name: _structure(name, given[name], problems, faulty) for name in SECTIONS})
    if "retain_bytes" not in given["storage"]:
        kept = min(config.storage.retain_bytes, config.storage.max_bytes)
        config = attrs.evolve(config, storage=attrs.evolve(config.storage, retain_bytes=kept))
    for names, line in _contradictions(config, given):
        if faulty.isdisjoint(names):
            problems.append(line)
    if problems:
        raise ConfigError(tuple(one_line(problem) for problem in problems))
    return config


def dump(config: Config) -> str:
    """The settings as TOML, a line each, with passwords masked."""
    lines = []
    for name, setting in SETTINGS.items():
        section, _, key = name.partition(".")
        value = setting.rule.shown(getattr(getattr(config, section), key))
        lines.append(f"{name} = {_toml(value)}")
    return "\n".join(lines)


def _toml(value: object) -> str:
    """A value as TOML has it: as JSON does, but for tables."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(one)}' for key, one in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


def concerns(config: Config) -> tuple[str, ...]:
    """What works and should not stay so, a line each: for the log and `check-config`."""
    found = []
    file = config.http.token_secret_file
    if file is not None and len(read_secret(file).encode()) < _SHORTEST_KEY:
        found.append(
            f"http.token_secret_file = {shown(str(file))}: the key has fewer than {_SHORTEST_KEY} bytes and can be "
            "guessed; write a longer one, for example from `openssl rand -hex 32`"
        )
    for name, secret in (("http.token_secret_file", file), ("redis.password_file", config.redis.password_file)):
        if secret is not None and secret.stat().st_mode & 0o007:
            found.append(f"{name} = {shown(str(secret))}: every user may read it; `chmod o=` it")
    return tuple(found)


def _structure(section: str, given: dict[str, Given], problems: list[str], faulty: set[str]) -> Any:
    """One section; with faults, they are told and taken out of `given`, and the rest is structured."""
    try:
        return _CONVERTER.structure(given, SECTIONS[section])
    except cattrs.ClassValidationError as faults:
        for key, line in _faults(section, given, faults):
            problems.append(line)
            faulty.add(f"{section}.{key}")
    for name in faulty:
        given.pop(name.removeprefix(f"{section}."), None)
    return _CONVERTER.structure(given, SECTIONS[section])


def _faults(section: str, given: Mapping[str, Given], faults: cattrs.ClassValidationError) -> Iterator[tuple[str, str]]:
    """The key and the problem line of each fault."""
    refused, others = faults.group_exceptions()
    for error, note in refused:
        setting = SETTINGS[f"{section}.{note.name}"]
        for reason in error.args or ("",):
            why = f"{reason}; allowed: " if reason else "allowed: "
            yield note.name, f"{told(setting.name, given[note.name])}: {why}{setting.rule.allowed}"
    known = [name for name in SETTINGS if name.startswith(f"{section}.")]
    for error in others:
        if not isinstance(error, cattrs.ForbiddenExtraKeysError):
            raise error
        for key in sorted(error.extra_fields):
            name = f"{section}.{key}"
            yield key, f"{told(name, given[key])}: unknown setting{nearest(name, known)}"


def _contradictions(config: Config, given: Sections) -> Iterator[tuple[set[str], str]]:
    """Settings that are allowed each and not together: their names and the problem line."""
    storage, redis, http = config.storage, config.redis, config.http
    if storage.retain_bytes > storage.max_bytes:
        start = told("storage.retain_bytes", given["storage"]["retain_bytes"])
        line = f"{start}: allowed: at most storage.max_bytes, {storage.max_bytes}"
        yield {"storage.retain_bytes", "storage.max_bytes"}, line
    if isinstance(http.bind, TcpBind) and not http.bind.is_loopback and http.token_secret_file is None:
        start = told("http.bind", given["http"]["bind"])
        line = f"{start}: allowed without http.token_secret_file: a loopback address or a Unix socket; set that file"
        yield {"http.bind", "http.token_secret_file"}, line
    if redis.password_file is not None and redis.url is not None and holds_password(redis.url):
        start = told("redis.password_file", given["redis"]["password_file"])
        yield {"redis.password_file", "redis.url"}, f"{start}: redis.url has a password too; allowed: one of the two"


def _hook(setting: Setting) -> Any:
    def read(given: Given, _: object) -> object:
        value = setting.rule.from_text(str(given.value)) if given.is_text else given.value
        return setting.rule.check(value)

    return read


def _converter() -> cattrs.Converter:
    # cattrs' own hooks coerce ("12" is 12, 1.9 is 1): every field has a strict one of its own.
    converter = cattrs.Converter(detailed_validation=True)
    for section, members in SECTIONS.items():
        hooks: Any = {
            field.name: override(struct_hook=_hook(SETTINGS[f"{section}.{field.name}"]))
            for field in attrs.fields(members)
        }
        structure = make_dict_structure_fn(members, converter, _cattrs_forbid_extra_keys=True, **hooks)
        converter.register_structure_hook(members, structure)
    return converter


_CONVERTER = _converter()
