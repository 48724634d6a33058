"""What a reader asks for: which events, where, and as whom.

Rule of this file: pure. Everything is checked before anything is sent, so that the daemon finds nothing malformed.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode, urlsplit

from attrs import evolve, frozen

from syncevents.checks import MAX_ID
from syncevents.errors import Refused

MAX_REPLAY: Final = 10_000_000  # the daemon's own limit: more than any log holds
_PORT: Final = 80
_EVENTS: Final = "/integrations/events"
_TRY_AGAIN: Final = frozenset((408, 425, 429))


@frozen
class Address:
    """Where the daemon answers: a host and a port, or a Unix socket; `base` goes before every path."""

    host: str
    port: int
    unix_path: str | None
    base: str

    @property
    def authority(self) -> str:
        """The `Host` of a request."""
        if self.unix_path is not None:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORT else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.unix_path}" if self.unix_path is not None else f"http://{self.authority}{self.base}"


@frozen
class Filter:
    """Which of the events that a reader may see it wants; None means all."""

    integration_id: int | None = None
    event_types: tuple[str, ...] | None = None
    order_ids: tuple[str, ...] | None = None

    @property
    def command(self) -> str:
        """The message that changes a WebSocket's filter to this."""
        return json.dumps(
            {
                "filter": {
                    "integration_id": self.integration_id,
                    "event_types": self.event_types,
                    "order_ids": self.order_ids,
                }
            }
        )


@frozen
class Request:
    """What a stream is asked for. `last_event_id` goes before `replay`; None for `replay` is the daemon's default."""

    address: Address
    business_id: int | None
    filter: Filter
    replay: int | None
    last_event_id: str | None

    def after(self, position: str | None, filter_: Filter) -> "Request":
        """Return what is asked for to go on after a position; None: as on a first visit."""
        return evolve(self, last_event_id=position, filter=filter_)

    def target(self, kind: Literal["sse", "ws"]) -> str:
        """Return path and query."""
        given: dict[str, object] = {}
        if self.filter.integration_id is not None:
            given["integration_id"] = self.filter.integration_id
        for name, values in (("event_types", self.filter.event_types), ("order_ids", self.filter.order_ids)):
            if values is not None:
                given[name] = ",".join(values)
        if self.last_event_id is not None:
            given["last_event_id"] = self.last_event_id
        elif self.replay is not None:
            given["replay"] = self.replay
        business = "" if self.business_id is None else f"/{self.business_id}"
        query = f"?{urlencode(given)}" if given else ""
        return f"{self.address.base}{_EVENTS}/{kind}{business}{query}"


def make_request(
    url: str, business_id: int | None, filter_: Filter, replay: int | None, last_event_id: str | None
) -> Request:
    """Check what a reader was called with; raises TypeError or ValueError that names the argument."""
    _check_number("business_id", business_id, 1, MAX_ID)
    _check_number("replay", replay, 0, MAX_REPLAY)
    if last_event_id is not None and not isinstance(last_event_id, str):
        raise TypeError(f"last_event_id must be a str or None, not {type(last_event_id).__name__}")
    return Request(parse_url(url), business_id, filter_, replay, last_event_id or None)


def make_filter(
    integration_id: int | None, event_types: Iterable[str] | None, order_ids: Iterable[str] | None
) -> Filter:
    """Check a filter; raises TypeError or ValueError that names the argument."""
    _check_number("integration_id", integration_id, 0, MAX_ID)
    return Filter(integration_id, _texts("event_types", event_types), _texts("order_ids", order_ids))


def parse_url(url: str) -> Address:
    """Return where the daemon is; raises ValueError."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"url must be unix:/path or http://host:port, not {url!r}")
        return Address("", 0, path, "")
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"url must be http://host:port, with a base path if there is one, or unix:/path, not {url!r}")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise ValueError(f"url must name a host that there can be, not {parts.hostname!r}") from None
    return Address(parts.hostname, parts.port or _PORT, None, quote(parts.path.rstrip("/"), safe="/%"))


def check_token(token: object) -> None:
    """Raise TypeError or ValueError for what is neither a token nor a function that gives one."""
    if token is not None and not callable(token) and not isinstance(token, str):
        raise TypeError(f"token must be a str, a function or None, not {type(token).__name__}")
    if isinstance(token, str):
        headers(token)


def headers(request_token: str | None) -> dict[str, str]:
    """Return the headers that say who asks; raises ValueError for what cannot be a token."""
    if request_token is None:
        return {}
    if not request_token or not all("!" <= sign <= "~" for sign in request_token):
        raise ValueError("token must be one word of printable ASCII, such as `synceventsd token` prints")
    return {"Authorization": f"Bearer {request_token}"}


def refusal(status: int, body: bytes, address: Address) -> Refused | str:
    """Return what an answer that is no stream means: an error that no repetition mends, or why to try again."""
    message = _message(body)
    if 300 <= status < 500 and status not in _TRY_AGAIN:
        return Refused(status, f"{address} answered {status}: {message}")
    return f"{address} answered {status}: {message}"


def _message(body: bytes) -> str:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    message = answer.get("message") if isinstance(answer, Mapping) else None
    return str(message) if message else "which is not an answer of synceventsd; is the url right?"


def _check_number(name: str, value: Any, low: int, high: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int or None, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {value}")


def _texts(name: str, values: Iterable[str] | None) -> tuple[str, ...] | None:
    if values is None:
        return None
    if isinstance(values, str | bytes):
        raise TypeError(f"{name} must be a list of strings, not one {type(values).__name__}")
    texts = tuple(values)
    if not texts:
        raise ValueError(f"{name} must not be empty; None means all")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name} must hold strings, not {type(text).__name__}")
        # In the query they stand in one list, separated by commas, and are stripped.
        if not text or "," in text or text != text.strip():
            raise ValueError(f"{name} must hold strings without commas and surrounding white space, not {text!r}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} must hold strings that UTF-8 can hold, not {text!r}") from None
    return texts
