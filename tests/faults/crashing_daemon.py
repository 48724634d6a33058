"""The daemon, but for one thing: it kills itself with SIGKILL, or hangs, at the n-th passage of CRASH_POINT."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synceventsd.__main__ import main
from synceventsd.core.errors import StorageUnavailable
from synceventsd.eventlog import EventLog, salvage
from synceventsd.eventlog.ballast import Ballast
from synceventsd.eventlog.store import Store
from synceventsd.redis_sink.link import Link

left = int(os.environ.get("CRASH_AT", "0"))


def crash() -> None:
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def fail_while_exists(path: str) -> None:
    if os.path.exists(path):
        raise StorageUnavailable("SQLITE_FULL: injected")


def before(owner: Any, name: str, harm: Callable[..., None] = crash, *details: Any) -> None:
    real: Callable[..., Any] = getattr(owner, name)

    def patched(*args: Any, **options: Any) -> Any:
        harm(*details)
        return real(*args, **options)

    setattr(owner, name, patched)


def after(owner: Any, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
    real: Callable[..., Any] = getattr(owner, name)

    def patched(*args: Any, **options: Any) -> Any:
        answer = real(*args, **options)
        if when(answer, *args):
            crash()
        return answer

    setattr(owner, name, patched)


def after_awaiting(owner: type, name: str) -> None:
    real: Callable[..., Any] = getattr(owner, name)

    async def patched(*args: Any, **options: Any) -> Any:
        answer = await real(*args, **options)
        crash()
        return answer

    setattr(owner, name, patched)


point = os.environ.get("CRASH_POINT", "")
if point == "in the transaction":
    before(Store, "_write_producers")  # the events are written, the count of their lines is not
elif point == "after the commit, before the ack":
    after(Store, "append", lambda _answer, _store, commit: bool(commit.groups))
elif point == "before the call to Redis":
    before(Link, "deliver")
elif point == "after the call to Redis":
    after_awaiting(Link, "deliver")
elif point == "before the claim":
    before(Link, "claim")
elif point == "after the claim":
    after_awaiting(Link, "claim")
elif point == "after the request":
    after(Store, "begin_again")
elif point == "in retention":
    after(Store, "prune", lambda gone, *_: gone > 0)
elif point == "in a checkpoint":
    after(Store, "checkpoint_if_due")
elif point == "during the shutdown, before the last writes":
    before(EventLog, "save_mark")
elif point == "during the shutdown, before the log is closed":
    before(Store, "close")
elif point == "while salvaging, half done":
    before(salvage, "_insert")
elif point == "while salvaging, complete and not in its place":
    before(salvage, "finish")
elif point == "while salvaging, with the damaged files half moved":
    after(Path, "rename")
elif point == "while the ballast is taken":
    after(os, "posix_fallocate")
elif point == "while the ballast is given up":
    before(Ballast, "release")
elif point == "while sync states are saved":
    after(Store, "save_syncs")
elif point == "writes fail while a file exists":
    before(Store, "append", fail_while_exists, os.environ["CRASH_FILE"])
elif point == "the writer hangs":
    before(Store, "append", time.sleep, 3600)
main()
