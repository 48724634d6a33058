"""Listening sockets of our own, where systemd hands none over."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Final

from synceventsd.core.errors import StartupError

BACKLOG: Final = 1024  # connections that wait to be accepted: a restart of every publisher at once


def bind_unix(path: Path, mode: int, gid: int | None, setting: str) -> socket.socket:
    """Listen on a Unix socket; a dead socket of a daemon before us is replaced, nothing else is.

    Args:
        path: where; its directory is made if it is not there.
        mode: permissions, set before anybody can connect.
        gid: group, or None to leave it.
        setting: name of the setting, for the error.

    Raises:
        StartupError: the path is taken or cannot be used.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(f"{setting} = {path}: its directory cannot be made: {error.strerror}") from error
    _remove_dead(path, setting)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(str(path))
        if gid is not None:
            os.chown(path, -1, gid)
            os.chmod(path, mode)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartupError(
            f"{setting} = {path}: {error.strerror}; name a path in a directory that this user can write to"
        ) from error
    finally:
        os.umask(before)
    return listener


def remove_socket(path: Path, listener_inode: int) -> None:
    """Remove the socket file at the end, unless another daemon has put its own there."""
    try:
        if os.stat(path).st_ino == listener_inode:
            path.unlink()
    except FileNotFoundError:
        pass


def _remove_dead(path: Path, setting: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StartupError(f"{setting} = {path}: something that is no socket is there; remove it, or name another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StartupError(f"{setting} = {path}: cannot tell whether it is in use: {error.strerror}") from error
        else:
            raise StartupError(f"{setting} = {path}: another process listens there; stop it, or name another path")
