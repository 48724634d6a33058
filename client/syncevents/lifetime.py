"""What happens to publishers when the process forks or ends.

Rule of this file: the hooks are set once, at import, because they cannot be taken back; they know the publishers that
are not closed. Publishers that were dropped without `close` stay alive with their thread, and are flushed at the exit.
"""

import atexit
import os
import sys
import threading
import time
import weakref
from typing import Final, Protocol

from syncevents.backlog import log
from syncevents.errors import Rejected

EXIT_TIMEOUT: Final = 5.0
"""Seconds: how long the exit of the process waits for the acknowledgements of all publishers together."""


class Living(Protocol):
    """A publisher, as this file sees it."""

    def flush(self, timeout: float | None) -> None:
        """Wait for the acknowledgements."""

    def before_fork(self) -> None:
        """Hold still."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def forked(self) -> None:
        """Be a new one in the child."""


_lock = threading.RLock()
_living: "weakref.WeakSet[Living]" = weakref.WeakSet()
_held: list[Living] = []
_hooked = False


def register(publisher: Living) -> None:
    """Take care of `publisher` from now on."""
    with _lock:
        _living.add(publisher)


def forget(publisher: Living) -> None:
    """Take care of `publisher` no longer: it is closed."""
    with _lock:
        _living.discard(publisher)


def _before_fork() -> None:
    _lock.acquire()
    _held[:] = _living
    for publisher in _held:
        publisher.before_fork()


def _after_fork_in_parent() -> None:
    for publisher in _held:
        publisher.after_fork_in_parent()
    _held.clear()
    _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    for publisher in _held:
        publisher.forked()
    _held.clear()
    _lock = threading.RLock()
    _hook_multiprocessing()


def _hook_multiprocessing() -> None:
    """Have children of multiprocessing flush: they end with os._exit, after finalizers of multiprocessing's own.

    Not by a finalizer at once: a child forgets those, and then asks who wants new ones.
    """
    global _hooked
    util = sys.modules.get("multiprocessing.util")
    if util is not None and not _hooked:
        _hooked = True
        util.register_after_fork(_flush_at_exit, lambda _: util.Finalize(None, _flush_at_exit, exitpriority=0))


def _flush_at_exit() -> None:
    end = time.monotonic() + EXIT_TIMEOUT
    with _lock:
        publishers = list(_living)
    for publisher in publishers:
        try:
            publisher.flush(max(0.0, end - time.monotonic()))
        except (Rejected, TimeoutError) as error:
            log.warning("at the exit of the process: %s", error)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(_flush_at_exit)
_hook_multiprocessing()
