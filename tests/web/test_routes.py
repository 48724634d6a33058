"""The routes: what each answers, and to whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from web_site import FakeReport, Site, SiteOpener, event

from synceventsd.config import HttpConfig, UnixBind
from synceventsd.web.dashboard import load_page
from synceventsd.web.routes import create_routes
from synceventsd.web.tokens import mint

KEY = b"k" * 32
NOW = 1_800_000_000.0
STARTED: dict[str, Any] = {
    "event_type": "integration.sync.started",
    "data": {"integration_type": "shopify", "started_at": "2026-01-02T03:04:05Z"},
}
SUPER = ["/", "/status", "/metrics", "/readyz", "/integrations/events/sse", "/integrations/events/sync-status/13"]


async def get(site: Site, path: str, **options: Any) -> httpx.Response:
    """The answer's head; of a stream nothing else is read."""
    async with site.http() as http, http.stream("GET", path, **options) as answer:
        if answer.headers["content-type"] != "text/event-stream":
            await answer.aread()
        return answer


def bearer(businesses: list[int] | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {mint(KEY, businesses, 60, NOW)}"}


async def test_the_status_of_a_sync_includes_what_was_acknowledged_before(site_of: SiteOpener) -> None:
    async with site_of() as site:
        await site.publish(event(1, **STARTED), event(2))
        answer = (await get(site, "/integrations/events/sync-status/13")).json()
        assert (answer["success"], answer["in_progress"], answer["last_started"]) == (True, True, True)
        assert answer["sync_state"]["created_orders"] == 1
        assert (await get(site, "/integrations/events/sync-status/13?business_id=7")).json()["in_progress"] is False
        unknown = (await get(site, "/integrations/events/sync-status/99")).json()
        assert (unknown["success"], unknown["sync_state"], unknown["last_started"]) == (True, None, False)


async def test_health_and_readiness_and_status_and_metrics(site_of: SiteOpener) -> None:
    async with site_of() as site:
        assert (await get(site, "/healthz")).json() == {"status": "ok"}
        assert (await get(site, "/readyz")).status_code == 200
        assert (await get(site, "/status")).json() == {"version": "0"}
        metrics = await get(site, "/metrics")
        assert (metrics.text, metrics.headers["content-type"]) == ("up 1\n", "text/plain; version=0.0.4")
        site.report.reason = "the disk is full"
        unready = await get(site, "/readyz")
        assert (unready.status_code, unready.json()) == (503, {"success": False, "message": "the disk is full"})
        assert (await get(site, "/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nowhere", 404),
        ("//healthz", 400),
        ("/healthz/", 404),
        ("/healthz/..", 404),
        ("/./healthz", 404),
        ("/HEALTHZ", 404),
        ("/%2e%2e/healthz", 404),
        ("/integrations/events/sse/", 404),
        ("/integrations/events/sse/42/", 404),
        ("/integrations/events/sse//42", 404),
        ("/integrations/events//sse/42", 404),
        ("/integrations/events/sse/42%2f7", 404),
        ("/integrations/events/sse/42/7", 404),
        ("/integrations/events/sse/../status", 404),
        ("/integrations/events/sse/%2e%2e", 400),
        ("/integrations/events/sse/abc", 400),
        ("/integrations/events/sse/0", 400),
        ("/integrations/events/sse/-1", 400),
        ("/integrations/events/sse/042", 400),
        ("/integrations/events/sse/+42", 400),
        ("/integrations/events/sse/%2042", 400),
        ("/integrations/events/sse/42%00", 400),
        ("/integrations/events/sse/42%0a", 400),
        ("/integrations/events/sse/%D9%A3", 400),
        ("/integrations/events/sse/%ff", 400),
        ("/integrations/events/sse/4294967296", 400),
        ("/integrations/events/sse/" + "9" * 5000, 400),
        ("/integrations/events/sse/42;7", 400),
        ("/integrations/events/sse/42?business_id=7", 400),
        ("/integrations/events/sse/42?replay=-1", 400),
        ("/integrations/events/sse?business_id=x", 400),
        ("/integrations/events/sse?business_id=", 400),
        ("/integrations/events/sync-status/x", 400),
        ("/integrations/events/sync-status/13?business_id=0", 400),
        ("/integrations/events/sync-status/-1", 400),
        ("/integrations/events/sync-status", 404),
        ("/integrations/events/sync-status/", 404),
        ("/integrations/events/sse/42?business_id=42", 200),
        ("/integrations/events/sse?business_id=42", 200),
        ("/integrations/events/sync-status/0", 200),
        ("/integrations/events/sse/%34%32", 200),
    ],
)
async def test_a_path_means_one_thing_or_nothing(site_of: SiteOpener, path: str, status: int) -> None:
    async with site_of() as site:
        answer = await site.exchange(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert int(answer.split()[1]) == status
        if status != 200:
            whole = await site.exchange(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert b'\r\n\r\n{"success":false,"message":"' in whole


async def test_a_fault_of_ours_is_a_500_that_says_nothing_of_it(
    site_of: SiteOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: FakeReport) -> dict[str, Any]:
        raise RuntimeError("precious")

    monkeypatch.setattr(FakeReport, "status", broken)
    async with site_of() as site:
        answer = await get(site, "/status")
        assert (answer.status_code, answer.json()["success"]) == (500, False)
        assert "precious" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "FOO"])
