"""Who may read, as a table of attacks on the pure decision."""

from __future__ import annotations

import pytest

from synceventsd.config import HttpConfig, TcpBind
from synceventsd.web.guard import Answer, Head, Policy, cors_headers, decide, policy
from synceventsd.web.tokens import EVERYBODY, Reader, mint

KEY = b"k" * 32
NOW = 1_800_000_000.0
ORIGIN = "https://shop.example"
OPEN = Policy("", frozenset({"10.1.2.3", "sync.internal", "fd00::1"}), frozenset({ORIGIN}))
CLOSED = Policy("/api/v1", OPEN.hosts, OPEN.origins, KEY)
STREAM = "/integrations/events/sse/42"


def head(
    *headers: tuple[str, str], host: str | None = "localhost:8787", path: str = STREAM, method: str = "GET"
) -> Head:
    return Head(method, path, ((("host", host),) if host is not None else ()) + headers)


def upgrade(*headers: tuple[str, str], host: str = "localhost:8787") -> Head:
    return Head("GET", "/integrations/events/ws/42", (("host", host), *headers), websocket=True)


def status_of(asked: Head, rules: Policy = OPEN) -> int:
    verdict = decide(asked, rules, NOW)
    return verdict.status if isinstance(verdict, Answer) else 200


LOOPBACK = [
    "localhost",
    "LOCALHOST:1",
    "localhost.",
    "127.0.0.1",
    "127.0.0.1:8787",
    "127.9.9.9:80",
    "[::1]",
    "[::1]:8787",
    "[0:0::1]",
]


@pytest.mark.parametrize("host", [*LOOPBACK, "10.1.2.3:8787", "sync.internal", "SYNC.Internal:443", "[fd00::1]:1"])
def test_loopback_names_the_bind_address_and_listed_hosts_are_served(host: str) -> None:
    assert status_of(head(host=host)) == 200


REBOUND = [
    "evil.example",
    "evil.example:8787",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evillocalhost",
    "localhost@evil.example",
    "evil.example#localhost",
    "localhost evil.example",
    "localhost,evil.example",
    "localhost:8787:1",
    "localhost:",
    "localhost:99999999",
    "localhost:x",
    "[localhost]",
    "[127.0.0.1]",
    "::1",
    "[::1",
    "[::1]x",
    "[::ffff:10.0.0.1]",
    "0.0.0.0",
    "[::]",
    "127.1",
    "0177.0.0.1",
    "2130706433",
    "0x7f000001",
    "127.0.0.1%00",
    "128.0.0.1",
    "10.1.2.4",
    "app.localhost",
    "localhоst",
    "",
    " ",
    "*",
    ".",
    "sync.internal.evil.example",
    "xsync.internal",
]


@pytest.mark.parametrize("host", REBOUND)
@pytest.mark.parametrize("rules", [OPEN, CLOSED], ids=["open", "tokens"])
def test_any_other_host_is_refused_before_anything_else(host: str, rules: Policy) -> None:
    assert status_of(head(host=host), rules) == 421
    assert (
        status_of(head(("origin", ORIGIN), ("access-control-request-method", "GET"), host=host, method="OPTIONS"))
        == 421
    )
    assert status_of(upgrade(("origin", ORIGIN), host=host), rules) == 421
    assert status_of(head(host=host, path="/api/v1/healthz"), rules) == 421


def test_no_host_and_two_hosts_are_refused() -> None:
    assert status_of(head(host=None)) == 421
    assert status_of(head(("host", "localhost"))) == 421


def test_other_headers_cannot_stand_in_for_the_host() -> None:
    asked = head(("x-forwarded-host", "localhost"), ("forwarded", "host=localhost"), host="evil.example")
    assert status_of(asked) == 421


def test_a_target_that_is_no_path_is_refused() -> None:
    assert status_of(head(path="http://localhost/healthz")) == 400
    assert status_of(head(path="*", method="OPTIONS")) == 400


def test_the_bind_address_is_among_the_hosts() -> None:
    rules = policy(HttpConfig(bind=TcpBind("Sync.LAN", 80), allowed_hosts=("other.lan",)), None)
    assert rules.hosts == {"sync.lan", "other.lan"}
    assert policy(HttpConfig(bind=None), None).hosts == frozenset()


def test_only_a_listed_origin_gets_cors_headers_and_never_a_star() -> None:
    granted = dict(cors_headers(head(("origin", ORIGIN)), OPEN.origins))
    assert granted[b"access-control-allow-origin"] == ORIGIN.encode()
    assert granted[b"access-control-allow-credentials"] == b"true"


