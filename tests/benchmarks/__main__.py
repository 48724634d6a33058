"""Run the benchmarks: `python -m tests.benchmarks [PART ...]`."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from tests.benchmarks import fanout, growth, publishing
from tests.benchmarks.peers import a_redis, nchan, ours, rsyslog, sse_starlette, syslog_ng, syslog_ng_root
from tests.benchmarks.results import Table, machine
from tests.benchmarks.throughput import Flow, answer, go, measure, role
from tests.redis_servers import CHANNEL

PLACES = ("oldest", "middle", "newest")
SECONDS = 5  # of a run at a steady rate


def flow(open_peer: Callable[[Any], Any], publishers: int, events: int, readers: int = 0) -> Flow:
    """Measure one peer behind a new Redis."""
    with a_redis() as redis, open_peer(redis) as peer:
        if not readers:
            return measure(peer, redis, publishers, events)
        with role("read_streams", str(peer.http), fanout.OURS, str(readers), str(events), "count") as ears:
            go(ears)
            return measure(peer, redis, publishers, events)


def much(ratio: float) -> bool:
    """Return whether throughput is as far ahead as was aimed at."""
    return ratio >= 1.2


def throughput(table: Table, rounds: int, events: int) -> None:
    """Socket to Redis channel."""
    peers: dict[str, Callable[[Any], Any]] = {}
    if Path("/usr/sbin/rsyslogd").exists():
        peers["rsyslog, disk queue"] = rsyslog
    if syslog_ng_root() is not None:
        peers["syslog-ng, disk buffer"] = syslog_ng
    for name in {"rsyslog, disk queue", "syslog-ng, disk buffer"} - peers.keys():
        click.echo(f"{name}: not installed, skipped")
    for publishers in (1, 8):
        names = ("ours", "without a reader", "acked")
        found: dict[str, list[float]] = {name: [] for name in (*names, *peers)}
        for _ in range(rounds):
            found["ours"].append(flow(ours, publishers, events, readers=1).rate)
            alone = flow(ours, publishers, events)
            found["without a reader"].append(alone.rate)
            found["acked"].append(alone.acked or 0.0)
            for name, peer in peers.items():
                found[name].append(flow(peer, publishers, events).rate)
        what = f"socket to channel, {publishers} publisher{'s' * (publishers > 1)}"
        for name in peers:
            goal = "1.2x at least"
            table.pair(f"{what}, an SSE reader of all", "events/s", found["ours"], name, found[name], goal, much)
            table.pair(f"{what}, no reader", "events/s", found["without a reader"], name, found[name], goal, much)
        table.single("  acknowledged after fsync", "events/s", found["acked"], "", bool)
    if "rsyslog, disk queue" in peers:
        limit = [flow(lambda redis: rsyslog(redis, "LinkedList"), 1, events).rate for _ in range(rounds)]
        table.single("a limit to look at: rsyslog's memory queue", "events/s", limit, "", bool)


def publish(table: Table, rounds: int, events: int) -> None:
    """What publishing costs the caller."""
    events //= 10
    with a_redis() as redis, ours(redis) as peer:
        runs: dict[str, list[publishing.Cost]] = {"client": [], "async": [], "loop": [], "pipeline": []}
        for _ in range(rounds):
            runs["client"].append(publishing.client(peer, events))
            runs["loop"].append(publishing.redis_loop(redis, events))
            runs["async"].append(publishing.client_async(peer, events))
            runs["pipeline"].append(publishing.redis_pipeline(redis, events))
    loop = [run.caller for run in runs["loop"]]
    for name, what in (("client", "publish call"), ("async", "await publish")):
        caller, whole = [run.caller for run in runs[name]], [run.whole for run in runs[name]]
        table.pair(
            f"{what}: calling thread", "us", caller, "redis-py publish()", loop, "1/5 at most", lambda r: r <= 0.2
        )
        table.pair(f"{what}: whole client", "us", whole, "redis-py publish()", loop, "1/2 at most", lambda r: r <= 0.5)
    pipeline = [run.caller for run in runs["pipeline"]]
    caller = [run.caller for run in runs["client"]]
    table.pair("publish call: calling thread", "us", caller, "redis-py pipeline of 100", pipeline, "", bool)


def latency(table: Table, rounds: int, events: int) -> None:
    """From the publish call to the subscriber."""
    with tempfile.TemporaryDirectory() as place:
        table.single("this disk: syncing 5 KB that were appended", "ms", [growth.disk(Path(place))], "", bool)
    for rate in (1000, 5000):
        mine: list[Any] = []
        direct: list[Any] = []
        for _ in range(rounds):
            heard = str(rate * SECONDS)
            with (
                a_redis() as redis,
                ours(redis) as peer,
                role("hear_times", str(redis.port), CHANNEL, heard) as ear,
                role("pace_client", peer.socket, str(rate), str(SECONDS)) as mouth,
            ):
                go(ear, mouth)
                mine.append(answer(ear))
            with (
                a_redis() as redis,
                role("hear_times", str(redis.port), CHANNEL, heard) as ear,
                role("pace_redis", str(redis.port), CHANNEL, str(rate), str(SECONDS)) as mouth,
            ):
                go(ear, mouth)
                direct.append(answer(ear))
        p50, p50_direct = [run["p50"] for run in mine], [run["p50"] for run in direct]
        table.pair(
            f"call to subscriber, {rate}/s, p50",
            "ms",
            p50,
            "redis-py direct",
            p50_direct,
            "3x at most",
            lambda r: r <= 3,
        )
        extra = [run["p99"] - other["p99"] for run, other in zip(mine, direct, strict=True)]
        table.single(
            f"call to subscriber, {rate}/s, p99 above redis-py direct", "ms", extra, "5 ms at most", lambda m: m <= 5
        )


def streams(table: Table, rounds: int, events: int) -> None:
    """Event streams."""
    readers, burst_events = 500, 2000
    peers: dict[str, tuple[Callable[[], Any], float]] = {}
    if Path("/usr/lib/nginx/modules/ngx_nchan_module.so").exists():
        peers["nchan"] = (nchan, 1.0)
    if importlib.util.find_spec("sse_starlette") and importlib.util.find_spec("uvloop"):
        peers["sse-starlette, uvloop"] = (sse_starlette, 3.0)
    for name in {"nchan", "sse-starlette, uvloop"} - peers.keys():
        click.echo(f"{name}: not installed, skipped")
    found: dict[str, list[float]] = {"ours": []} | {name: [] for name in peers}
    steady = []
    for _ in range(rounds):
        with ours(None) as peer:
            found["ours"].append(fanout.burst(peer, readers, burst_events).rate)
        for name, (start, _) in peers.items():
            with start() as peer:
                found[name].append(fanout.burst(peer, readers, burst_events).rate)
        with ours(None) as peer:
            steady.append(fanout.steady(peer, readers, 200, SECONDS))
    for name, (_, least) in peers.items():
        goal = f"{least:g}x at least"
        what = f"burst of {burst_events} events to {readers} streams"
        table.pair(what, "a second", found["ours"], name, found[name], goal, lambda r, least=least: r >= least)
    p99 = [run.p99 for run in steady]
    table.single(f"200 events/s to {readers} streams, p99", "ms", p99, "50 ms at most", lambda m: m < 50)
    table.single("  and its share of a core", "%", [run.busy * 100 for run in steady], "", bool)
    few, many = [], []
    for _ in range(rounds):
        few.append(growth.idle_readers(10))
        many.append(growth.idle_readers(4000))
    table.pair("an event beside 4,000 readers of others", "us", many, "beside 10", few, "flat", lambda r: r <= 1.15)


def grow(table: Table, rounds: int, events: int) -> None:
    """A log that has grown, a backlog, retention."""
    small, large = growth.grown(60_000), growth.grown(max(events * 10, 1_000_000))
    table.pair(
        f"cost of an event, {large.stored:,} stored",
        "us",
        [large.cost],
        "60,000 stored",
        [small.cost],
        "within 20 %",
        lambda r: r <= 1.2,
    )
    table.single(
        f"start to ready, {large.stored:,} stored", "ms", [large.start], "1,000 ms at most", lambda m: m < 1000
    )
    replays = {"lying together": large.together}
    replays |= {f"among 16,000, {place}": took for place, took in zip(PLACES, large.among, strict=True)}
    for place, (first, again) in replays.items():
        table.single(f"replay of 2,000 {place}", "ms", [first], "20 ms at most", lambda m: m < 20)
        table.single("  and again", "ms", [again], "20 ms at most", lambda m: m < 20)
    drains = [growth.drain(max(events * 2, 500_000)) for _ in range(rounds)]
    table.single(
        "a backlog going out", "events/s", [run.rate for run in drains], "150,000 at least", lambda m: m >= 150_000
    )
    table.single(
        "  acks of new events meanwhile, p99", "ms", [run.p99 for run in drains], "50 ms at most", lambda m: m < 50
    )
    table.single("  memory", "MB", [run.rss for run in drains], "", bool)
    pairs = [growth.retention(events) for _ in range(rounds)]
    with_it, without = [pair[1] for pair in pairs], [pair[0] for pair in pairs]
    table.pair(
        "throughput while retention deletes",
        "events/s",
        with_it,
        "without",
        without,
        "0.9x at least",
        lambda r: r >= 0.9,
    )


def rest(table: Table, rounds: int, events: int) -> None:
    """A daemon at rest."""
    found = [growth.rest(1000) for _ in range(rounds)]
    table.single("memory at rest", "MB", [run.rss for run in found], "80 MB at most", lambda m: m < 80)
    table.single("processor at rest", "%", [run.cpu for run in found], "0.5 % at most", lambda m: m < 0.5)
    table.single("memory of an idle stream", "KB", [run.stream for run in found], "30 KB at most", lambda m: m <= 30)


PARTS = {part.__name__: part for part in (throughput, publish, latency, streams, grow, rest)}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--rounds", default=5, show_default=True, help="Runs of each, in turns with the peer's.")
@click.option("--events", default=300_000, show_default=True, help="Events in a run; grow stores ten times as many.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write all figures here, too.")
def main(parts: tuple[str, ...], rounds: int, events: int, file: Path | None) -> None:
    """Measure synceventsd beside its peers, each started by this and ended again; PARTS: all unless named.

    What a peer needs from Debian: rsyslog rsyslog-hiredis libnginx-mod-nchan redis-server (syslog-ng is fetched and
    unpacked by this); from PyPI: sse-starlette uvicorn uvloop. What is missing is told and left out. Close everything
    else on the machine.
    """
    for name, version in machine().items():
        click.echo(f"{name}: {version}")
    table, began = Table(), time.monotonic()
    for part in parts or PARTS:
        PARTS[part](table, rounds, events)
    if file is not None:
        table.save(file)
    missed = [row.what.strip() for row in table.rows if row.met is False]
    click.echo(f"{time.monotonic() - began:.0f} s; median of {rounds}; not met: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
