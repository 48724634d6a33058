"""Who may read: decided before anything else looks at a request.

Rule of this file: `decide` is a pure function of the request's head, and everything that it does not allow is refused.
The order is the contract's: the host first (a page that rebound a DNS name learns nothing), then origins, then tokens.
Which business a token opens is asked by the routes, through the `Reader` that stands in the request's state.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, Final

import msgspec
import trio
from attrs import field, frozen

from synceventsd.config import HttpConfig, TcpBind
from synceventsd.web.http11 import MAX_HEAD, App, Receive, Send
from synceventsd.web.tokens import EVERYBODY, BadTokenError, Reader, verify

COOKIE: Final = "syncevents_token"
HEAD_TOO_LARGE: Final = f"the request's target and headers have more than {MAX_HEAD} bytes"

# Seconds past a token's end after which a stream that has not ended by itself is cut: it hangs in a send.
EXPIRY_MARGIN: Final = 1.0

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?", re.ASCII)
_ORIGIN = re.compile(r"(https?)://([^/?#@\s]+)", re.ASCII | re.IGNORECASE)
_OWN_PORT: Final = {"http": 80, "https": 443}

Headers = Iterable[tuple[bytes, bytes]]


@frozen
class Policy:
    """The settings that decide who may read; `secret` None asks for no tokens. Hosts and origins are in lower case."""

    base_path: str
    hosts: frozenset[str]
    origins: frozenset[str]
    secret: bytes | None = field(default=None, repr=False)


@frozen
class Head:
    """What is known of a request before its body; `websocket` means that it asks for an upgrade."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    websocket: bool = False
    target_size: int = 0  # bytes, of the target as it came

    @property
    def size(self) -> int:
        """Return about how many bytes it had."""
        return self.target_size + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def all(self, name: str) -> list[str]:
        """Return the values of every header of that (lower-case) name."""
        return [value for key, value in self.headers if key == name]


@frozen
class Answer:
    """The request ends here, with this."""

    status: int
    message: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def body(self) -> bytes:
        """Return the body: JSON for every error, nothing for a preflight."""
        return problem(self.message) if self.message else b""


def policy(config: HttpConfig, secret: bytes | None) -> Policy:
    """Return the policy that the settings ask for."""
    bound = {config.bind.host.lower()} if isinstance(config.bind, TcpBind) else set()
    return Policy(config.base_path, frozenset({*bound, *config.allowed_hosts}), frozenset(config.cors_origins), secret)


def problem(message: str) -> bytes:
    """Return the body of an error."""
    return msgspec.json.encode({"success": False, "message": message})


def decide(head: Head, rules: Policy, now: float) -> Reader | Answer:
    """Return who asks, or the answer that ends the request.

    Args:
        head: the request's head.
        rules: who may read.
        now: seconds since 1970.
    """
    if not host_allowed(head.all("host"), rules.hosts):
        return Answer(421, "this host name is not served here; list it in http.allowed_hosts if it should be")
    if head.size > MAX_HEAD:
        return Answer(431, f"{HEAD_TOO_LARGE}; send fewer cookies")
    if not head.path.startswith("/") or head.path.startswith("//"):
        return Answer(400, "the request's target must be a path with one slash at its start")
    if head.websocket and not may_open_websocket(head, rules.origins):
        return Answer(403, "this origin may not open a WebSocket here; list it in http.cors_origins if it should")
    if _is_preflight(head) and cors_headers(head, rules.origins):
        return Answer(204, headers=_PREFLIGHT)
    if rules.secret is None or head.path == f"{rules.base_path}/healthz":
        return EVERYBODY
    return _who(head, rules.secret, now)


def host_allowed(hosts: list[str], allowed: frozenset[str]) -> bool:
    """Return whether the `Host` headers (one, or the request is refused) name this server; the port does not matter."""
    named = [host_of(value) for value in hosts]
    return len(named) == 1 and named[0] is not None and (_is_loopback(named[0][0]) or named[0][0] in allowed)


