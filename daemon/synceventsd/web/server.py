"""The server: accepts connections and ends them in time.

Hypercorn's own runner is not used: it lets one connection's exception end the server, and its lifespan is not needed.
The classes of Hypercorn used here and in `connection` are internals, hence the exact pin of its version.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.worker_context import WorkerContext

from synceventsd.config import HttpConfig
from synceventsd.logs import get_logger
from synceventsd.web.connection import Connection
from synceventsd.web.http11 import MAX_HEAD, App
from synceventsd.web.listeners import addresses, as_listeners, listening

log = get_logger("web")

# The longest WebSocket message from a client (bytes): a filter with some thousand order ids.
MAX_MESSAGE: Final = 64 * 1024

# Connections beside the streams: pollers, scrapers, idle keep-alives. What comes on top is closed unanswered, so that
# no client of HTTP can use up the descriptors that publishers need.
SPARE_CONNECTIONS: Final = 512


async def serve(
    app: App,
    config: HttpConfig,
    handed: Sequence[socket.socket] | None = None,
    *,
    stop: trio.Event,
    grace: float,
    on_refused: Callable[[str, str], None],
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop` is set, then end in order.

    It owns the listening sockets and all connections. After `stop`: no new connections; those without a request are
    closed at once, those with one after its answer, and after `grace` seconds all that is left is cut. Streams end by
    themselves once the hub is closed, so close it when setting `stop`. Cancelling cuts everything at once.

    Args:
        app: an ASGI application.
        config: where and how.
        handed: sockets from systemd, in place of `config.bind`.
        stop: ends the server.
        grace: seconds that connections have for their answers after `stop`.
        on_refused: called with a word and a sentence for each connection that finds no place.
        task_status: gets the addresses once connections are accepted.

    Raises:
        StartupError: `http.bind` cannot be used.
    """
    context = WorkerContext(None)
    serve_one = partial(Connection, app, _hypercorn_config(), context, config.send_timeout)
    alive: set[Connection] = set()
    most = config.max_streams + SPARE_CONNECTIONS
    with listening(config.bind, handed or (), config.send_timeout) as sockets:
        async with trio.open_nursery() as connections:

            async def serve_if_room(stream: trio.SocketStream) -> None:
                if context.terminated.is_set():
                    return
                if len(alive) >= most:
                    error = f"{most} connections are open: http.max_streams = {config.max_streams} and some to spare"
                    on_refused("too_many_connections", error)
                    return
                connection = serve_one(stream)
                alive.add(connection)
                try:
                    await connection
                finally:
                    alive.discard(connection)

            async with trio.open_nursery() as accepting:
                listeners = as_listeners(sockets)
                await accepting.start(
                    partial(trio.serve_listeners, serve_if_room, listeners, handler_nursery=connections)
                )
                task_status.started(addresses(sockets))
                await stop.wait()
                accepting.cancel_scope.cancel()
            await context.terminated.set()
            for connection in alive:
                connection.stop()
            connections.cancel_scope.deadline = trio.current_time() + grace


def _hypercorn_config() -> HypercornConfig:
    config = HypercornConfig()
    config.accesslog = None  # who read what is nobody's business, and a line a request is too much
    config.errorlog = None  # exceptions are logged by `connection`
    config.include_server_header = False
    config.h11_max_incomplete_size = MAX_HEAD
    config.websocket_max_message_size = MAX_MESSAGE
    config.websocket_ping_interval = None  # each stream has keep-alives of its own
    return config
