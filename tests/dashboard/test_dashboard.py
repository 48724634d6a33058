"""The page in a real browser: what it says of the daemon, of Redis, of syncs and of events, whatever happens."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from selenium.webdriver.common.keys import Keys
from tests.dashboard.browser import publish
from tests.dashboard.conftest import PageOpener
from tests.events import line
from tests.faults.harness import Daemon, a_daemon, eventually
from tests.redis_servers import BINARIES, redis_server

from synceventsd.web.tokens import mint

SERVER = next(iter(BINARIES))
SYNC = "integration.sync."
FAR = 4_000_000_000.0  # seconds since 1970


def started(integration: int = 13, business: int | None = 42) -> bytes:
    data = {"integration_type": "shopify", "started_at": "2026-11-24T02:30:00Z"}
    return line(1, SYNC + "started", integration, business, data=data)


def test_it_loads_without_complaint_asks_nobody_else_and_shows_a_command_that_works(
    page_of: PageOpener, daemon: Daemon
) -> None:
    page = page_of(daemon)
    page.shows("Nothing has been published yet", "events-none")
    page.shows("live", "stream")
    command = page.text("command")
    environ = os.environ | {"SYNCEVENTS_SOCKET": daemon.socket}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    subprocess.run(["sh", "-c", command], env=environ, check=True, timeout=60)
    eventually(lambda: len(page.rows("events")) == 1, "the event appears")
    eventually(lambda: "shopify" in page.text("running"), "its sync runs")
    assert not page.js("return document.getElementById('events-none').checkVisibility()")
    assert page.complaints() == []
    addresses = page.requests()
    assert addresses
    assert {url for url in addresses if not url.startswith((page.url, "data:"))} == set()


def test_a_sync_runs_through(page_of: PageOpener, daemon: Daemon) -> None:
    page = page_of(daemon)
    kinds = ["created"] * 5 + ["updated"] * 3 + ["rejected"] * 2
    publish(daemon, started(), *(line(n, f"{SYNC}order.{kind}") for n, kind in enumerate(kinds)))
    eventually(lambda: [row[1:5] for row in page.rows("running")] == [["10", "5", "3", "2"]], "it is counted")
    assert "shopify 13, business\xa042" in page.text("running")
    told = [f"order {kind}" for kind in reversed(kinds)] + ["started"]
    eventually(lambda: [row[2] for row in page.rows("events")] == told, "its events are there")
    totals = {"total_orders": 10, "created_orders": 5, "updated_orders": 3, "rejected_orders": 2}
    publish(daemon, line(99, SYNC + "completed", data=totals))
    page.shows("No sync is running", "running-none")
    ((what, total, _),) = page.rows("finished")
    assert ("completed" in what, total) == (True, "10")
    publish(daemon, started(14, None), line(100, SYNC + "failed", 14, None, data={"error": "the shop is closed"}))
    page.shows("the shop is closed", "finished")
    assert "shopify 14, all businesses" in page.text("finished")


def test_a_sync_that_has_gone_quiet_is_marked(page_of: PageOpener, tmp_path: Path) -> None:
    with a_daemon(tmp_path, "none", settings={"SYNCEVENTSD_STATUS_STALLED_AFTER": "1"}) as daemon:
        daemon.start()
        publish(daemon, started())
        page = page_of(daemon)
        page.shows("1 sync has gone quiet")
        page.shows("quiet for", "running")


def test_redis_goes_down_and_comes_back(page_of: PageOpener, tmp_path: Path) -> None:
    with redis_server(SERVER) as redis, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start()
        page = page_of(daemon)
        publish(daemon, line(1))
        page.shows("Events flow")
        assert not page.text("stage-redis").startswith("away")
        redis.kill()
        publish(daemon, *map(line, range(2, 5)))
        page.shows("Events are stuck before Redis")
        page.shows("3 events wait, the oldest for", "detail")
        page.shows("start Redis, or correct redis.url", "detail")
        page.shows("away", "stage-redis")
        page.shows("3\nwaiting".replace("\n", " "), "stage-redis")
        redis.start()
        page.shows("Events flow")
        page.shows("0 now, 3 at most", "depth-text")
        assert "0 now, at most 3" in page.js("return document.getElementById('depth-alt').textContent")
        assert page.js("return document.getElementById('line').getAttribute('d')").count("L") >= 2


def test_a_full_buffer_is_told_with_what_to_do(page_of: PageOpener, tmp_path: Path) -> None:
    with a_daemon(tmp_path, "redis://127.0.0.1:1/0") as daemon:
        daemon.start(SYNCEVENTSD_STORAGE_MAX_BYTES=str(2**20))
        pad = {"data": {"pad": "x" * 1000}}
        while daemon.get("/readyz")[0] == 200:
            publish(daemon, *(line(number, **pad) for number in range(200)))
        page = page_of(daemon)
        page.shows("The buffer is full: new events are rejected")
        page.shows("storage.max_bytes", "advice")
        page.shows("buffer full", "ledger")


def test_it_survives_the_daemons_restart_and_shows_every_event_once(page_of: PageOpener, daemon: Daemon) -> None:
    page = page_of(daemon)
    publish(daemon, *map(line, range(1, 6)))
    eventually(lambda: page.numbers() == [5, 4, 3, 2, 1], "all are there")
    daemon.kill()
    page.shows("The daemon does not answer")
    page.shows("reconnecting", "stream")
    daemon.start(SYNCEVENTSD_HTTP_RETRY="0.3")
    publish(daemon, *map(line, range(6, 9)))
    page.shows("Events are stored")
    eventually(lambda: page.numbers() == [8, 7, 6, 5, 4, 3, 2, 1], "it goes on where it was")
    page.shows("The daemon was restarted", "events")
    assert "Gap" not in page.text("events")


def test_a_gap_is_shown_where_the_log_is_another_one(page_of: PageOpener, daemon: Daemon) -> None:
    page = page_of(daemon)
    publish(daemon, *map(line, range(1, 4)))
    eventually(lambda: page.numbers() == [3, 2, 1], "all are there")
    daemon.stop()
    shutil.rmtree(daemon.state)
    daemon.start()
    publish(daemon, line(1))
    page.shows("Gap: the daemon's log is not the one that was read before", "events")
    page.shows("The daemon has another log now", "events")
    eventually(lambda: page.numbers() == [1, 3, 2, 1], "the new log's event is there")


def test_filters_choose_and_a_pause_holds_still(page_of: PageOpener, daemon: Daemon) -> None:
    page = page_of(daemon)
    publish(daemon, line(1, business=42), line(2, business=7), line(3, integration=14), started())
    eventually(lambda: page.numbers() == [4, 3, 2, 1], "all are there")
    page.put("f-business", "7")
    eventually(lambda: page.numbers() == [2], "one business")
    page.put("f-business", "x")
    eventually(lambda: page.js("return document.getElementById('f-business').ariaInvalid") == "true", "it is told")
    page.put("f-business", "")
    page.put("f-integration", "14")
    eventually(lambda: page.numbers() == [3], "one integration")
    page.put("f-integration", "")
    page.put("f-type", SYNC + "started")
    eventually(lambda: page.numbers() == [4], "one type")
    page.put("f-type", "")
    eventually(lambda: page.numbers() == [4, 3, 2, 1], "all are back")
    page.put("f-text", "ORDER-3")
    assert page.numbers() == [3]
    page.put("f-text", "nowhere")
    page.shows("No event matches the filters", "events-none")
    page.put("f-text", "")
    page.js("document.getElementById('pause').focus()")
    page.press(Keys.SPACE)
    publish(daemon, line(5))
    page.shows("paused, 1 new", "shown")
    assert page.numbers() == [4, 3, 2, 1]
    page.press(Keys.SPACE)
    assert page.numbers() == [5, 4, 3, 2, 1]


def test_a_flood_leaves_a_bounded_number_of_rows_the_newest_on_top(page_of: PageOpener, daemon: Daemon) -> None:
    page = page_of(daemon)
    page.shows("live", "stream")
    for wave in range(1, 4):
        publish(daemon, *map(line, range(1000)))
        newest = [1000 * wave]
        eventually(lambda newest=newest: page.numbers()[:1] == newest, "the newest is there")
    numbers = page.numbers()
    assert numbers == sorted(numbers, reverse=True)
    assert 100 < len(numbers) <= 200
    assert page.js("return kept.length") <= 1000


def test_numbers_of_an_event_are_shown_digit_for_digit(page_of: PageOpener, daemon: Daemon) -> None:
    page = page_of(daemon)
    publish(daemon, line(1, data={"amount": 0}).replace(b'"amount":0', b'"amount":12345678901234567890.10'))
    eventually(lambda: page.numbers() == [1], "it is there")
    page.js("document.querySelector('#events summary').focus()")
    page.press(Keys.ENTER)
    page.shows("12345678901234567890.10", "events")


def test_an_extra_type_is_shown_too(page_of: PageOpener, tmp_path: Path) -> None:
    with a_daemon(tmp_path, "none", settings={"SYNCEVENTSD_INGEST_EXTRA_TYPES": "stock.changed"}) as daemon:
        daemon.start()
        page = page_of(daemon)
        eventually(lambda: "stock.changed" in page.text("f-type"), "it can be chosen")
        publish(daemon, line(1, "stock.changed"))
        page.shows("stock.changed", "events")
        page.load()
        page.shows("stock.changed", "events")


def test_with_tokens_and_a_base_path_it_says_what_to_do_and_takes_a_new_token(
    page_of: PageOpener, tmp_path: Path
) -> None:
    key = "k" * 32
    (tmp_path / "key").write_text(key)
    settings = {"SYNCEVENTSD_HTTP_TOKEN_SECRET_FILE": str(tmp_path / "key"), "SYNCEVENTSD_HTTP_BASE_PATH": "/api/v1"}
    with a_daemon(tmp_path, "none", settings=settings) as daemon:
        daemon.start(wait=False)
        eventually(lambda: "daemon.ready" in daemon.log_text, "the daemon is ready")
        page = page_of(daemon, "/api/v1/", load=False)
        whole, narrow = mint(key.encode(), None, FAR, 0), mint(key.encode(), [42], FAR, 0)

        def use(token: str) -> None:
            page.command("Network.setCookie", name="syncevents_token", value=token, url=page.url, path="/api/v1/")

        use(whole)
        page.load()
        page.shows("Events are stored")
        page.shows("live", "stream")
        use("expired")
        page.shows("The token is missing, wrong or has expired", "detail")
        page.shows("no access", "stream")
        use(narrow)
        page.shows("The token does not open everything", "detail")
        assert "synceventsd token --all" in page.text("advice")
        page.js("document.getElementById('token').focus()")
        page.press(whole, Keys.ENTER)
        page.shows("Events are stored")
        publish(daemon, line(1))
        eventually(lambda: page.numbers() == [1], "events come again")


def test_what_events_say_stays_text_in_every_field(page_of: PageOpener, daemon: Daemon) -> None:
    attack = '<img src=x onerror="window.broken=1"><script>window.broken=1</script>{n}</td>&lt;b&gt;'
    page = page_of(daemon)
    before = page.js("return document.querySelectorAll('script, img, b').length")
    names = ("order_id", "order_number", "external_id", "platform", "customer_email", "status", "reason", "error")
    order = dict.fromkeys((*names, "currency", "total_amount", "created_at"), attack)
    sync = dict.fromkeys(("integration_type", "started_at", "error", "failed_at", "completed_at"), attack)
    sync |= {"params": {attack: attack}}
    more = {"id": attack, "metadata": {attack: attack, **order}}
    publish(
        daemon,
        *(line(1, f"{SYNC}order.{kind}", data=order, **more) for kind in ("created", "updated", "rejected")),
        line(1, SYNC + "created", data={}, **more),  # an unknown type: the ledger tells of it
        line(1, attack),
        json.dumps({attack: attack}).encode(),
        line(2, SYNC + "started", 14, data=sync, **more),
        line(2, SYNC + "failed", 14, data=sync, **more),
        line(2, SYNC + "completed", 15, data=sync, **more),
        line(2, SYNC + "started", 13, data=sync, **more),
        line(3, data={}, **more),
    )
    eventually(lambda: page.numbers()[:1] == [8], "all are there")
    eventually(lambda: page.rows("finished") and page.rows("running") and page.rows("ledger"), "syncs and ledger")
    page.js("for (const one of document.querySelectorAll('#events details')) one.open = true")
    for place in ("events", "running", "finished", "ledger"):
        page.shows("<img src=x onerror=", place)
    bold = page.js("return document.querySelectorAll('#running b, #finished b').length")
    assert page.js("return document.querySelectorAll('script, img, b').length") - bold == before
    assert page.js("return window.broken ?? null") is None
    assert page.complaints() == []
