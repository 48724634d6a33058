"""HTTP: the server, who may read, Server-Sent Events, WebSocket, routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import socket

    from synceventsd.config import Config
    from synceventsd.hub import Hub
    from synceventsd.status import StatusBoard
    from synceventsd.web.routes import Report


async def serve_web(
    config: Config,
    hub: Hub,
    board: StatusBoard,
    report: Report,
    secret: str | None,
    handed: Sequence[socket.socket] | None,
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP until `stop` is set; close the hub then too, so that the streams end.

    Args:
        config: the settings; `http` and `shutdown.grace` are looked at.
        hub: where streams come from.
        board: where the sync status comes from.
        report: what the daemon tells about itself.
        secret: the key of the tokens; None asks for none.
        handed: sockets from systemd, in place of `http.bind`.
        stop: ends the server, within `shutdown.grace` seconds.
        task_status: gets the addresses once connections are accepted.

    Raises:
        StartupError: `http.bind` cannot be used, or other machines can reach systemd's socket and there is no key.
    """
    # Here and not above: Quart takes longer to import than all the rest of the daemon.
    from synceventsd.core.errors import StartupError
    from synceventsd.web.listeners import addresses, is_local
    from synceventsd.web.routes import create_app
    from synceventsd.web.server import serve

    open_to_others = [sock for sock in handed or () if not is_local(sock)]
    if open_to_others and secret is None:
        raise StartupError(
            f"http.token_secret_file = none: systemd hands over {addresses(open_to_others)[0]}, which other machines "
            "can reach; set that file, or listen on a loopback address"
        )
    app = create_app(hub, board, report, config.http, None if secret is None else secret.encode())
    await serve(
        app,
        config.http,
        handed,
        stop=stop,
        grace=config.shutdown.grace,
        on_refused=hub.refuse,
        task_status=task_status,
    )
