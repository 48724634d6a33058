"""The doctor's rules: what each finding is, and that every one that is not well says what to do."""

from __future__ import annotations

import stat
from typing import Any

import pytest
from attrs import evolve

from synceventsd.core.checkup import (
    DiskFacts,
    LogFacts,
    PortFacts,
    SocketFacts,
    UserFacts,
    check_clock,
    check_disk,
    check_group,
    check_log,
    check_port,
    check_socket,
    check_units,
)
from synceventsd.core.checkup_redis import RedisFacts, check_redis, check_unreachable, parse_pubsub_limit
from synceventsd.core.findings import Finding, Level

SOCKET = SocketFacts("/run/s", stat.S_IFSOCK | 0o660, "root", "syncevents", None, 0o660)
ANN = UserFacts("ann", is_root=False, is_owner=False, in_group=True, listed=True)
DISK = DiskFacts("/var/lib/s", True, 0o700, True, free=2**33, read_only=False, used=0, max_bytes=2**32)
LOG = LogFacts(None, running=True, newest_at=1_800_000_000.0)
NOW = 1_800_000_000.0
PORT = PortFacts("http://127.0.0.1:8787", "nobody", True)
REDIS = RedisFacts(
    version="7.2.0",
    role="master",
    append_only=True,
    saves="",
    policy="noeviction",
    used=100,
    maxmemory=0,
    pubsub_hard=32 * 2**20,
    pubsub_soft=8 * 2**20,
    pubsub_soft_seconds=60,
)


def said(finding: Finding, level: Level, *words: str) -> None:
    assert finding.level is level, finding
    assert all(word in finding.found + finding.remedy for word in words), finding
    assert (finding.remedy == "") is (level is Level.OK), "what is not well has a remedy"


@pytest.mark.parametrize(
    ("change", "level", "word"),
    [
        ({}, Level.OK, "connecting works"),
        ({"mode": None, "error": "missing"}, Level.FAIL, "systemctl start"),
        ({"mode": None, "error": "denied"}, Level.FAIL, "may not be looked at"),
        ({"mode": stat.S_IFREG | 0o660, "error": "refused"}, Level.FAIL, "no socket"),
        ({"error": "refused"}, Level.FAIL, "nobody listens"),
        ({"error": "denied"}, Level.FAIL, "usermod -aG syncevents"),
        ({"error": "timeout"}, Level.FAIL, "timeout"),
        ({"mode": stat.S_IFSOCK | 0o666}, Level.WARN, "socket_mode is 0660"),
        ({"mode": stat.S_IFSOCK | 0o600, "wanted_mode": 0o600}, Level.WARN, "only its owner"),
    ],
)
def test_the_socket(change: dict[str, Any], level: Level, word: str) -> None:
    said(check_socket(evolve(SOCKET, **change)), level, word)


@pytest.mark.parametrize(
    ("mode", "user", "level", "word"),
    [
        (0o660, ANN, Level.OK, "ann is in syncevents"),
        (0o660, evolve(ANN, in_group=False), Level.WARN, "log in again"),
        (0o660, evolve(ANN, in_group=False, listed=False), Level.WARN, "usermod -aG syncevents ann"),
        (0o600, ANN, Level.WARN, "may not publish"),
        (0o600, evolve(ANN, is_owner=True), Level.OK, "owns"),
        (0o666, evolve(ANN, in_group=False, listed=False), Level.OK, "every user"),
        (0o600, evolve(ANN, is_root=True), Level.OK, "root"),
    ],
)
def test_the_group(mode: int, user: UserFacts, level: Level, word: str) -> None:
    if (mode, user) == (0o600, ANN):
        user = evolve(user, listed=False)
    said(check_group(evolve(SOCKET, mode=stat.S_IFSOCK | mode), user), level, word)


def test_without_a_socket_no_group_is_judged() -> None:
    said(check_group(evolve(SOCKET, mode=None), ANN), Level.OK, "not looked at")


@pytest.mark.parametrize(
    ("change", "level", "word"),
    [
        ({}, Level.OK, "8.0 GiB free"),
        ({"free": 2**20}, Level.FAIL, "make room"),
        ({"free": 0}, Level.FAIL, "0 B free"),
        ({"read_only": True}, Level.FAIL, "read-only"),
        ({"free": 2**31}, Level.WARN, "lower storage.max_bytes by 2.0 GiB"),
        ({"free": 2**31, "used": 2**31}, Level.OK, "free"),
        ({"mode": 0o755}, Level.WARN, "chmod 0700"),
        ({"exists": False, "mode": 0, "writable": False}, Level.WARN, "may not make it"),
        ({"exists": False, "mode": 0}, Level.OK, "free"),
    ],
)
def test_the_disk(change: dict[str, Any], level: Level, word: str) -> None:
    said(check_disk(evolve(DISK, **change)), level, word)


@pytest.mark.parametrize(
    ("facts", "level", "word"),
    [
        (LOG, Level.OK, "a daemon has it open"),
        (evolve(LOG, running=False, waiting=3), Level.OK, "3 events wait"),
        (evolve(LOG, suspect=True), Level.WARN, "salvages"),
        (LogFacts("missing"), Level.OK, "none yet"),
        (LogFacts("forbidden", "may not be read"), Level.WARN, "as root"),
        (LogFacts("older", "tables of version 1"), Level.WARN, "make a copy"),
        (LogFacts("foreign", "tables of version 9"), Level.FAIL, "newer synceventsd"),
        (LogFacts("damaged", "does not read"), Level.FAIL, "log verify"),
        (LogFacts("unavailable", "busy"), Level.FAIL, "try again"),
    ],
)
def test_the_log(facts: LogFacts, level: Level, word: str) -> None:
    said(check_log(facts), level, word)


