"""How a log is opened: alone, patiently where the disk is in the way, and salvaged where it is damaged.

Rule of this file: whoever fails here has changed nothing that the next try needs.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from synceventsd.core.errors import LogDamaged, StartupError, StorageUnavailable
from synceventsd.eventlog.committer import Retention
from synceventsd.eventlog.lane import open_lane
from synceventsd.eventlog.log import EventLog
from synceventsd.eventlog.reader import open_reader
from synceventsd.eventlog.salvage import finish, recover
from synceventsd.eventlog.schema import LOCK_NAME, Durability
from synceventsd.eventlog.store import Store, store_in
from synceventsd.logs import get_logger

log = get_logger("eventlog")
T = TypeVar("T")

OPEN_PATIENCE: Final = 6.0  # seconds; with that between two starts, systemd goes on starting for ever
RETRY_OPEN: Final = 0.5  # seconds
MAY_PASS: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO))

# A tool that looks whether a daemon runs holds the lock for an instant.
LOCK_TRIES: Final = 10
LOCK_PAUSE: Final = 0.02  # seconds


@asynccontextmanager
async def open_log(
    state_dir: Path,
    durability: Durability,
    retention: Retention,
    *,
    forwarding: bool,
    wall_clock: Callable[[], float] = time.time,
    on_progress: Callable[[], object] = lambda: None,
) -> AsyncIterator[EventLog]:
    """Open the log of a state directory, alone; close it last.

    A damaged log is moved aside and what reads of it carried over, which takes its time: `on_progress` is called,
    from a thread, while it goes on.

    Raises:
        StartupError: the directory cannot be used, or another daemon uses it.
    """
    lock = await _patiently(partial(_lock, state_dir))
    store = store_in(state_dir, durability, retention.max_bytes)
    try:
        await _patiently(partial(_open_store, store, on_progress))
        with (
            closing(store),
            closing(open_reader(store.path)) as reader,
            closing(open_reader(store.path)) as index,
            open_lane() as lane,
        ):
            yield EventLog(store, lane, reader, index, retention, wall_clock, forwarding)
    finally:
        os.close(lock)


def _lock(state_dir: Path) -> int:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(state_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartupError(
            f"storage.state_dir = {state_dir}: {error.strerror}; name a directory that this user can write to",
            may_pass=error.errno in MAY_PASS,
        ) from error
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            denied = error
            time.sleep(LOCK_PAUSE)  # nothing is served yet that this could hold up
        else:
            return lock
    os.close(lock)
    raise StartupError(
        f"storage.state_dir = {state_dir} is in use by another synceventsd; stop it, or name another directory"
    ) from denied


async def _patiently(attempt: Callable[[], T]) -> T:
    """Do a step of the start, in a thread; try for a while where the disk is in the way.

    Raises:
        StartupError: it did not work.
    """
    deadline = trio.current_time() + OPEN_PATIENCE
    told = False
    while True:
        try:
            return await trio.to_thread.run_sync(attempt)
        except StartupError as error:
            if not error.may_pass or trio.current_time() >= deadline:
                raise
            if not told:
                log.error("storage.cannot_open", reason=str(error), effect=f"tried again for {OPEN_PATIENCE} s")
            told = True
        await trio.sleep(RETRY_OPEN)


def _open_store(store: Store, on_progress: Callable[[], object]) -> None:
    try:
        _open_or_recover(store, on_progress)
    except StorageUnavailable as error:
        store.disconnect()
        if error.full:
            store.ballast.release()  # an earlier run's: room for the little that a start writes
        reason = f"storage.state_dir = {store.path.parent}: the log cannot be opened: {error}"
        raise StartupError(reason, may_pass=True) from error
    store.ballast.take()


def _open_or_recover(store: Store, on_progress: Callable[[], object]) -> None:
    try:
        finish(store.path)
        _begin(store)
    except LogDamaged as damage:
        store.disconnect()
        recover(store.path, store.durability, damage, on_progress)
        _begin_again(store)


def _begin(store: Store) -> None:
    store.open()
    store.begin_epoch()


def _begin_again(store: Store) -> None:
    try:
        _begin(store)
    except LogDamaged as damage:  # what was written just now: the disk does not keep what it is given
        store.disconnect()
        raise StorageUnavailable(f"the salvaged log does not read: {damage}") from damage
