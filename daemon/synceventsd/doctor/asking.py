"""Asking a running daemon over HTTP, as any reader does."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import frozen

from synceventsd.config import HttpConfig, TcpBind, UnixBind, read_secret

TOKEN_LIFETIME: Final = 60.0  # seconds: one question is asked with it
MOST: Final = 16 * 2**20  # bytes of an answer that are read


class NotReached(Exception):
    """No daemon answers there. Reader: start it, or name the right place."""


class NotAllowed(Exception):
    """It wants a token that opens everything. Reader: be a user who may read its key."""


class NotOurs(Exception):
    """Something answers, but no synceventsd. Reader: name the right place."""


@frozen
class Place:
    """Where HTTP is: an address and what comes before every path."""

    bind: TcpBind | UnixBind
    base_path: str = ""

    def __str__(self) -> str:
        return (
            f"{self.bind}{self.base_path}" if isinstance(self.bind, UnixBind) else f"http://{self.bind}{self.base_path}"
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def place_of(url: str) -> Place:
    """Return the place that a URL means: `http://HOST:PORT[/BASE]`.

    Raises:
        ValueError: it is another URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("write http://HOST:PORT, and http.base_path behind it where one is set")
    return Place(TcpBind(parts.hostname, parts.port or 80), parts.path.rstrip("/"))


def own_place(config: HttpConfig) -> Place | None:
    """Return where a daemon with these settings answers; None where HTTP is off."""
    if config.bind is None:
        return None
    bind = config.bind
    if isinstance(bind, TcpBind) and bind.host in ("0.0.0.0", "::"):  # noqa: S104 (compared, not bound)
        bind = TcpBind("127.0.0.1" if bind.host == "0.0.0.0" else "::1", bind.port)  # noqa: S104
    return Place(bind, config.base_path)


def own_token(config: HttpConfig) -> str | None:
    """Return a token that opens everything for a minute; None where none is asked for.

    Raises:
        NotAllowed: this user may not read the key.
    """
    if config.token_secret_file is None:
        return None
    from synceventsd.web.tokens import mint

    try:
        secret = read_secret(config.token_secret_file)
    except OSError as error:
        raise NotAllowed(f"{config.token_secret_file} may not be read: {error.strerror}") from error
    return mint(secret.encode(), None, TOKEN_LIFETIME, time.time())


def ask(place: Place, path: str, token: str | None, timeout: float) -> Mapping[str, Any]:
    """Return the JSON object that a GET brings.

    Args:
        place: where.
        path: beginning with a slash.
        token: sent as Bearer.
        timeout: seconds, for connecting and for each part of the answer.

    Raises:
        NotReached, NotAllowed, NotOurs: there is none.
    """
    if isinstance(place.bind, UnixBind):
        connection: http.client.HTTPConnection = _UnixConnection(str(place.bind.path), timeout)
    else:
        connection = http.client.HTTPConnection(place.bind.host, place.bind.port, timeout=timeout)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    with closing(connection):
        status, body = _exchange(place, connection, path, headers)
    if status in (401, 403):
        raise NotAllowed(f"{place} wants a token that opens everything: {_message(body)}")
    answer = _json(body)
    if status == 421 or answer is None:
        raise NotOurs(f"what answers at {place} is no synceventsd (status {status})")
    return answer


def _exchange(
    place: Place, connection: http.client.HTTPConnection, path: str, headers: dict[str, str]
) -> tuple[int, bytes]:
    try:
        connection.request("GET", f"{place.base_path}{path}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(MOST)
    except http.client.HTTPException as error:
        raise NotOurs(f"what answers at {place} does not speak HTTP") from error
    except TimeoutError as error:
        raise NotReached(f"{place} did not answer in time") from error
    except OSError as error:
        raise NotReached(f"nothing answers at {place}: {error.strerror or error}") from error


def _json(body: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _message(body: bytes) -> str:
    return str((_json(body) or {}).get("message", "no reason given"))
