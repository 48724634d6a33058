"""What the doctor's findings on this machine mean: socket, groups, disk, log, clock, units, port.

Rule of this file: facts in, findings out. What could not be looked at is never taken for well.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from synceventsd.core.findings import Finding, fail, ok, warn
from synceventsd.core.health import size

LEAST_FREE: Final = 64 * 2**20  # bytes; with less the next minutes may bring a full disk
CLOCK_MARGIN: Final = 60.0  # seconds that the newest event may seem to come from the future
EARLIEST: Final = 1_735_689_600.0  # 2025-01-01: this program is younger


@frozen
class SocketFacts:
    """The publishers' socket.

    Attributes:
        mode: as `os.stat` has it; None where there is nothing, or it may not be looked at.
        owner, group: by name, or by number where there is none.
        error: why connecting failed: `missing`, `refused`, `denied`, `timeout` or another word; None: it worked.
        wanted_mode: `ingest.socket_mode`.
    """

    path: str
    mode: int | None
    owner: str
    group: str
    error: str | None
    wanted_mode: int


@frozen
class UserFacts:
    """Who runs the doctor.

    Attributes:
        in_group: whether this process has the socket's group.
        listed: whether the account database lists the user there.
    """

    name: str
    is_root: bool
    is_owner: bool
    in_group: bool
    listed: bool


@frozen
class DiskFacts:
    """The state directory, and the file system that it is or will be on; sizes in bytes.

    Attributes:
        exists: None where this user may not look.
        writable: whether this user may write there.
        used: by the log.
    """

    path: str
    exists: bool | None
    mode: int
    writable: bool
    free: int
    read_only: bool
    used: int
    max_bytes: int


@frozen
class LogFacts:
    """The log as an onlooker sees it.

    Attributes:
        trouble: `missing`, `forbidden`, `older`, `foreign`, `damaged`, `unavailable`, or None.
        detail: the sentence to it.
        newest_at: seconds since 1970.
    """

    trouble: str | None
    detail: str = ""
    running: bool = False
    suspect: bool = False
    waiting: int = 0
    newest_at: float | None = None


@frozen
class PortFacts:
    """What is at `http.bind`.

    Attributes:
        answer: `ours`, `foreign`, `nobody`, `silent` (connected, no answer).
        bindable: whether this user could listen there; None where it was not tried.
    """

    place: str
    answer: str
    bindable: bool | None = None
    why: str = ""


def check_socket(facts: SocketFacts) -> Finding:
    """Judge whether publishers find a socket that somebody serves."""
    start = "start the daemon (`systemctl start synceventsd.socket synceventsd`), or correct ingest.socket"
    if facts.error == "missing":
        return fail("socket", f"there is none at {facts.path}", start)
    if facts.mode is None:
        return fail("socket", f"{facts.path} may not be looked at by this user", "see to the directory's permissions")
    if not stat.S_ISSOCK(facts.mode):
        return fail("socket", f"{facts.path} is no socket", "move that file away, or correct ingest.socket")
    bits = stat.S_IMODE(facts.mode)
    seen = f"{facts.path}, mode {bits:04o}, {facts.owner}:{facts.group}"
    if facts.error == "refused":
        return fail("socket", f"nobody listens at {seen}", start)
    if facts.error == "denied":
        return fail(
            "socket",
            f"this user may not connect to {seen}",
            f"join the group (`usermod -aG {facts.group} USER`, then log in again), or set ingest.socket_mode",
        )
    if facts.error is not None:
        return fail("socket", f"{seen} does not answer: {facts.error}", "look at `journalctl -u synceventsd`")
    if bits != facts.wanted_mode:
        return warn(
            "socket",
            f"{seen}, but ingest.socket_mode is {facts.wanted_mode:04o}",
            "where systemd owns the socket its unit decides (SocketMode=): make the two agree; else restart the daemon",
        )
    if not bits & 0o022:
        return warn("socket", f"only its owner may publish: {seen}", "set ingest.socket_mode and ingest.socket_group")
    return ok("socket", f"{seen}; connecting works")


def check_group(socket: SocketFacts, user: UserFacts) -> Finding:
    """Judge whether the calling user may publish, and by which right."""
    if socket.mode is None or not stat.S_ISSOCK(socket.mode):
        return ok("group", f"not looked at: there is no socket that {user.name} could use")
    if user.is_root:
        return ok("group", "root may always connect; run the doctor as the publishers' user to see what holds for it")
    if user.is_owner and socket.mode & 0o200:
        return ok("group", f"{user.name} owns the socket")
    if socket.mode & 0o002:
        return ok("group", "every user may connect")
    if user.in_group and socket.mode & 0o020:
        return ok("group", f"{user.name} is in {socket.group}")
    if user.listed:
        return warn(
            "group",
            f"{user.name} is in {socket.group}, but this process is not",
            "log in again, or restart the service",
        )
    return warn(
        "group",
        f"{user.name} is not in {socket.group} and may not publish",
        f"usermod -aG {socket.group} {user.name}, if this user is to publish",
    )


def check_disk(facts: DiskFacts) -> Finding:
    """Judge the state directory and the room on its disk."""
    room = f"{size(facts.free)} free for {facts.path}"
    if facts.read_only:
        return fail(
            "disk", f"{facts.path} is on a file system that is read-only", "remount it, or set storage.state_dir"
        )
    if facts.free < LEAST_FREE:
        return fail("disk", room, "make room: when the disk is full nothing is accepted; nothing accepted is lost")
    if facts.exists and facts.mode & 0o077:
        return warn("disk", f"{facts.path} has mode {facts.mode & 0o7777:04o}", "chmod 0700: the events are in there")
    missing = facts.max_bytes - facts.used - facts.free
    if missing > 0:
        return warn(
            "disk",
            f"{room}, storage.max_bytes may want {size(facts.max_bytes - facts.used)} more",
            f"lower storage.max_bytes by {size(missing)}, or make room",
        )
    if facts.exists is False and not facts.writable:
        return warn(
            "disk", f"{facts.path} is not there, and this user may not make it", "the daemon's user has to be able to"
        )
    return ok("disk", room)


def check_log(facts: LogFacts) -> Finding:
    """Judge the log as far as a glance goes."""
    remedies = {
        "foreign": "run the newer synceventsd, or name another storage.state_dir",
        "damaged": "`synceventsd log verify` says where; the next start of the daemon salvages it",
        "unavailable": "try again",
    }
    if facts.trouble == "missing":
        return ok("log", "there is none yet; the first start makes one")
    if facts.trouble == "forbidden":
        return warn("log", facts.detail, "run the doctor as root or as the daemon's user")
    if facts.trouble == "older":
        return warn(
            "log", facts.detail, "make a copy first if you may want to go back: an older program cannot read it then"
        )
    if facts.trouble is not None:
        return fail("log", facts.detail, remedies[facts.trouble])
    runs = "a daemon has it open" if facts.running else "no daemon has it open"
    if facts.suspect:
        return warn("log", f"damage was met; {runs}", "restart the daemon: its start salvages the log")
    return ok("log", f"reads; {runs}; {facts.waiting} events wait for Redis")


def check_clock(now: float, synchronised: bool | None, newest_at: float | None) -> Finding:
    """Judge the wall clock: events carry its time, tokens end by it."""
    if now < EARLIEST:
        return fail(
            "clock", "it is before 2025", "set the clock, and let it be synchronised (`timedatectl set-ntp true`)"
        )
    if newest_at is not None and newest_at > now + CLOCK_MARGIN:
        return warn(
            "clock",
            f"the newest event is {newest_at - now:.0f} s in the future",
            "the clock was set back; is it right?",
        )
    if synchronised is False:
        return warn("clock", "it is not synchronised", "`timedatectl set-ntp true`, or whatever your network has")
    return ok("clock", "sane and synchronised" if synchronised else "sane; whether it is synchronised cannot be told")


def check_units(units: Mapping[str, Mapping[str, str]] | None) -> list[Finding]:
    """Judge the systemd units; None where systemd does not run here."""
    if units is None:
        return [ok("units", "systemd does not run here")]
    findings = []
    for name, facts in units.items():
        loaded, active, enabled = (facts.get(key, "") for key in ("LoadState", "ActiveState", "UnitFileState"))
        if loaded != "loaded":
            found = f"{name} is {loaded or 'unknown'}"
            findings.append(warn("units", found, "install the units: docs/operating.md, Under systemd"))
        elif active == "failed":
            findings.append(fail("units", f"{name} has failed", f"systemctl status {name}; journalctl -u {name}"))
        elif active not in ("active", "activating", "reloading"):
            findings.append(fail("units", f"{name} is {active}", f"systemctl start {name}"))
        elif enabled not in ("enabled", "static", "indirect", "generated", "linked", "alias"):
            found = f"{name} is active, but {enabled or 'not enabled'}"
            findings.append(warn("units", found, f"systemctl enable {name}, or it is gone after the next boot"))
        else:
            findings.append(ok("units", f"{name} is {active} and {enabled}"))
    return findings


def check_port(facts: PortFacts | None, *, daemon_runs: bool) -> Finding:
    """Judge what is at `http.bind`; None where HTTP is off."""
    if facts is None:
        return ok("port", "http.bind = none: HTTP is off")
    if facts.answer == "ours":
        return ok("port", f"a synceventsd answers at {facts.place}")
    if facts.answer == "foreign":
        return fail("port", f"something else listens at {facts.place}", "stop it, or set another http.bind")
    if facts.answer == "silent":
        return fail("port", f"{facts.place} takes connections and does not answer", "journalctl -u synceventsd")
    if daemon_runs:
        return warn(
            "port", f"a daemon runs, but not at {facts.place}", "are these the settings it runs with? name its --config"
        )
    if facts.bindable is False:
        return fail("port", f"{facts.place} cannot be listened at: {facts.why}", "set another http.bind")
    return ok("port", f"{facts.place} is free")
