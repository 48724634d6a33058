"""The daemon: the one top-level nursery, which reads like the picture in ARCHITECTURE.md.

Rule of this file: all long-lived tasks start here, and the nesting of the nurseries is the order of the shutdown:
intake ends first, then the streams and the way to Redis, and the log's writer last.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, NoReturn

import trio
from attrs import define, field

from synceventsd import systemd
from synceventsd.accounts import group_id
from synceventsd.config import Config, RedisConfig, concerns, read_secret
from synceventsd.core.errors import StorageUnavailable
from synceventsd.depth import Depth
from synceventsd.eventlog import EventLog, open_log
from synceventsd.eventlog.committer import Retention
from synceventsd.forwarder_state import ForwarderState
from synceventsd.hub import Hub
from synceventsd.intake import Intake
from synceventsd.logs import get_logger
from synceventsd.report import Report
from synceventsd.sockets import bind_unix, remove_socket
from synceventsd.status import StatusBoard
from synceventsd.web import serve_web

log = get_logger("daemon")

# Every event makes a few objects that live on in the tail and are never part of a cycle; as shipped (700, 10, 10) the
# collector walks through them for 4 % of the time under load.
COLLECT_AFTER: Final = (20_000, 50, 100)
DRAIN_POLL: Final = 0.02  # seconds between two looks at how far Redis is, while the daemon stops
SALVAGE_STEP: Final = 60  # seconds that systemd grants to the start at each sign of progress in salvaging a damaged log
OWN_DESCRIPTORS: Final = 600  # beside publishers and streams: HTTP without streams (512), the log, Redis, the loop
RETRY_LOAD: Final = 1.0  # seconds before the way to Redis is loaded again, when files could not be opened
LAST_WRITES: Final = 2.0  # seconds for the mark and the sync states at the end; both can be worked out again


async def run(config: Config) -> None:
    """Run until SIGTERM or SIGINT; then close in the order in which the data flows.

    Raises:
        StartupError: a socket or the state directory cannot be used.
        LogDamaged: the log broke while running; the next start moves it aside.
    """
    stop = Stop()
    async with trio.open_nursery() as signals:
        await signals.start(stop.receive_signals)  # first, so that a stop is a clean one however early it comes
        for concern in concerns(config):
            log.warning("config.concern", text=concern)
        raise_descriptor_limit(config)
        await run_log(config, stop)
        signals.cancel_scope.cancel()


async def run_log(config: Config, stop: Stop) -> None:
    """Open the log, serve until asked to stop, and close the log last."""
    handed = systemd.listen_fds(os.environ, os.getpid())
    storage = config.storage
    async with open_log(
        storage.state_dir,
        storage.durability,
        Retention(storage.max_bytes, storage.retain_bytes, storage.retain_seconds),
        forwarding=config.redis.url is not None,
        on_progress=partial(systemd.notify_still_starting, SALVAGE_STEP),
    ) as eventlog:
        board = StatusBoard(eventlog, config.status.stalled_after)
        await board.catch_up()
        async with listening(config, handed.get("ingest")) as listener, trio.open_nursery() as writer:
            writer.start_soon(eventlog.committer.run, name="committer")
            await serve(config, eventlog, board, listener, handed.get("http"), stop)
            await write_last(eventlog, board)
            writer.cancel_scope.cancel()
    log.info("daemon.stopped", last=eventlog.last, forwarded=eventlog.forwarded)


def raise_descriptor_limit(config: Config) -> None:
    """Take as many descriptors as this process may: a login's 1024 would not hold the streams of a busy day."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    wanted = config.ingest.max_clients + config.http.max_streams
    if most != resource.RLIM_INFINITY and most < wanted + OWN_DESCRIPTORS:
        need = f"ingest.max_clients and http.max_streams may need {wanted}"
        log.warning("config.concern", text=f"{most} open files are allowed, {need}: raise LimitNOFILE=")


async def serve(
    config: Config,
    eventlog: EventLog,
    board: StatusBoard,
    listener: socket.socket,
    web_sockets: list[socket.socket] | None,
    stop: Stop,
) -> None:
    """Take events in and give them out, until asked to stop; the log's writer runs on outside."""
    hub = Hub(eventlog, config.http.max_streams)
    intake = Intake(eventlog, config.ingest)
    state = ForwarderState() if config.redis.url is not None else None
    depth = Depth(eventlog)
    report = Report(eventlog, intake, hub, board, state, depth)
    intake_stop, web_stop = trio.Event(), trio.Event()
    async with trio.open_nursery() as downstream:
        downstream.start_soon(board.save_for_ever, name="status")
        downstream.start_soon(hub.run, name="hub")
        downstream.start_soon(depth.run, name="depth")
        downstream.start_soon(keep_watchdog, eventlog, name="watchdog")
        async with trio.open_nursery() as web:
            http: list[str] = []
            if config.http.bind is not None:
                file = config.http.token_secret_file
                secret = None if file is None else read_secret(file)
                http = await web.start(serve_web, config, hub, board, report, secret, web_sockets, web_stop, name="web")
            async with trio.open_nursery() as upstream:
                await upstream.start(intake.serve, listener, intake_stop, name="intake")
                announce(config, eventlog, http)
                if state is not None:
                    downstream.start_soon(forward_to_redis, eventlog, config.redis, state, name="forwarder")
                await stop.first.wait()
                systemd.notify_stopping()
                log.info("daemon.stopping", grace=config.shutdown.grace)
                intake_stop.set()  # 1. nothing new is read; what was read is stored and acknowledged
                upstream.cancel_scope.deadline = web.cancel_scope.deadline = trio.current_time() + config.shutdown.grace
                stop.hurry(upstream.cancel_scope, web.cancel_scope)
            hub.close()  # 2. the streams end, and what is there goes out to Redis, within the same deadline
            web_stop.set()
            if state is not None:
                web.start_soon(drain, eventlog, state)
        downstream.cancel_scope.cancel()  # 3. whatever is left is safe to cut: it is in the log


