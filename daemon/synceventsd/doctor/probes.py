"""Looking at this machine: socket, user, disk, log, clock, units, port; what it means is in `core.checkup`.

Rule of this file: nothing is changed, and nothing waits for longer than the time it is given. All of it blocks.
"""

from __future__ import annotations

import ctypes
import errno
import grp
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from synceventsd.config import Config, TcpBind, UnixBind
from synceventsd.core.checkup import DiskFacts, LogFacts, PortFacts, SocketFacts, UserFacts
from synceventsd.core.errors import LogDamaged, StorageUnavailable
from synceventsd.doctor import asking
from synceventsd.eventlog.facts import gather
from synceventsd.eventlog.onlooker import LogForbidden, LogForeign, LogMissing, LogOlder, Onlooker

UNITS: Final = ("synceventsd.socket", "synceventsd.service")
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised
_WORDS: Final = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.ECONNREFUSED: "refused",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EAGAIN: "too many connections wait already",
}


def socket_facts(path: Path, wanted_mode: int, timeout: float) -> SocketFacts:
    """Look at the publishers' socket, and connect to it."""
    try:
        found = path.stat()
    except OSError as error:
        return SocketFacts(str(path), None, "", "", _WORDS.get(error.errno or 0, str(error.strerror)), wanted_mode)
    owner, group = _user(found.st_uid), _group(found.st_gid)
    return SocketFacts(str(path), found.st_mode, owner, group, _connecting(path, timeout), wanted_mode)


def user_facts(path: Path) -> UserFacts:
    """Look at who runs this, and in which way the socket's group is theirs."""
    uid = os.geteuid()
    name = _user(uid)
    try:
        found = path.stat()
    except OSError:
        return UserFacts(name, uid == 0, is_owner=False, in_group=False, listed=False)
    in_group = found.st_gid == os.getegid() or found.st_gid in os.getgroups()
    return UserFacts(name, uid == 0, found.st_uid == uid, in_group, name in _members(found.st_gid))


def disk_facts(state_dir: Path, max_bytes: int) -> DiskFacts:
    """Look at the state directory, or where it will be."""
    exists: bool | None
    mode, used = 0, 0
    try:
        mode, exists = state_dir.stat().st_mode, True
        used = sum(entry.stat().st_size for entry in state_dir.iterdir() if entry.is_file())
    except FileNotFoundError:
        exists = False
    except OSError:
        exists = None if mode == 0 else True
    there = state_dir
    while not os.access(there, os.F_OK) and there != there.parent:
        there = there.parent
    system = os.statvfs(there)
    return DiskFacts(
        path=str(state_dir),
        exists=exists,
        mode=mode & 0o7777,
        writable=os.access(there, os.W_OK | os.X_OK),
        free=system.f_bavail * system.f_frsize,
        read_only=bool(system.f_flag & os.ST_RDONLY),
        used=used,
        max_bytes=max_bytes,
    )


def log_facts(state_dir: Path) -> LogFacts:
    """Glance at the log, as `synceventsd log stat` does."""
    try:
        with closing(Onlooker(state_dir)) as onlooker:
            facts = gather(onlooker)
    except LogMissing as error:
        return LogFacts("missing", str(error))
    except LogForbidden as error:
        return LogFacts("forbidden", str(error))
    except LogOlder as error:
        return LogFacts("older", str(error))
    except LogForeign as error:
        return LogFacts("foreign", str(error))
    except LogDamaged as error:
        return LogFacts("damaged", f"the log does not read: {error}")
    except StorageUnavailable as error:
        return LogFacts("unavailable", f"the log cannot be read now: {error}")
    return LogFacts(None, "", facts.running, facts.suspect, facts.waiting, facts.newest_at)


def clock_synchronised() -> bool | None:
    """Return whether the kernel's clock is kept in time; None where it does not say."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "adjtimex"):
        return None
    # `struct timex` with `modes = 0` only asks; 512 bytes are more than it has anywhere.
    state = library.adjtimex(ctypes.create_string_buffer(512))
    return None if state < 0 else state != _TIME_ERROR


def units(timeout: float) -> Mapping[str, Mapping[str, str]] | None:
    """Ask systemd for our units; None where it does not run, or does not answer in time."""
    program = shutil.which("systemctl")
    if program is None or not Path("/run/systemd/system").is_dir():
        return None
    found = {}
    for name in UNITS:
        command = [program, "show", name, "--property=LoadState,ActiveState,UnitFileState"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)  # noqa: S603 (no shell)
        except (subprocess.TimeoutExpired, OSError):
            return None
        found[name] = dict(row.split("=", 1) for row in done.stdout.splitlines() if "=" in row)
    return found


def port_facts(config: Config, timeout: float) -> PortFacts | None:
    """Look who answers at `http.bind`; None where HTTP is off."""
    place = asking.own_place(config.http)
    if place is None or config.http.bind is None:
        return None
    try:
        answer = asking.ask(place, "/healthz", None, timeout)
    except asking.NotReached as error:
        if isinstance(error.__cause__, TimeoutError):
            return PortFacts(str(place), "silent")
        why = _cannot_bind(config.http.bind)
        return PortFacts(str(place), "nobody", why is None, why or "")
    except (asking.NotOurs, asking.NotAllowed):
        return PortFacts(str(place), "foreign")
    return PortFacts(str(place), "ours" if answer == {"status": "ok"} else "foreign")


def _connecting(path: Path, timeout: float) -> str | None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return _WORDS.get(error.errno or 0, str(error.strerror))
    return None


def _cannot_bind(bind: TcpBind | UnixBind) -> str | None:
    if isinstance(bind, UnixBind):
        return None if os.access(bind.path.parent, os.W_OK | os.X_OK) else f"{bind.path.parent} may not be written to"
    try:
        *kind, _, address = socket.getaddrinfo(bind.host, bind.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(*kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return str(error.strerror)
    return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _members(gid: int) -> list[str]:
    try:
        return grp.getgrgid(gid).gr_mem
    except KeyError:
        return []
