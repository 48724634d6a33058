"""A test per attack on readers, each over the real server, byte by byte as an attacker would send it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from web_site import Site, SiteOpener, event

from synceventsd.core.envelope import KNOWN_TYPES, Fault, Stamp, decode_envelope
from synceventsd.core.frames import payload, sse_frames
from synceventsd.core.linecheck import read_event
from synceventsd.web.http11 import MAX_HEAD
from synceventsd.web.tokens import mint

KEY = b"k" * 32
NOW = 1_800_000_000.0
STREAM = "/integrations/events/sse/42"
SHOP = "https://shop.example"


async def ask(
    site: Site, target: str = "/status", *headers: str, host: str | None = "localhost", method: str = "GET"
) -> tuple[int, bytes, bytes]:
    """Return status, head and body of the answer."""
    rows = [f"{method} {target} HTTP/1.1", *([] if host is None else [f"Host: {host}"]), *headers]
    if "Connection: Upgrade" not in headers:
        rows.append("Connection: close")
    answer = await site.exchange("\r\n".join([*rows, "", ""]).encode("utf-8", "surrogateescape"))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.lower(), body


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def upgrade(*more: str) -> tuple[str, ...]:
    key = base64.b64encode(b"0" * 16).decode()
    return ("Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", *more)


# DNS rebinding


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8787",
        "localhost.evil.example",
        "user@localhost",
        "localhost@evil.example",
        "user:pass@localhost:8787",
        "localhost:8787@evil.example",
        "localhost..",
        "localhost:",
        "0.0.0.0:8787",
        "127.1",
        "[::ffff:127.0.0.1%eth0]",
        "localhost/",
        "localhost\t.evil.example",
        "localhost,localhost",
        "",
    ],
)
async def test_a_rebound_name_learns_nothing(site_of: SiteOpener, host: str) -> None:
    async with site_of(secret=KEY, cors_origins=(SHOP,), wall_clock=lambda: NOW) as site:
        token = mint(KEY, None, 60, NOW)
        for target in ("/status", "/healthz", STREAM, "/nowhere", "//", "http://localhost/status"):
            status, head, body = await ask(site, target, bearer(token), f"Origin: {SHOP}", host=host)
            assert status in (400, 421), target  # 400: no host name at all, by the rules of HTTP
            assert b"access-control" not in head
            assert b"version" not in body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "LocalHost.:8787", "127.0.0.1:1", "[::1]:8787", "[::1]"])
async def test_a_loopback_name_in_any_spelling_is_served(site_of: SiteOpener, host: str) -> None:
    async with site_of() as site:
        assert (await ask(site, host=host))[0] == 200


async def test_a_second_host_and_none_are_refused(site_of: SiteOpener) -> None:
    async with site_of() as site:
        assert (await ask(site, "/status", "Host: evil.example"))[0] in (400, 421)
        assert (await ask(site, "/status", "Host: localhost", host="evil.example"))[0] in (400, 421)
        assert (await ask(site, host=None))[0] in (400, 421)
        assert (await site.exchange(b"GET /status HTTP/1.0\r\n\r\n")).split()[1] in (b"400", b"421")


# Pages of other origins


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "https://shop.example:444"]
)
@pytest.mark.parametrize("with_cookie", [False, True])
async def test_a_foreign_page_can_read_nothing_with_or_without_credentials(
    site_of: SiteOpener, origin: str, with_cookie: bool
) -> None:
    async with site_of(secret=KEY, cors_origins=(SHOP,), wall_clock=lambda: NOW) as site:
        cookie = [f"Cookie: syncevents_token={mint(KEY, None, 60, NOW)}"] if with_cookie else []
        for target in ("/status", "/nowhere"):
            status, head, _ = await ask(site, target, f"Origin: {origin}", *cookie)
            assert (status == 401) is not with_cookie
            assert b"access-control" not in head  # so the browser keeps the answer from the page
        asked = ("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization")
        status, head, _ = await ask(site, STREAM, f"Origin: {origin}", *asked, *cookie, method="OPTIONS")
        assert b"access-control" not in head


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://evil@localhost"])
@pytest.mark.parametrize("with_cookie", [False, True])
async def test_a_foreign_page_cannot_open_a_websocket_with_or_without_credentials(
    site_of: SiteOpener, origin: str, with_cookie: bool
) -> None:
    for secret in (None, KEY):
        async with site_of(secret=secret, cors_origins=(SHOP,), wall_clock=lambda: NOW) as site:
            cookie = [f"Cookie: syncevents_token={mint(KEY, None, 60, NOW)}"] if with_cookie else []
            headers = upgrade("Connection: Upgrade", f"Origin: {origin}", *cookie)
            assert (await ask(site, "/integrations/events/ws/42", *headers))[0] == 403
            assert site.hub.streams == 0


# Tokens


def forged(header: dict[str, Any], claims: dict[str, Any], key: bytes | None = None) -> str:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    signed = f"{part(json.dumps(header).encode())}.{part(json.dumps(claims).encode())}"
    signature = b"" if key is None else hmac.new(key, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{part(signature)}"


EVERYTHING = {"businesses": "*", "exp": NOW + 60}
BAD_TOKENS = {
    "expired": mint(KEY, None, -1, NOW),
    "expires now": mint(KEY, None, 0, NOW),
    "alg none": forged({"alg": "none", "typ": "JWT"}, EVERYTHING),
    "alg None": forged({"alg": "None"}, EVERYTHING),
    "alg none, signed": forged({"alg": "none"}, EVERYTHING, KEY),
    "alg missing": forged({}, EVERYTHING, KEY),
    "alg RS256": forged({"alg": "RS256"}, EVERYTHING, KEY),
    "another key": forged({"alg": "HS256"}, EVERYTHING, b"x" * 32),
    "an empty key": forged({"alg": "HS256"}, EVERYTHING, b""),
    "no signature": forged({"alg": "HS256"}, EVERYTHING),
    "a key in the header": forged(
        {"alg": "HS256", "jwk": {"kty": "oct", "k": "eA"}, "kid": "../../dev/null"}, EVERYTHING, b"x"
    ),
    "no exp": forged({"alg": "HS256"}, {"businesses": "*"}, KEY),
    "exp as text": forged({"alg": "HS256"}, {"businesses": "*", "exp": "9999999999"}, KEY),
    "businesses as text": forged({"alg": "HS256"}, {"businesses": "42", "exp": NOW + 60}, KEY),
    "no businesses": forged({"alg": "HS256"}, {"exp": NOW + 60}, KEY),
}


@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_a_token_that_is_not_ours_opens_nothing_on_any_way_in(site_of: SiteOpener, token: str) -> None:
    async with site_of(secret=KEY, wall_clock=lambda: NOW) as site:
        for header in (bearer(token), f"Cookie: syncevents_token={token}"):
            for target in ("/status", STREAM):
                status, head, body = await ask(site, target, header)
                assert (status, b"www-authenticate: bearer" in head) == (401, True)
                assert token.encode() not in body
            asked = upgrade("Connection: Upgrade", header)
            assert (await ask(site, "/integrations/events/ws/42", *asked))[0] == 401
        assert site.hub.streams == 0


@pytest.mark.parametrize("name", ["token", "access_token", "syncevents_token", "authorization", "bearer", "jwt"])
async def test_a_token_in_the_url_opens_nothing(site_of: SiteOpener, name: str) -> None:
    async with site_of(secret=KEY, wall_clock=lambda: NOW) as site:
        token = mint(KEY, None, 60, NOW)
        assert (await ask(site, f"{STREAM}?{name}={token}"))[0] == 401
        assert (await ask(site, f"{STREAM};{name}={token}"))[0] == 401
        asked = upgrade("Connection: Upgrade", f"Sec-WebSocket-Protocol: {token}")
        assert (await ask(site, f"/integrations/events/ws/42?{name}={token}", *asked))[0] == 401


@pytest.mark.parametrize(
    "target",
    [
        "/integrations/events/sse/7",
        "/integrations/events/sse/07",
        "/integrations/events/sse/%37",
        "/integrations/events/sse/42/../7",
        "/integrations/events/sse/42%2F..%2F7",
        "/integrations/events/sse/42/%2e%2e/7",
        "/integrations/events/sse/./7",
        "/integrations/events/sse/42%2C7",
        "/integrations/events/sse/42?business_id=7",
        "/integrations/events/sse/42?business_id=42&business_id=7",
        "/integrations/events/sse?business_id=7",
        "/integrations/events/sse?business_id=42&business_id=7",
        "/integrations/events/sse",
        "/integrations/events/sse/",
        "/integrations/events/sse//7",
        "//integrations/events/sse/7",
        "/integrations/events/sync-status/13",
        "/integrations/events/sync-status/13?business_id=7",
    ],
)
async def test_a_token_of_another_business_opens_nothing_whatever_the_path_says(
    site_of: SiteOpener, target: str
) -> None:
    async with site_of(secret=KEY, wall_clock=lambda: NOW) as site:
        await site.publish(event(1, business=7, data={"precious": 1}))
        status, _, body = await ask(site, target, bearer(mint(KEY, [42], 60, NOW)))
        assert status in (400, 403, 404)
        assert b"precious" not in body
        assert site.hub.streams == 0


# Paths

TRICKS = {
    "//status": 400,
    "///healthz": 400,
    "//evil.example/healthz": 400,
    "/./status": 404,
    "/status/": 404,
    "/status//": 404,
    "/status/.": 404,
    "/x/../status": 404,
    "/x/%2e%2e/status": 404,
    "/x/%2E%2E/status": 404,
    "/x%2F..%2Fstatus": 404,
    "/%2Fstatus": 400,
    "/%2e/status": 404,
    "/status%00": 404,
    "/status%0d%0aX:y": 404,
    "/status%20": 404,
    "/STATUS": 404,
    "/status;x": 404,
    "/integrations//events/sse/42": 404,
    "/integrations/events/sse/42/": 404,
    "/integrations/events//sse/42": 404,
    "\\status": 400,
    "http://localhost/status": 400,
    "http://evil.example/status": 400,
    "HTTP://localhost/healthz": 400,
    "localhost:8787": 400,
    "*": 400,
    "?x": 400,
}


@pytest.mark.parametrize(("target", "status"), TRICKS.items())
async def test_a_path_is_tidied_up_into_no_other(site_of: SiteOpener, target: str, status: int) -> None:
    async with site_of() as site:
        told, head, body = await ask(site, target)
        assert told == status
        assert b"location:" not in head
        assert b'"version"' not in body


@pytest.mark.parametrize(
    "target",
    [
        "//healthz",
        "/./healthz",
        "/healthz/",
        "/healthz/..",
        "/healthz/../status",
        "/healthz%2F..%2Fstatus",
        "/healthz;",
    ],
)
async def test_the_one_path_without_a_token_opens_no_other(site_of: SiteOpener, target: str) -> None:
    async with site_of(secret=KEY) as site:
        assert (await ask(site, target))[0] in (400, 401)
        assert (await ask(site, "/healthz"))[0] == 200


# Heads without end


PIECE = "a" * (MAX_HEAD // 2)  # of a head that is too large; small enough for both to be there at once


@pytest.mark.parametrize(
    "headers",
    [
        [f"X-Pad: {PIECE}{PIECE}"],
        [f"X-One: {PIECE}", f"X-Two: {PIECE}"],
        [f"X-{number}: a" for number in range(5000)],
        [bearer(PIECE * 20)],
        [f"Cookie: a={PIECE}{PIECE}"],
    ],
    ids=["one header", "two headers", "many headers", "a token", "a cookie"],
)
async def test_a_huge_head_is_refused_and_hurts_nobody(site_of: SiteOpener, headers: list[str]) -> None:
    async with site_of(secret=KEY) as site:
        status, _, _ = await ask(site, "/status", *headers)
        assert status in (400, 431)
        assert (await ask(site, "/healthz"))[0] == 200


async def test_a_huge_target_is_refused_and_hurts_nobody(site_of: SiteOpener) -> None:
    async with site_of() as site:
        for target in (f"/{PIECE}{PIECE}", f"/status?{PIECE}{PIECE}", f"/{PIECE * 20}"):
            assert (await ask(site, target))[0] in (400, 431)
        assert (await ask(site, "/healthz"))[0] == 200


async def test_a_head_too_large_is_told_with_its_limit_and_counted(site_of: SiteOpener) -> None:
    async with site_of() as site:
        status, _, body = await ask(site, "/status", f"X-One: {PIECE}", f"X-Two: {PIECE}")
        assert status == 431
        assert f"more than {MAX_HEAD} bytes" in json.loads(body)["message"]
        assert site.hub.refused == {"head_too_large": 1}
        assert site.log.ledger_totals() == {"http_head_too_large": 1}
        assert (await ask(site, "/status", f"X-One: {PIECE}"))[0] == 200


# Lines that a publisher would like to forge in a reader's stream

FORGED = "x\r\n\r\nevent: forged\rdata: 1\n\n\0\u2028\u2029\x85\x0b\x0c\u202e"


async def test_no_field_of_an_event_can_begin_a_line_of_the_stream(site_of: SiteOpener) -> None:
    async with site_of() as site, site.stream("/integrations/events/sse/42?replay=0") as reader:
        await reader.take(1)
        await site.publish(
            event(1, id=FORGED, data={FORGED: FORGED, "order_id": FORGED}, metadata={FORGED: [FORGED]}),
            event(2, **{FORGED: FORGED}),
        )
        for number in (1, 2):
            frame = await reader.read_frame()
            assert frame is not None
            lines = frame.decode().split("\n")
            assert [line.partition(":")[0] for line in lines] == ["id", "event", "data", "", ""]
            assert b"\r" not in frame
            assert b"\0" not in frame
            assert json.loads(lines[2].removeprefix("data: "))["seq"] == number
        await site.publish(event(3))
        assert [frame.data["seq"] for frame in await reader.take(1)] == [3]


@pytest.mark.parametrize("white", [b"\r", b"\r\r", b"\t"])
def test_a_raw_cr_between_the_tokens_of_data_ends_no_line(white: bytes) -> None:
    """Legal JSON; an LF would have ended the publisher's own line."""
    text = json.dumps(event(1)).encode().replace(b'{"order_id"', b"{" + white + b'"order_id"')
    assert white in text
    frame = payload(sse_frames("0123456789", [1], [decode_envelope(text)]))
    assert b"\r" not in frame
    assert b"\n" not in frame
    assert json.loads(frame)["data"] == {"order_id": "o1"}