@define(eq=False)
class Stop:
    """The first signal asks for a clean stop, the second one ends the waiting in it."""

    first: trio.Event = field(factory=trio.Event, init=False)
    _received: int = field(default=0, init=False)
    _hurried: list[trio.CancelScope] = field(factory=list, init=False)

    def hurry(self, *scopes: trio.CancelScope) -> None:
        """Cancel these at the second signal, which may have come already."""
        self._hurried.extend(scopes)
        if self._received > 1:
            for scope in self._hurried:
                scope.cancel()

    async def receive_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Receive SIGTERM and SIGINT for ever."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                self._received += 1
                self.first.set()
                if self._received > 1:
                    log.warning("daemon.hurried", signal=signal.Signals(number).name)
                    self.hurry()


@asynccontextmanager
async def listening(config: Config, handed: list[socket.socket] | None) -> AsyncIterator[socket.socket]:
    """Yield the publishers' listening socket: systemd's, which stays when the daemon goes, or our own."""
    if handed:
        yield handed[0]
        return
    ingest = config.ingest
    gid = None if ingest.socket_group is None else group_id(ingest.socket_group)
    listener = bind_unix(ingest.socket, ingest.socket_mode, gid, "ingest.socket")
    inode = os.stat(ingest.socket).st_ino
    try:
        yield listener
    finally:
        remove_socket(ingest.socket, inode)
        listener.close()


def announce(config: Config, eventlog: EventLog, http: Sequence[str]) -> None:
    """Say that the daemon is ready, to the log and to systemd; what is loaded by now stays for good."""
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    gc.enable()
    log.info(
        "daemon.ready",
        socket=str(config.ingest.socket),
        http=" ".join(http) or "off",
        redis="off" if config.redis.url is None else "on",
        durability=config.storage.durability,
        log_id=eventlog.log_id,
        last=eventlog.last,
    )
    systemd.notify_ready(f"Ready; newest event {eventlog.last}")


async def forward_to_redis(eventlog: EventLog, config: RedisConfig, state: ForwarderState) -> NoReturn:
    """Forward for ever; see `forwarder.forward`.

    Imported here, when publishers are served already: redis-py takes as long to load as all the rest of the start.
    """

    def load() -> Callable[[EventLog, RedisConfig, ForwarderState], Awaitable[NoReturn]]:
        from synceventsd.forwarder import forward

        return forward

    while True:
        try:
            forward = await trio.to_thread.run_sync(load)
        except OSError as error:  # out of descriptors, for example
            log.warning("redis.not_loaded", reason=str(error))
            await trio.sleep(RETRY_LOAD)
        else:
            await forward(eventlog, config, state)


async def drain(eventlog: EventLog, state: ForwarderState) -> None:
    """Wait until Redis has everything, or does not answer: the buffer then waits for the next start."""
    # Two owners that know nothing of each other are looked at, for the last moments only: a poll is the plainest way.
    while eventlog.forwarded < eventlog.last and not state.failures:  # noqa: ASYNC110
        await trio.sleep(DRAIN_POLL)


async def keep_watchdog(eventlog: EventLog) -> None:
    """Tell systemd that the daemon lives, for as long as the committer makes progress.

    A hanging Redis or a full disk is no reason to be killed: the committer goes round its loop all the same. A write
    that does not return is one.
    """
    interval = systemd.watchdog_interval(os.environ, os.getpid())
    if interval is None:
        return
    while True:
        if trio.current_time() - eventlog.committer.beat < 2 * interval:
            systemd.notify_watchdog()
        await trio.sleep(interval)


async def write_last(eventlog: EventLog, board: StatusBoard) -> None:
    """Save what saves the next start some work: how far Redis is, and the sync states."""
    with trio.move_on_after(LAST_WRITES):
        await eventlog.committer.wait_empty()
        try:
            await board.save()
            await eventlog.save_mark()
        except StorageUnavailable as error:
            log.warning("daemon.last_writes_failed", reason=str(error))
