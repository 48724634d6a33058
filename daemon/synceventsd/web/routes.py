"""The routes: thin handlers between a request and the hub, the status board and the report.

Rule of this file: a handler asks `_allow` for the business that it is about to show, before it shows anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from quart import Response, request, websocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, InternalServerError

from synceventsd.config import HttpConfig
from synceventsd.core.errors import LogDamaged, StorageUnavailable, TooManyStreams
from synceventsd.hub import Hub
from synceventsd.status import StatusBoard
from synceventsd.web import sse, ws
from synceventsd.web.dashboard import Page, load_page
from synceventsd.web.guard import Guard, policy, problem
from synceventsd.web.opening import Opened, StoppingError, open_stream
from synceventsd.web.query import MalformedError, status_query, stream_query
from synceventsd.web.tokens import Reader

RETRY_AFTER = "5"  # seconds; when a stream that found no place, or no log, may be worth another try


class Report(Protocol):
    """What the daemon tells about itself."""

    def unready(self) -> str | None:
        """Return why events are not accepted and stored just now, or None when they are."""

    async def status(self) -> dict[str, Any]:
        """Return the state of everything, for people."""

    async def metrics(self) -> tuple[bytes, str]:
        """Return the metrics as Prometheus reads them, and their content type."""


class ForbiddenError(Exception):
    """The token does not open what was asked for."""


def create_app(
    hub: Hub,
    board: StatusBoard,
    report: Report,
    config: HttpConfig,
    secret: bytes | None,
    wall_clock: Callable[[], float] = time.time,
) -> Guard:
    """Return the application, guarded.

    Args:
        hub: where streams come from.
        board: where the sync status comes from.
        report: what the daemon tells about itself.
        config: base path, hosts, origins and timings.
        secret: the key of the tokens; None asks for none.
        wall_clock: seconds since 1970; decides when tokens expire.
    """
    routes = create_routes(hub, board, report, config, wall_clock)
    return Guard(sse.Streaming(routes), policy(config, secret), wall_clock, on_refused=hub.refuse)


def create_routes(
    hub: Hub, board: StatusBoard, report: Report, config: HttpConfig, wall_clock: Callable[[], float] = time.time
) -> QuartTrio:
    """Return the routes alone, as for `create_app`, which puts before them what they rely on."""
    app = QuartTrio(__name__, static_folder=None, template_folder=None)
    # Nothing here takes a body; a path means one thing, so none is tidied up into another.
    app.config.update(MAX_CONTENT_LENGTH=16 * 1024)
    app.url_map.merge_slashes = False
    app.url_map.redirect_defaults = False
    _add_errors(app)
    _add_streams(app, hub, config, wall_clock)
    _add_answers(app, board, report, config.base_path)
    _add_page(app, load_page(), config.base_path)
    return app


def _allow(scope: Any, business_id: int | None) -> Reader:
    """Return the reader, who may see this business; None asks for what is not of one business."""
    reader: Reader = scope["state"]["reader"]
    if not reader.may_read(business_id):
        asked = "what is not of one business" if business_id is None else f"business {business_id}"
        raise ForbiddenError(f"this token does not open {asked}")
    return reader


def _add_streams(app: QuartTrio, hub: Hub, config: HttpConfig, wall_clock: Callable[[], float]) -> None:
    async def opened(asked: Any, business: str | None, *, headers_only: bool = False) -> tuple[Opened | None, Reader]:
        query = stream_query(asked.scope["query_string"], business, asked.headers.get("Last-Event-ID"))
        reader = _allow(asked.scope, query.filter.business_id)
        if headers_only:
            return None, reader
        return await open_stream(hub, query, asked.scope["state"]["on_close"]), reader

    async def event_stream(business: str | None = None) -> Response:
        stream, reader = await opened(request, business, headers_only=request.method == "HEAD")
        first = b"" if stream is None else sse.opening_chunk(stream, config.retry)
        answer = Response(first, headers=sse.HEADERS)
        del answer.headers["Content-Length"]
        if stream is not None:
            state: Any = request.scope["state"]
            state["body"].chunked = request.http_version >= "1.1"  # as h11 has it
            state["stream"] = sse.EventStream(
                stream.subscription, config.keep_alive, lambda: reader.expires_at - wall_clock(), state["body"]
            )
        return answer

    async def web_socket(business: str | None = None) -> None:
        stream, reader = await opened(websocket, business)
        assert stream is not None  # noqa: S101 (for the type checker: only HEAD has none)
        await websocket.accept()
        await ws.converse(websocket, stream, config.keep_alive, lambda: reader.expires_at - wall_clock())

    for path in ("", "/<business>"):
        app.add_url_rule(f"{config.base_path}/integrations/events/sse{path}", view_func=event_stream)
        app.add_websocket(f"{config.base_path}/integrations/events/ws{path}", view_func=web_socket)


def _add_answers(app: QuartTrio, board: StatusBoard, report: Report, base: str) -> None:
    @app.get(f"{base}/integrations/events/sync-status/<integration>")
    async def sync_status(integration: str) -> Response:
        integration_id, business_id = status_query(request.scope["query_string"], integration)
        _allow(request.scope, business_id)
        return _json(board.view(integration_id, business_id))

    @app.get(f"{base}/healthz")
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get(f"{base}/readyz")
    async def readyz() -> Response:
        _allow(request.scope, None)
        reason = report.unready()
        return _json({"status": "ready"}) if reason is None else _error(503, reason)

    @app.get(f"{base}/status")
    async def status() -> Response:
        _allow(request.scope, None)
        return _json(await report.status())

    @app.get(f"{base}/metrics")
    async def metrics() -> Response:
        _allow(request.scope, None)
        body, content_type = await report.metrics()
        return _answer(body, content_type)


def _add_page(app: QuartTrio, page: Page, base: str) -> None:
    @app.get(f"{base}/")
    async def dashboard() -> Response:
        _allow(request.scope, None)
        answer = _answer(page.html, "text/html; charset=utf-8")
        answer.headers["Content-Security-Policy"] = page.security_policy
        answer.headers["Referrer-Policy"] = "no-referrer"
        return answer

    if base:
        app.add_url_rule(base, "to_dashboard", _redirect_to(f"{base}/"))


def _redirect_to(path: str) -> Callable[[], Any]:
    async def redirect() -> Response:
        return Response(b"", 308, {"Location": path})

    return redirect


def _add_errors(app: QuartTrio) -> None:
    """Every error is JSON. What is not listed here is a fault of ours: Quart logs it, and it is a 500."""

    @app.errorhandler(HTTPException)
    async def refused(error: HTTPException) -> Response:
        if isinstance(error, InternalServerError):
            return _error(500, "an error in the daemon; its log says more")
        answer = _error(error.code or 500, _REASONS.get(error.code or 0) or str(error.description))
        if "Allow" in (headers := dict(error.get_headers())):
            answer.headers["Allow"] = headers["Allow"]
        return answer

    @app.errorhandler(MalformedError)
    async def malformed(error: MalformedError) -> Response:
        return _error(400, str(error))

    @app.errorhandler(ForbiddenError)
    async def forbidden(error: ForbiddenError) -> Response:
        return _error(403, str(error))

    async def later(error: Exception) -> Response:
        answer = _error(503, str(error))
        answer.headers["Retry-After"] = RETRY_AFTER
        return answer

    for kind in (TooManyStreams, StoppingError, StorageUnavailable, LogDamaged):
        app.register_error_handler(kind, later)


_REASONS = {
    400: "a bad request: WebSocket paths want an upgrade, all others none",
    404: "there is nothing at this path",
    405: "only GET and HEAD are possible here",
}


def _json(value: Any, status: int = 200) -> Response:
    return _answer(msgspec.json.encode(value), "application/json", status)


def _error(status: int, message: str) -> Response:
    return _answer(problem(message), "application/json", status)


def _answer(body: bytes, content_type: str, status: int = 200) -> Response:
    headers = {"Content-Type": content_type, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(body, status, headers)