@pytest.mark.parametrize(
    ("now", "synchronised", "newest", "level", "word"),
    [
        (NOW, True, NOW, Level.OK, "synchronised"),
        (NOW, None, None, Level.OK, "cannot be told"),
        (NOW, False, None, Level.WARN, "not synchronised"),
        (NOW, True, NOW + 3600, Level.WARN, "3600 s in the future"),
        (0.0, True, None, Level.FAIL, "before 2025"),
    ],
)
def test_the_clock(now: float, synchronised: bool | None, newest: float | None, level: Level, word: str) -> None:
    said(check_clock(now, synchronised, newest), level, word)


@pytest.mark.parametrize(
    ("states", "level", "word"),
    [
        (("loaded", "active", "enabled"), Level.OK, "active and enabled"),
        (("loaded", "active", "disabled"), Level.WARN, "systemctl enable"),
        (("loaded", "inactive", "enabled"), Level.FAIL, "systemctl start"),
        (("loaded", "failed", "enabled"), Level.FAIL, "journalctl"),
        (("not-found", "inactive", ""), Level.WARN, "install the units"),
        (("masked", "inactive", "masked"), Level.WARN, "masked"),
    ],
)
def test_the_units(states: tuple[str, str, str], level: Level, word: str) -> None:
    facts = dict(zip(("LoadState", "ActiveState", "UnitFileState"), states, strict=True))
    (finding,) = check_units({"synceventsd.socket": facts})
    said(finding, level, word, "synceventsd.socket")


def test_without_systemd_no_unit_is_missed() -> None:
    assert [finding.level for finding in check_units(None)] == [Level.OK]


@pytest.mark.parametrize(
    ("facts", "runs", "level", "word"),
    [
        (None, True, Level.OK, "off"),
        (evolve(PORT, answer="ours"), True, Level.OK, "answers"),
        (evolve(PORT, answer="foreign"), False, Level.FAIL, "something else"),
        (evolve(PORT, answer="silent"), True, Level.FAIL, "does not answer"),
        (PORT, True, Level.WARN, "--config"),
        (PORT, False, Level.OK, "free"),
        (evolve(PORT, bindable=False, why="Permission denied"), False, Level.FAIL, "Permission denied"),
    ],
)
def test_the_port(facts: PortFacts | None, runs: bool, level: Level, word: str) -> None:
    said(check_port(facts, daemon_runs=runs), level, word)


@pytest.mark.parametrize(
    ("change", "rate", "check", "level", "word"),
    [
        ({}, 10000, "redis", Level.OK, "7.2.0"),
        ({"role": "slave"}, 10000, "redis role", Level.FAIL, "primary"),
        ({"role": None, "refusals": {"SET": "READONLY You can't"}}, 10000, "redis role", Level.FAIL, "replica"),
        ({"refusals": {"PUBLISH": "NOPERM no"}}, 10000, "redis rights", Level.FAIL, "PUBLISH: NOPERM"),
        ({"scripts": False}, 10000, "redis rights", Level.WARN, "transactions are used"),
        ({"scripts": False, "transactions": False}, 10000, "redis rights", Level.FAIL, "neither"),
        ({"transactions": False}, 10000, "redis rights", Level.OK, "scripts"),
        ({"append_only": False, "saves": ""}, 10000, "redis persistence", Level.WARN, "forgets the cursor"),
        ({"append_only": False, "saves": "900 1"}, 10000, "redis persistence", Level.OK, "save 900 1"),
        ({"append_only": None, "saves": None}, 10000, "redis persistence", Level.WARN, "CONFIG GET"),
        ({"save_failed": True}, 10000, "redis persistence", Level.WARN, "snapshot failed"),
        ({"maxmemory": 1000, "policy": "allkeys-lru"}, 10000, "redis memory", Level.WARN, "evicted"),
        ({"maxmemory": 1000, "used": 950}, 10000, "redis memory", Level.WARN, "raise maxmemory"),
        ({"maxmemory": 1000, "policy": "volatile-ttl"}, 10000, "redis memory", Level.OK, "volatile-ttl"),
        ({}, 10000, "redis subscribers", Level.OK, "3.4 s"),
        ({}, 0, "redis subscribers", Level.WARN, "backlog_rate = 16777"),
        ({"pubsub_hard": 2**20}, 10000, "redis subscribers", Level.WARN, "backlog_rate = 524"),
        ({"pubsub_hard": 0}, 0, "redis subscribers", Level.OK, "none is cut off"),
        ({"pubsub_hard": None}, 0, "redis subscribers", Level.OK, "does not let itself be asked"),
    ],
)
def test_redis(change: dict[str, Any], rate: int, check: str, level: Level, word: str) -> None:
    findings = {finding.check: finding for finding in check_redis(evolve(REDIS, **change), rate)}
    said(findings[check], level, word)


def test_a_redis_that_cannot_be_asked_fails_with_the_words_of_status() -> None:
    said(check_unreachable("auth", "Redis at redis://h wants a password"), Level.FAIL, "wants a password (auth)")


@pytest.mark.parametrize(
    ("reply", "limit"),
    [
        ("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", (33554432, 8388608, 60)),
        ("pubsub 0 0 0 normal 0 0 0", (0, 0, 0)),
        ("normal 0 0 0", None),
        ("pubsub 1 2", None),
        ("pubsub x 2 3", None),
        ("", None),
    ],
)
def test_the_limit_of_subscribers_is_read_from_redis_reply(reply: str, limit: object) -> None:
    assert parse_pubsub_limit(reply) == limit
