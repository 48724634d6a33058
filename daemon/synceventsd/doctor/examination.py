"""The whole examination: every probe in a thread of its own, each with a deadline, then what it means.

Rule of this file: a probe that does not come back is left behind and told; nothing that hangs can hold the report.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import trio

from synceventsd.config import Config, RedisConfig, concerns
from synceventsd.core import checkup
from synceventsd.core.checkup_redis import RedisFacts, check_redis, check_unreachable
from synceventsd.core.errors import RedisUnavailable
from synceventsd.core.findings import Finding, ok, warn
from synceventsd.doctor import probes
from synceventsd.redis_sink.probe import probe

T = TypeVar("T")

TIMEOUT: Final = 3.0  # seconds that one answer may take
DEADLINE: Final = 15.0  # seconds for one probe as a whole


async def examine(config: Config) -> list[Finding]:
    """Return what there is to say of a daemon with these settings and of what is around it.

    Takes at most about `DEADLINE` seconds. Cancelled, it leaves threads behind that end by themselves.
    """
    path = config.ingest.socket
    asked: dict[str, Callable[[], Any]] = {
        "socket": lambda: probes.socket_facts(path, config.ingest.socket_mode, TIMEOUT),
        "group": lambda: probes.user_facts(path),
        "disk": lambda: probes.disk_facts(config.storage.state_dir, config.storage.max_bytes),
        "log": lambda: probes.log_facts(config.storage.state_dir),
        "clock": probes.clock_synchronised,
        "units": lambda: probes.units(TIMEOUT),
        "port": lambda: probes.port_facts(config, TIMEOUT),
        "redis": lambda: _redis(config.redis),
        "settings": lambda: concerns(config),
    }
    facts: dict[str, Any] = {}

    async def ask(name: str) -> None:
        with trio.move_on_after(DEADLINE):
            facts[name] = await trio.to_thread.run_sync(asked[name], abandon_on_cancel=True)

    async with trio.open_nursery() as nursery:
        for name in asked:
            nursery.start_soon(ask, name)
    late = [warn(name, f"no answer within {DEADLINE:g} s", "look at it by hand") for name in asked if name not in facts]
    return [*late, *_judged(config, facts)]


def _judged(config: Config, facts: dict[str, Any]) -> list[Finding]:
    found: list[Finding] = []
    log = facts.get("log")
    if "socket" in facts:
        found.append(checkup.check_socket(facts["socket"]))
        if "group" in facts:
            found.append(checkup.check_group(facts["socket"], facts["group"]))
    if "disk" in facts:
        found.append(checkup.check_disk(facts["disk"]))
    if log is not None:
        found.append(checkup.check_log(log))
    if "redis" in facts:
        found += _of_redis(config, facts["redis"])
    if "clock" in facts:
        newest = None if log is None else log.newest_at
        found.append(checkup.check_clock(time.time(), facts["clock"], newest))
    if "units" in facts:
        found += checkup.check_units(facts["units"])
    if "port" in facts:
        found.append(checkup.check_port(facts["port"], daemon_runs=log is not None and log.running))
    if "settings" in facts:
        found += [warn("settings", text, "as it says") for text in facts["settings"]] or [ok("settings", "nothing odd")]
    return found


def _of_redis(config: Config, facts: RedisFacts | RedisUnavailable | None) -> list[Finding]:
    if facts is None:
        return [ok("redis", "redis.url = none: nothing is forwarded")]
    if isinstance(facts, RedisUnavailable):
        return [check_unreachable(facts.reason, str(facts))]
    return check_redis(facts, config.redis.backlog_rate)


def _redis(config: RedisConfig) -> RedisFacts | RedisUnavailable | None:
    if config.url is None:
        return None
    try:
        return probe(config)
    except RedisUnavailable as error:
        return error