def host_of(authority: str) -> tuple[str, int | None] | None:
    """Return host (lower case, an IPv6 address without brackets) and port of an authority; None for any other text."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    port = int(match[3]) if match[3] else None
    if match[1] is None:
        return match[2].lower().removesuffix("."), port
    try:
        return str(ipaddress.IPv6Address(match[1])), port
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    # Only what cannot be anything else: 127.1, 0x7f.1 and 0.0.0.0 reach this machine too, and attackers use them.
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def may_open_websocket(head: Head, listed: frozenset[str]) -> bool:
    """Return whether the page that asks is of this very origin or of a listed one; a program sends no Origin."""
    origins = head.all("origin")
    if len(origins) > 1:
        return False
    return not origins or origins[0].lower() in listed or _is_own(origins[0], head.all("host")[0])


def _is_own(origin: str, host: str) -> bool:
    match = _ORIGIN.fullmatch(origin)
    theirs, ours = (None, None) if match is None else (host_of(match[2]), host_of(host))
    if match is None or theirs is None or ours is None:
        return False
    # Behind a proxy that speaks TLS, the page's scheme is not ours: what is left out is its scheme's own port.
    own = _OWN_PORT[match[1].lower()]
    return (theirs[0], theirs[1] or own) == (ours[0], ours[1] or own)


def cors_headers(head: Head, listed: frozenset[str]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that let a listed origin's page read the answer; none for any other."""
    origins = head.all("origin")
    if len(origins) != 1 or origins[0] not in listed:
        return ()
    return (
        (b"access-control-allow-origin", origins[0].encode("latin-1")),
        (b"access-control-allow-credentials", b"true"),
    )


def _is_preflight(head: Head) -> bool:
    return head.method == "OPTIONS" and bool(head.all("access-control-request-method"))


_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, HEAD, OPTIONS"),
    (b"access-control-allow-headers", b"Authorization, Cache-Control, Last-Event-ID"),
    (b"access-control-allow-private-network", b"true"),
    (b"access-control-max-age", b"600"),
)


def _who(head: Head, secret: bytes, now: float) -> Reader | Answer:
    token = token_of(head)
    if token is None:
        return _unauthorised("a token is needed: Authorization: Bearer, or the cookie syncevents_token", b"Bearer")
    try:
        return verify(token, secret, now)
    except BadTokenError as error:
        return _unauthorised(str(error), b'Bearer error="invalid_token"')


def _unauthorised(message: str, challenge: bytes) -> Answer:
    return Answer(401, message, ((b"www-authenticate", challenge),))


def token_of(head: Head) -> str | None:
    """Return the token that a request brings: of the header, else of the cookie; never of the URL.

    An Authorization of another scheme (a proxy's Basic) is no token and does not hide the cookie.
    """
    for value in head.all("authorization"):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
    for pair in ";".join(head.all("cookie")).split(";"):
        name, _, value = pair.partition("=")
        if name.strip() == COOKIE:
            return value.strip().strip('"')
    return None


@frozen
class Guard:
    """The ASGI application that stands before the other one."""

    app: App
    rules: Policy
    wall_clock: Callable[[], float] = time.time
    on_refused: Callable[[str, str], None] = field(kw_only=True)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Refuse the request, or hand it on with `reader` and `on_close` in its state.

        `on_close` is closed when the request is over, also when its answer never began.
        """
        head = _head_of(scope)
        verdict = decide(head, self.rules, self.wall_clock())
        if isinstance(verdict, Answer) and verdict.status == 421:
            await _answer(verdict, head, send)
            return
        send = self._with_cors(head, send)
        if isinstance(verdict, Answer):
            if verdict.status == 431:
                self.on_refused("head_too_large", HEAD_TOO_LARGE)
            await _answer(verdict, head, send)
            return
        with ExitStack() as on_close:
            scope["state"] = {**scope["state"], "reader": verdict, "on_close": on_close}
            deadline = trio.current_time() + verdict.expires_at - self.wall_clock() + EXPIRY_MARGIN
            with trio.CancelScope(deadline=deadline):
                await self.app(scope, receive, send)

    def _with_cors(self, head: Head, send: Send) -> Send:
        if not self.rules.origins:
            return send
        added = [(b"vary", b"Origin"), *cors_headers(head, self.rules.origins)]

        async def send_with_cors(message: Mapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        return send_with_cors


def _head_of(scope: Any) -> Head:
    headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"])
    size = len(scope["raw_path"]) + len(scope["query_string"])
    is_websocket = scope["type"] == "websocket"
    return Head(scope.get("method", "GET"), scope["path"], headers, websocket=is_websocket, target_size=size)


async def _answer(answer: Answer, head: Head, send: Send) -> None:
    kind = "websocket.http.response" if head.websocket else "http.response"
    headers = [*answer.headers, (b"cache-control", b"no-store")]
    if answer.message:
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer.body))]
    await send({"type": f"{kind}.start", "status": answer.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": answer.body, "more_body": False})
