"""Redis away, hung, or cut off between its work and its reply, while publishers run: all arrives, once, in order."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults.harness import Load, a_daemon, assert_exactly_once_in_order, assert_status_agrees, eventually, reading
from tests.redis_servers import BINARIES, cutting_proxy, redis_server, subscriber

SERVER = next(iter(BINARIES))


def cuts_under_load(tmp_path: Path, cuts: int) -> dict[str, Any]:
    recoveries = []
    with (
        redis_server(SERVER) as redis,
        cutting_proxy(redis) as proxy,
        subscriber(redis) as channel,
        a_daemon(tmp_path, proxy.url) as daemon,
    ):
        daemon.start()
        load = Load(daemon.socket)
        with reading(daemon) as reader:
            load.start()
            for number in range(cuts):
                cut = proxy.cuts
                (proxy.cut_after if number % 3 else proxy.cut_before)(b"synceventsd:cursor")
                eventually(lambda cut=cut: proxy.cuts > cut, "it is cut")  # type: ignore[misc]
                began, seen = time.monotonic(), len(channel.heard)
                eventually(lambda seen=seen: len(channel.heard) > seen, "events flow again after the cut")  # type: ignore[misc]
                recoveries.append(time.monotonic() - began)
            load.finish()
            eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
            eventually(lambda: len(reader.seen) >= load.total, "the SSE reader has everything")
        verdict = assert_exactly_once_in_order(load, channel.heard, reader)
        assert_status_agrees(daemon, load, reader)
        return {
            "cuts": proxy.cuts,
            "events": verdict.events,
            "rejects": verdict.rejects,
            "lost": verdict.lost,
            "doubled": verdict.doubled,
            "longest_recovery_s": max(recoveries),
        }


def test_cut_connections_lose_nothing_and_double_nothing(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell(**cuts_under_load(tmp_path, 30))


@pytest.mark.soak
def test_a_thousand_cut_connections_lose_nothing_and_double_nothing(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell(**cuts_under_load(tmp_path, 1000))


def test_redis_absent_from_the_start_gets_everything_when_it_comes(tmp_path: Path) -> None:
    with (
        redis_server(SERVER, start=False) as redis,
        cutting_proxy(redis) as proxy,
        a_daemon(tmp_path, proxy.url) as daemon,
    ):
        daemon.start()
        proxy.hold()  # until the subscriber is there: pub/sub keeps nothing for those who come later
        load = Load(daemon.socket)
        load.start()
        eventually(lambda: load.total > 300, "publishing goes on")
        eventually(lambda: daemon.status()["waiting"]["count"] > 300, "events wait")
        eventually(lambda: daemon.status()["redis"]["last_error"], "the reason shows")
        assert daemon.status()["redis"]["state"] != "connected"
        assert daemon.status()["ready"] is True
        redis.start()
        with subscriber(redis) as channel:
            proxy.release()
            load.finish()
            eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
            eventually(lambda: daemon.status()["waiting"]["count"] == 0, "nothing waits")
        assert_exactly_once_in_order(load, channel.heard)


def test_a_stop_during_an_outage_keeps_the_buffer_and_does_not_wait_for_redis(tmp_path: Path) -> None:
    with redis_server(SERVER) as redis, a_daemon(tmp_path, redis.url) as daemon:
        redis.stop()
        daemon.start()
        load = Load(daemon.socket)
        load.start()
        eventually(lambda: load.total > 100, "publishing goes on")
        load.finish()
        assert daemon.stop() == 0
        redis.start()
        with subscriber(redis) as channel:
            daemon.start()
            eventually(lambda: len(channel.heard) >= load.total, "the channel has everything")
        assert_exactly_once_in_order(load, channel.heard)