FOREIGN = [
    "https://evil.example",
    "http://shop.example",
    "https://shop.example:444",
    "https://shop.example.evil.example",
    "null",
    "*",
    "",
    "https://SHOP.example",
    "https://shop.example/",
]


@pytest.mark.parametrize("origin", FOREIGN)
def test_another_origin_gets_none(origin: str) -> None:
    assert cors_headers(head(("origin", origin)), OPEN.origins) == ()
    preflight = head(("origin", origin), ("access-control-request-method", "GET"), method="OPTIONS")
    assert decide(preflight, OPEN, NOW) is EVERYBODY
    assert status_of(preflight, CLOSED) == 401


def test_two_origins_are_none() -> None:
    assert cors_headers(head(("origin", ORIGIN), ("origin", ORIGIN)), OPEN.origins) == ()
    assert status_of(upgrade(("origin", ORIGIN), ("origin", ORIGIN))) == 403


def test_a_preflight_of_a_listed_origin_needs_no_token() -> None:
    asked = head(("origin", ORIGIN), ("access-control-request-method", "GET"), method="OPTIONS")
    answer = decide(asked, CLOSED, NOW)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (ORIGIN, "localhost:8787"),
        ("http://localhost:8787", "localhost:8787"),
        ("HTTP://LOCALHOST:8787", "localhost:8787"),
        ("https://sync.internal", "sync.internal"),
        ("http://localhost", "localhost:80"),
        ("http://[::1]:8787", "[::1]:8787"),
    ],
)
def test_a_websocket_from_its_own_or_a_listed_origin_is_opened(origin: str, host: str) -> None:
    assert status_of(upgrade(("origin", origin), host=host)) == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:3000",
        "http://127.0.0.1:8787",
        "null",
        "",
        "file://",
        "localhost:8787",
        "http://localhost",
        "http://localhost:8787.evil.example",
        "http://evil@localhost:8787",
        "http://localhost:8787/x",
        "ftp://localhost:8787",
        "http://evil.example",
    ],
)
def test_a_websocket_from_another_origin_is_refused(origin: str) -> None:
    assert status_of(upgrade(("origin", origin))) == 403


def test_a_program_without_origin_may_open_a_websocket() -> None:
    assert status_of(upgrade()) == 200


def bearer(token: str, scheme: str = "Bearer") -> tuple[str, str]:
    return ("authorization", f"{scheme} {token}")


GOOD = mint(KEY, [42], 60, NOW)
STAR = mint(KEY, None, 60, NOW)
OLD = mint(KEY, None, -1, NOW)


@pytest.mark.parametrize(
    "headers",
    [
        [bearer(GOOD)],
        [bearer(GOOD, "bearer")],
        [("cookie", f"a=b; syncevents_token={GOOD}; c=d")],
        [bearer(GOOD), ("cookie", f"syncevents_token={OLD}")],
        [bearer("dTpw", "Basic"), ("cookie", f"syncevents_token={GOOD}")],
    ],
)
def test_a_token_is_taken_from_the_header_else_from_the_cookie(headers: list[tuple[str, str]]) -> None:
    assert decide(head(*headers), CLOSED, NOW) == Reader(frozenset({42}), NOW + 60)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [bearer("")],
        [bearer(OLD)],
        [bearer(GOOD[:-3])],
        [("cookie", f"syncevents_tokenx={GOOD}")],
        [("cookie", "syncevents_token=")],
        [bearer("x"), ("cookie", f"syncevents_token={GOOD}")],
        [bearer(GOOD, "Basic")],
        [("x-token", GOOD)],
        [("authorization", GOOD)],
    ],
)
def test_without_a_good_token_nothing_is_told(headers: list[tuple[str, str]]) -> None:
    for path in (
        f"/api/v1{STREAM}",
        "/api/v1/",
        "/api/v1/status",
        "/healthz",
        "/nowhere",
        "/api/v1/healthz/",
        "/api/v1//healthz",
    ):
        answer = decide(head(*headers, path=path), CLOSED, NOW)
        assert isinstance(answer, Answer)
        assert answer.status == 401
        assert answer.headers[0][1].startswith(b"Bearer")


def test_healthz_under_the_base_path_needs_no_token() -> None:
    assert decide(head(path="/api/v1/healthz"), CLOSED, NOW) is EVERYBODY