@pytest.mark.parametrize("half", [b"\\ud800", b"\\udfff", b"\\ud800\\ud800", b"\\udc00\\ud800", b"\xed\xa0\x80"])
@pytest.mark.parametrize("where", [b'"e1"', b'"2026-01-02T03:04:05Z"', b'"order_id"', b'"o1"', b'"metadata"'])
def test_half_a_surrogate_is_refused_wherever_it_stands(half: bytes, where: bytes) -> None:
    """Nothing of it gets as far as a reader, Redis or the log."""
    text = json.dumps(event(1, metadata={})).encode().replace(where, b'"x' + half + b'"')
    assert half in text
    fault = read_event(text, KNOWN_TYPES, lambda: Stamp("", ""))
    assert isinstance(fault, Fault)
    assert fault.error.isprintable()


async def test_what_a_reader_asks_for_does_not_come_back_as_lines(site_of: SiteOpener) -> None:
    async with site_of() as site:
        for query in ("event_types=%0d%0a%0d%0aevent:forged", "integration_id=%0d%0aX:y", "last_event_id=%0d%0a%00"):
            status, head, body = await ask(site, f"{STREAM}?replay=0&{query}", method="HEAD")
            assert status in (200, 400)
            assert b"\nx:" not in head
            assert b"forged" not in head + body
        async with site.stream(f"{STREAM}?replay=0&last_event_id=%0d%0aevent:%20forged%0d%0a") as reader:
            for frame in await reader.take(2):
                assert frame.event in ("connection_established", "gap")