async def test_other_methods_are_not_allowed(site_of: SiteOpener, method: str) -> None:
    async with site_of() as site, site.http() as http:
        for path in ("/healthz", "/status", "/integrations/events/sse/42"):
            answer = await http.request(method, path, content=b"x" * 50_000)
            assert (answer.status_code, answer.json()["success"]) == (405, False)
            assert "GET" in answer.headers["allow"]


async def test_head_and_options_are_answered_without_a_body(site_of: SiteOpener) -> None:
    async with site_of() as site, site.http() as http:
        head = await http.head("/healthz")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "15")
        options = await http.options("/integrations/events/sse/42")
        assert options.status_code == 200
        assert "GET" in options.headers["allow"]


async def test_the_base_path_stands_before_every_path(site_of: SiteOpener) -> None:
    async with site_of(base_path="/api/v1", secret=KEY, wall_clock=lambda: NOW) as site:
        for path in SUPER:
            assert (await get(site, f"/api/v1{path}", headers=bearer(None))).status_code == 200
            assert (await get(site, path, headers=bearer(None))).status_code == 404
        assert (await get(site, "/api/v1/healthz")).status_code == 200
        assert (await get(site, "/healthz")).status_code == 401


async def test_a_token_opens_its_businesses_and_nothing_that_is_not_of_one(site_of: SiteOpener) -> None:
    async with site_of(secret=KEY, wall_clock=lambda: NOW) as site:
        own = [
            "/integrations/events/sse/42",
            "/integrations/events/sse?business_id=42",
            "/integrations/events/sync-status/13?business_id=42",
        ]
        others = [
            "/integrations/events/sse/7",
            "/integrations/events/sse?business_id=7",
            "/integrations/events/sync-status/13?business_id=7",
        ]
        for path in own:
            assert (await get(site, path, headers=bearer([42]))).status_code == 200
        for path in (*SUPER, *others):
            assert (await get(site, path, headers=bearer([42]))).status_code == 403, path
        for path in (*SUPER, *own, *others):
            assert (await get(site, path, headers=bearer(None))).status_code == 200
            refused = await get(site, path)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


async def test_every_route_but_healthz_asks_for_a_token_that_opens_it(site_of: SiteOpener) -> None:
    async with site_of(secret=KEY, wall_clock=lambda: NOW) as site:
        nothing: Any = None
        routes = create_routes(nothing, nothing, nothing, HttpConfig())
        rules = [rule for rule in routes.url_map.iter_rules() if not rule.websocket]
        assert len(rules) == 8
        for rule in rules:
            path = rule.rule.replace("<business>", "7").replace("<integration>", "13")
            expected = 200 if path == "/healthz" else 403
            assert (await get(site, path, headers=bearer([42]))).status_code == expected, path


async def test_a_token_in_the_url_is_no_token(site_of: SiteOpener) -> None:
    async with site_of(secret=KEY, wall_clock=lambda: NOW) as site:
        token = mint(KEY, None, 60, NOW)
        for name in ("token", "access_token", "syncevents_token", "authorization"):
            assert (await get(site, f"/integrations/events/sse/42?{name}={token}")).status_code == 401


async def test_a_cookie_is_as_good_as_the_header(site_of: SiteOpener) -> None:
    async with site_of(secret=KEY, wall_clock=lambda: NOW) as site:
        headers = {"Cookie": f"other=1; syncevents_token={mint(KEY, [42], 60, NOW)}"}
        assert (await get(site, "/integrations/events/sse/42", headers=headers)).status_code == 200


