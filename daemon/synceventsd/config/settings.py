"""The settings, each declared once: parsing, error lines, `--help` and the docs are made from the fields below.

How they are read stands in `config`, what a value may be in `rules` and `addresses`.
"""
# ruff: noqa: RUF009 (the calls declare attrs fields; what they make is immutable)

from pathlib import Path
from typing import Any, Literal

import attrs

from synceventsd.config import rules
from synceventsd.config.addresses import TcpBind, UnixBind, bind_address, host_name, redis_url, web_origin
from synceventsd.config.publishing import PublishRule, publish_rules

ENVIRONMENT_PREFIX = "SYNCEVENTSD_"


@attrs.frozen
class Setting:
    """The declaration of one setting; `default` is as the TOML file would write it."""

    name: str
    rule: rules.Rule
    default: object
    about: str
    flag: str | None

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return ENVIRONMENT_PREFIX + self.name.replace(".", "_").upper()


def _setting(default: object, rule: rules.Rule, about: str, *, flag: str | None = None) -> Any:
    shown = rule.shown
    declaration = {"rule": rule, "about": about, "flag": flag}
    # A repr must not show what a dump masks: it ends up in tracebacks.
    return attrs.field(default=default, metadata=declaration, repr=lambda value: repr(shown(value)))


@attrs.frozen
class IngestConfig:
    """[ingest]: the socket that publishers write to."""

    socket: Path = _setting(
        Path("/run/synceventsd/synceventsd.sock"),
        rules.socket_path(),
        "where publishers connect (ignored when systemd hands over the socket)",
        flag="--socket",
    )
    socket_mode: int = _setting(0o660, rules.octal_mode(), "permissions of the socket")
    socket_group: str | None = _setting(None, rules.optional(rules.group()), "group of the socket")
    max_frame: int = _setting(262144, rules.integer(64, 2**26, unit="bytes"), "longest line a publisher may send")
    max_clients: int = _setting(1024, rules.integer(1, 1_000_000), "publishers connected at the same time")
    max_clients_per_user: int = _setting(
        0, rules.integer(0, 1_000_000), "publishers of one user connected at the same time (0: no limit of its own)"
    )
    max_rate: int = _setting(
        0, rules.integer(0, 10**9), "lines a second taken from one user; more are made to wait (0: no limit)"
    )
    extra_types: tuple[str, ...] = _setting((), rules.listing(rules.event_type()), "event types beyond the six")
    allow_users: tuple[str, ...] = _setting(
        (), rules.listing(rules.user()), "users who may publish (neither users nor groups: everybody)"
    )
    allow_groups: tuple[str, ...] = _setting((), rules.listing(rules.group()), "groups whose members may publish")
    rules: tuple[PublishRule, ...] = _setting(
        (), publish_rules(), "what users and groups may publish for (none: everybody for everything)"
    )


@attrs.frozen
class StorageConfig:
    """[storage]: the event log on disk."""

    state_dir: Path = _setting(
        Path("/var/lib/synceventsd"), rules.path(), "event log (not root: in ~/.local/state)", flag="--state-dir"
    )
    durability: Literal["power", "process"] = _setting(
        "power", rules.choice("power", "process"), "what an acknowledged event survives: loss of power, or kill -9 only"
    )
    max_bytes: int = _setting(
        4 * 2**30, rules.integer(1, unit="bytes"), "most that the log may hold; beyond it events are rejected"
    )
    retain_bytes: int = _setting(
        2**30, rules.integer(0, unit="bytes"), "forwarded events kept for replay (default: max_bytes when that is less)"
    )
    retain_seconds: float = _setting(604800.0, rules.seconds(), "how long forwarded events are kept for replay")


