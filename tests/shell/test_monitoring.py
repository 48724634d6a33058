"""What monitoring sees: metrics by Prometheus' conventions, rules and a dashboard that name only what there is."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.events import line
from tests.faults.harness import PATIENCE, Daemon, a_daemon, eventually, reading
from tests.redis_servers import BINARIES, RedisServer, redis_server, subscriber
from tests.shell.test_daemon import talk

MONITORING = Path(__file__).parents[2] / "docs/monitoring"
NAME = re.compile(r"\b(?:synceventsd_\w+|process_\w+)")
PROMTOOL = shutil.which("promtool")
with_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool here (Debian's package prometheus has it)")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server(next(iter(BINARIES))) as one:
        yield one


@pytest.fixture
def daemon(tmp_path: Path, server: RedisServer) -> Iterator[Daemon]:
    with a_daemon(tmp_path, server.url) as one:
        one.start()
        yield one


def scrape(daemon: Daemon) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)
    with closing(connection):
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()


def samples(daemon: Daemon) -> dict[str, float]:
    """The value of every sample, by its name with the labels as they are written."""
    rows = (row.rpartition(" ") for row in scrape(daemon).splitlines() if not row.startswith("#"))
    return {name: float(value) for name, _, value in rows}


def promtool(*arguments: str, given: str = "") -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], input=given, cwd=MONITORING, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_every_event_is_counted_once_in_each_latency_and_for_each_reader(daemon: Daemon) -> None:
    talk(daemon.socket, line(0))  # before the readers came: not theirs to wait for
    with reading(daemon) as everybody, reading(daemon, path="/integrations/events/sse/42?replay=1") as one:
        talk(daemon.socket, *(line(number) for number in range(1, 31)), line(31, business=7))
        eventually(lambda: len(everybody.seen) == 31 and len(one.seen) == 31, "all was read")
        eventually(lambda: samples(daemon)["synceventsd_accept_to_redis_seconds_count"] == 32, "all went out")
        found = samples(daemon)
    assert found["synceventsd_accept_to_commit_seconds_count"] == 32
    assert found["synceventsd_accept_to_reader_seconds_count"] == 31 + 30
    for name in ("commit", "redis", "reader"):
        prefix = f"synceventsd_accept_to_{name}_seconds"
        buckets = [value for key, value in found.items() if key.startswith(f"{prefix}_bucket")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == found[f"{prefix}_count"]
        assert found[f"{prefix}_sum"] > 0


def test_what_waits_for_redis_has_an_age_and_once_sent_none(daemon: Daemon, server: RedisServer) -> None:
    age = 'synceventsd_oldest_unsent_event_age_seconds{output="redis"}'
    eventually(lambda: samples(daemon)["synceventsd_redis_connected"] == 1, "connected")
    server.pause()
    try:
        talk(daemon.socket, line(1))
        eventually(lambda: samples(daemon)[age] > 0.5, "it ages")
        assert samples(daemon)["synceventsd_redis_waiting_events"] == 1
        assert samples(daemon)['synceventsd_oldest_unsent_event_age_seconds{output="readers"}'] == 0
    finally:
        server.resume()
    eventually(lambda: samples(daemon)[age] == 0, "it went out")


def test_names_are_in_base_units_described_and_counters_end_in_total(daemon: Daemon) -> None:
    families = list(text_string_to_metric_families(scrape(daemon)))
    assert len(families) > 20
    for family in families:
        assert re.fullmatch(r"(synceventsd|process)_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert not re.search(r"_(ms|milliseconds|kb|mb|minutes|percent)\b", family.name)
        assert family.type in ("counter", "gauge", "histogram")
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds"} <= {f.name for f in families}


def expressions() -> dict[str, list[str]]:
    """The PromQL in the rules and the dashboard."""
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    board = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    targets = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return {"alerts.yml": [rule["expr"] for rule in rules], "grafana-dashboard.json": targets}


def test_every_metric_and_label_that_rules_and_dashboard_name_exists(daemon: Daemon) -> None:
    families = list(text_string_to_metric_families(scrape(daemon)))
    there = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    # No user was throttled and nobody refused: series that begin with the first one.
    there |= {family.name + "_total": {"reason", "code", "uid"} for family in families if not family.samples}
    for file, texts in expressions().items():
        for text in texts:
            named = NAME.findall(text)
            assert named or "up{" in text, (file, text)
            assert set(named) <= set(there), (file, text)
            labels = set().union(*(there[name] for name in named)) | {"job", "instance", "alertname"}
            used = re.findall(r"(\w+)\s*(?:=~|=|!=)\s*\"", text)
            for by in re.findall(r"by \(([^)]*)\)|on \(([^)]*)\)", text):
                used += [label.strip() for label in ",".join(filter(None, by)).split(",")]
            assert set(used) <= labels, (file, text)


def test_every_alert_says_what_to_do() -> None:
    rules: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["remedy"]


def test_every_panel_has_a_title_a_description_and_a_place_of_its_own() -> None:
    board = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["description"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert taken.isdisjoint(cells)
        assert at["x"] + at["w"] <= 24
        taken |= cells


@with_promtool
def test_promtool_accepts_the_metrics(daemon: Daemon) -> None:
    talk(daemon.socket, line(1), b"rubbish")
    promtool("check", "metrics", given=scrape(daemon))


@with_promtool
def test_promtool_accepts_the_rules_and_their_tests() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts-test.yml")


def test_trace_context_in_metadata_reaches_redis_and_readers_untouched(daemon: Daemon, server: RedisServer) -> None:
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=1,b=t61rc"}
    envelope = line(1, metadata={"order_id": "order-1"} | trace)
    with subscriber(server) as channel:
        talk(daemon.socket, envelope)
        eventually(lambda: channel.heard, "it went out")
        assert channel.heard == [envelope]
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)
    with closing(connection):
        connection.request("GET", "/integrations/events/sse/42?replay=1")
        with connection.getresponse() as answer:
            text = b""
            while b"order.created" not in text or not text.endswith(b"\n\n"):
                text += answer.read1()
    data = json.loads(text.split(b"event: integration.sync.order.created\ndata: ")[1].split(b"\n")[0])
    assert data["metadata"] == {"order_id": "order-1"} | trace


def test_an_outage_is_a_line_for_each_reason_and_one_for_its_end_as_journald_reads_it(
    tmp_path: Path, server: RedisServer
) -> None:
    with (
        redis_server(next(iter(BINARIES))) as mine,
        a_daemon(tmp_path, mine.url, settings={"SYNCEVENTSD_LOGGING_FORMAT": "journald"}) as daemon,
    ):
        daemon.start()
        eventually(lambda: daemon.status()["redis"]["state"] == "connected", "connected")
        mine.kill()
        eventually(lambda: daemon.status()["redis"]["failures"] > 3, "tried again and again")
        mine.start()
        eventually(lambda: daemon.status()["redis"]["state"] == "connected", "connected again")
        assert daemon.stop() == 0
        told = daemon.log_text.splitlines()
    assert all(re.match(r"<[2-7]>[a-z_]+\.[a-z_]+ logger=\w+", row) for row in told), told
    first, *lost, last = [row for row in told if ">redis." in row]
    assert first.startswith("<6>redis.connected ")
    assert last.startswith("<6>redis.recovered ")
    found = [re.fullmatch(r"<4>redis\.lost .*\breason=(closed|refused) .*", row) for row in lost]
    # The connection ends, then there is none to be had: each reason is told once, however often it was tried.
    reasons = [match[1] for match in found if match]
    assert len(reasons) == len(lost) == len(set(reasons)) > 0
