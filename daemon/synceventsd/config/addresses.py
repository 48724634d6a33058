"""Where things listen and whom they call: the rules of http.bind, http.allowed_hosts, http.cors_origins and redis.url.

A password inside a URL never leaves this file unmasked except as the setting's value.
"""

import ipaddress
import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

import attrs

from synceventsd.config.rules import Refused, Rule, check_socket_path

_REDIS_SCHEMES = ("redis", "rediss", "unix")
# What redis-py takes from a URL's query and this daemon does not set itself; an unknown one would fail on connecting.
_REDIS_QUERY = frozenset(
    {"db", "username", "password", "protocol", "client_name"}
    | {"ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}
)
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"


@attrs.frozen
class TcpBind:
    """A TCP address; `host` is a name or an IP address without brackets, port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than `localhost` counts as reachable."""
        address = _ip_address(self.host)
        return self.host.lower() == "localhost" if address is None else address.is_loopback


@attrs.frozen
class UnixBind:
    """A Unix stream socket's path."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


def bind_address() -> Rule:
    """Where HTTP listens; none is None."""

    def check(value: object) -> TcpBind | UnixBind | None:
        if not isinstance(value, str):
            raise Refused
        if value == "none":
            return None
        if value.startswith("unix:"):
            return UnixBind(check_socket_path(value.removeprefix("unix:")))
        match = re.fullmatch(r"(?:\[([^][]+)\]|([^:]+)):([0-9]{1,5})", value)
        if match is None or int(match[3]) > 65535:
            raise Refused
        return TcpBind(_host(match[1] or match[2], bracketed=match[1] is not None), int(match[3]))

    allowed = '"HOST:PORT", "[IPV6]:PORT", "unix:PATH" or "none"'
    return Rule(allowed, check, shown=lambda bind: "none" if bind is None else str(bind))


def host_name() -> Rule:
    """A name or IP address as it stands in a `Host` header, in lower case, without port and brackets."""

    def check(value: object) -> str:
        if not isinstance(value, str):
            raise Refused
        if value.startswith("[") and value.endswith("]"):
            return _host(value[1:-1], bracketed=True)
        return _host(value, bracketed=":" in value)

    return Rule("a host name or IP address without a port", check)


def web_origin() -> Rule:
    """An origin as browsers send it: lower case, the scheme's own port left out."""

    def check(value: object) -> str:
        if not isinstance(value, str):
            raise Refused
        match = re.fullmatch(r"(https?)://(\[[^][]+\]|[^][:/?#@]+)(?::([0-9]{1,5}))?", value.lower())
        if match is None:
            raise Refused
        scheme, host, port = match[1], match[2], match[3]
        host = f"[{_host(host[1:-1], bracketed=True)}]" if host.startswith("[") else _host(host, bracketed=False)
        own = port is None or int(port) == {"http": 80, "https": 443}[scheme]
        return f"{scheme}://{host}" if own else f"{scheme}://{host}:{int(port)}"

    return Rule('an origin as "https://HOST" or "https://HOST:PORT", without a path (and no "*")', check)


def redis_url() -> Rule:
    """A Redis URL, or none as None."""

    def check(value: object) -> str | None:
        if not isinstance(value, str):
            raise Refused
        if value == "none":
            return None
        reason = _fault_of_redis_url(value)
        if reason is not None:
            raise Refused(reason)
        return value

    allowed = '"redis://[USER:PASSWORD@]HOST[:PORT][/DB]", "rediss://...", "unix:///PATH[?db=DB]" or "none"'
    return Rule(allowed, check, shown=lambda url: "none" if url is None else mask_password(url))


def holds_password(url: str) -> bool:
    """Whether a valid Redis URL brings a password."""
    parts = urlsplit(url)
    return bool(parts.password) or any(name == "password" for name, _ in parse_qsl(parts.query))


def mask_password(url: str) -> str:
    """The URL with what is, or might have been meant as, a password replaced by ***."""
    url = re.sub(r"(?i)((?:pass(?:word)?|secret|token)=)[^&#\s]*", r"\1***", url)
    scheme, separator, rest = url.rpartition("://") if url.count("://") == 1 else ("", "", url)
    authority, slash, path = rest.partition("/")
    if _fault_of_redis_url(url) is not None and "@" in rest:
        # Not a URL as meant: a raw "/", "?" or "#" in the password ends the authority too early.
        authority, slash, path = rest, "", ""
    credentials, at, host = authority.rpartition("@")
    if at:
        user, colon, _ = credentials.partition(":")
        return f"{scheme}{separator}{user if colon else ''}{colon}***@{host}{slash}{path}"
    host, colon, port = authority.partition(":")
    if colon and separator and not authority.startswith("[") and not port.isdecimal():
        return f"{scheme}{separator}{host}:***{slash}{path}"
    return url


def _fault_of_redis_url(url: str) -> str | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "not a URL"
    # redis-py compares the scheme as it stands.
    if not url.startswith(tuple(f"{scheme}://" for scheme in _REDIS_SCHEMES)):
        return f"the scheme is none of {', '.join(_REDIS_SCHEMES)}"
    if parts.fragment or "#" in url:
        return 'a "#" is written %23'
    try:
        query = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
    except ValueError:
        return "the query is malformed"
    unknown = [name for name, _ in query if name not in _REDIS_QUERY]
    if unknown:
        return "an option of the query is unknown"
    if not all(value.isdecimal() for name, value in query if name == "db"):
        return "db is a number"
    return _fault_of_place(parts)


def _fault_of_place(parts: SplitResult) -> str | None:
    if parts.scheme == "unix":
        return None if parts.path.strip("/") and not parts.hostname else "the socket's path is missing (unix:///PATH)"
    try:
        parts.port  # noqa: B018 (the property checks it)
    except ValueError:
        return "the port is no number up to 65535"
    if not re.fullmatch(r"(/[0-9]{0,9})?", parts.path):
        return "after the host comes the number of the database"
    return None


def _host(name: str, *, bracketed: bool) -> str:
    address = _ip_address(name)
    if address is not None and (address.version == 6) == bracketed:
        return str(address)
    # All-numeric last labels are misspelt IPv4 addresses, never names.
    named = re.fullmatch(rf"(?:{_LABEL}\.)*{_LABEL}", name) and not name.rpartition(".")[2].isdecimal()
    if bracketed or not named or len(name) > 253:
        raise Refused(f"{name!r} is no host")
    return name.lower()


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