@attrs.frozen
class RedisConfig:
    """[redis]: whereto events are forwarded; `url` None switches forwarding off."""

    url: str | None = _setting(
        "redis://127.0.0.1:6379/0", redis_url(), 'the Redis server ("none": do not forward)', flag="--redis-url"
    )
    channel: str = _setting(
        "probability:integrations:orders:sync:events",
        rules.text("text of 1 to 512 printable characters", r"[^\x00-\x1f\x7f]{1,512}"),
        "channel that events are published to",
    )
    password_file: Path | None = _setting(None, rules.secret_file(), "file with the password, instead of in the URL")
    timeout: float = _setting(5.0, rules.seconds(), "how long Redis may take to connect and to answer")
    backlog_rate: int = _setting(10000, rules.integer(0, 10**9), "events a second of a backlog (0: no limit)")


@attrs.frozen
class HttpConfig:
    """[http]: streams and sync status; `bind` None switches HTTP off."""

    bind: TcpBind | UnixBind | None = _setting(
        TcpBind("127.0.0.1", 8787), bind_address(), "where HTTP listens", flag="--http"
    )
    base_path: str = _setting(
        "",
        rules.text('empty, or a path such as "/api/v1": "/" first, none at the end', r"(/[A-Za-z0-9._~-]+)*"),
        "comes before every path",
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (), rules.listing(host_name()), "names by which it is reached, beside loopback and the bind address"
    )
    cors_origins: tuple[str, ...] = _setting((), rules.listing(web_origin()), "origins whose pages may read")
    token_secret_file: Path | None = _setting(None, rules.secret_file(), "file with the key of the tokens")
    max_streams: int = _setting(4096, rules.integer(1, 1_000_000), "streams open at the same time")
    keep_alive: float = _setting(15.0, rules.seconds(), "a stream without traffic gets a keep-alive after this")
    send_timeout: float = _setting(30.0, rules.seconds(), "a reader that takes nothing is cut off after this")
    retry: float = _setting(3.0, rules.seconds(), "how long a browser waits before it reconnects")


@attrs.frozen
class StatusConfig:
    """[status]: the sync status."""

    stalled_after: float = _setting(
        900.0, rules.seconds(), "a running sync counts as stalled after this time without events"
    )


@attrs.frozen
class ShutdownConfig:
    """[shutdown]: the clean stop."""

    grace: float = _setting(10.0, rules.seconds(), "time to end streams and forward what waits")


@attrs.frozen
class LoggingConfig:
    """[logging]: the log on stderr."""

    level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", rules.choice("debug", "info", "warning", "error"), "least severity that is logged"
    )
    format: Literal["auto", "journald", "text", "json"] = _setting(
        "auto",
        rules.choice("auto", "journald", "text", "json"),
        "auto: journald form under systemd, text on a terminal, else JSON",
    )


@attrs.frozen
class Config:
    """The settings in force. Sizes are bytes, durations are seconds."""

    ingest: IngestConfig = attrs.Factory(IngestConfig)
    storage: StorageConfig = attrs.Factory(StorageConfig)
    redis: RedisConfig = attrs.Factory(RedisConfig)
    http: HttpConfig = attrs.Factory(HttpConfig)
    status: StatusConfig = attrs.Factory(StatusConfig)
    shutdown: ShutdownConfig = attrs.Factory(ShutdownConfig)
    logging: LoggingConfig = attrs.Factory(LoggingConfig)


def _declared() -> tuple[Setting, ...]:
    return tuple(
        Setting(
            name=f"{section}.{field.name}",
            rule=field.metadata["rule"],
            default=field.metadata["rule"].shown(field.default),
            about=field.metadata["about"],
            flag=field.metadata["flag"],
        )
        for section, members in SECTIONS.items()
        for field in attrs.fields(members)
    )


SECTIONS: dict[str, type[Any]] = {field.name: field.type for field in attrs.fields(Config) if field.type is not None}
"""The class of every section by its name."""

SETTINGS = {setting.name: setting for setting in _declared()}
"""Every setting by its name, `section.key`, in the order of the sections."""