async def test_a_stream_ends_when_its_token_does(site_of: SiteOpener) -> None:
    now = [NOW]
    async with site_of(secret=KEY, keep_alive=0.02, wall_clock=lambda: now[0]) as site:
        header = f"Authorization: Bearer {mint(KEY, [42], 60, NOW)}\r\n"
        async with site.stream("/integrations/events/sse/42", header) as reader:
            await site.publish(event(1))
            await reader.take(2)
            now[0] += 60
            assert await reader.next() is None
        await site.wait_streams(0)
        answer = await get(
            site, "/integrations/events/sse/42", headers={"Authorization": header.split(": ")[1].strip()}
        )
        assert answer.status_code == 401


async def test_a_reader_that_hangs_is_cut_when_its_token_ends(site_of: SiteOpener) -> None:
    async with site_of(secret=KEY, wall_clock=lambda: NOW) as site:
        await site.publish(*(event(number, data={"text": "x" * 200_000}) for number in range(80)))
        async with await site.connect() as client:
            token = mint(KEY, [42], 1, NOW)
            request = (
                f"GET /integrations/events/sse/42 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
            )
            await client.send_all(request.encode())
            await site.wait_streams(1)
            await site.wait_streams(0)


async def test_a_listed_origin_may_read_also_errors_and_no_other_may(site_of: SiteOpener) -> None:
    origin = "https://shop.example"
    async with site_of(cors_origins=(origin,)) as site:
        for path in ("/integrations/events/sse/42", "/nowhere", "/status"):
            granted = await get(site, path, headers={"Origin": origin})
            assert granted.headers["access-control-allow-origin"] == origin
            assert granted.headers["access-control-allow-credentials"] == "true"
            assert granted.headers["vary"] == "Origin"
            for other in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {}):
                refused = await get(site, path, headers=other)
                assert not any(name.startswith("access-control") for name in refused.headers)
                assert refused.headers["vary"] == "Origin"


async def test_a_preflight_of_a_listed_origin_is_granted_without_a_token(site_of: SiteOpener) -> None:
    async with site_of(cors_origins=("https://shop.example",), secret=KEY) as site, site.http() as http:
        headers = {"Origin": "https://shop.example", "Access-Control-Request-Method": "GET"}
        answer = await http.options("/integrations/events/sse/42", headers=headers)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()


async def test_no_origin_is_listed_by_default(site_of: SiteOpener) -> None:
    async with site_of() as site:
        answer = await get(site, "/healthz", headers={"Origin": "http://localhost:3000"})
        assert not any(name.startswith("access-control") for name in answer.headers)


async def test_a_rebound_name_gets_421_on_every_path_and_before_anything_else(site_of: SiteOpener) -> None:
    async with site_of(secret=KEY, cors_origins=("https://shop.example",)) as site:
        headers = {"Host": "evil.example", "Origin": "https://shop.example"}
        for path in ("/healthz", "/integrations/events/sse/42", "/integrations/events/sse/x", "/nowhere"):
            answer = await get(site, path, headers=headers)
            assert (answer.status_code, answer.json()["success"]) == (421, False)
            assert not any(name.startswith("access-control") for name in answer.headers)


async def test_a_unix_socket_is_served_as_localhost(site_of: SiteOpener, tmp_path: Path) -> None:
    async with site_of(bind=UnixBind(tmp_path / "http"), allowed_hosts=("sync.lan",)) as site:
        for host, status in (("localhost", 200), ("127.0.0.1", 200), ("sync.lan", 200), ("evil.example", 421)):
            answer = await site.exchange(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            assert int(answer.split()[1]) == status


async def test_the_page_runs_its_own_script_and_nothing_else(site_of: SiteOpener) -> None:
    async with site_of() as site:
        answer = await get(site, "/")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        rules = answer.headers["content-security-policy"]
        assert rules.count("'sha256-") == 2
        assert "unsafe" not in rules
        assert "require-trusted-types-for 'script'; trusted-types 'none'" in rules
        assert len(load_page().html) < 60_000
        assert b"http://" not in load_page().html
        assert b"https://" not in load_page().html


async def test_the_base_path_without_its_slash_leads_to_the_page(site_of: SiteOpener) -> None:
    async with site_of(base_path="/api") as site, site.http() as http:
        answer = await http.get("/api")
        assert (answer.status_code, answer.headers["location"]) == (308, "/api/")
