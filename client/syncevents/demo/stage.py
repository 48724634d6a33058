"""The demo from the first line to the last: what is started, watched, synchronised and ended.

Rule of this file: everything that was started has ended when `run` returns or raises.
"""

import select
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from syncevents.demo.interrupts import ignore_interrupts
from syncevents.demo.intro import existing_redis, intro
from syncevents.demo.processes import Redis, embedded_redis, running_daemon
from syncevents.demo.readers import Inbox, RedisSubscriber, StreamReader, check_redis
from syncevents.demo.screen import Screen
from syncevents.demo.sync import Plan, synchronise
from syncevents.demo.watch import BUSINESS, Watch

__all__ = ["Plan", "run"]

_LONGEST_PARENT: Final = 60  # characters; a Unix socket's path has at most 107
_STEP: Final = 0.2  # seconds between two looks at the keyboard


def run(plan: Plan, port: int | None, redis_url: str | None, *, stays: bool) -> bool:
    """Show everything; return whether all who watched agree.

    Args:
        plan: what is synchronised.
        port: for HTTP; None: a free one.
        redis_url: of an existing server, or "none"; None: an embedded one, where its package is installed.
        stays: go on after the sync until interrupted.

    Raises:
        DemoError: the daemon or Redis does not run.
        KeyboardInterrupt: interrupted before the end of the sync.
    """
    screen = Screen()
    seconds = len(plan.orders) / plan.rate
    screen.heading(f"syncevents demo: {len(plan.orders)} orders of a Shopify shop, which takes about {seconds:.0f} s")
    with ExitStack() as stack:
        try:
            return _show(stack, plan, port, redis_url, screen, stays=stays)
        finally:
            ignore_interrupts()  # for what the stack does now
            screen.end_progress()


def _show(
    stack: ExitStack, plan: Plan, port: int | None, redis_url: str | None, screen: Screen, *, stays: bool
) -> bool:
    parent = tempfile.gettempdir()
    if len(parent) > _LONGEST_PARENT:
        parent = "/tmp"  # noqa: S108 - the directory in it is made safely
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="syncevents-demo-", dir=parent)))
    redis = _open_redis(stack, directory, redis_url)
    daemon = stack.enter_context(running_daemon(directory, port, redis.url if redis else "none"))
    for line in intro(daemon, redis, sys.argv[0]):
        screen.line(line)
    screen.line()
    inbox: Inbox = SimpleQueue()
    if redis:
        stack.enter_context(RedisSubscriber(inbox, daemon.check, redis.url))
    stack.enter_context(StreamReader(inbox, daemon.check, daemon.port, BUSINESS))
    watch = Watch(daemon, screen, inbox, ("redis", "sse") if redis else ("sse",))
    screen.heading("What they see, all counted and one now and then shown (ms: since it was published):")
    agree = synchronise(plan, daemon, watch, screen)
    while stays and _stay(watch, screen):
        agree = synchronise(plan, daemon, watch, screen) and agree
    return agree


def _open_redis(stack: ExitStack, directory: Path, url: str | None) -> Redis | None:
    if url == "none":
        return None
    if url is None:
        return stack.enter_context(embedded_redis(directory))
    check_redis(url)
    return existing_redis(url)


def _stay(watch: Watch, screen: Screen) -> bool:
    """Show what comes until Enter, which returns True, or Ctrl-C, which returns False."""
    try:
        _watch_until_enter(watch, screen)
    except KeyboardInterrupt:
        return False
    return True


def _watch_until_enter(watch: Watch, screen: Screen) -> None:
    asks = sys.stdin.isatty()
    screen.line()
    screen.heading(f"Everything runs on. {'Enter: synchronise again. ' if asks else ''}Ctrl-C: stop and clean up.")
    while not (asks and select.select([sys.stdin], [], [], 0)[0]):
        watch.look_until(time.monotonic() + _STEP)
    if not sys.stdin.readline():
        raise KeyboardInterrupt  # Ctrl-D
