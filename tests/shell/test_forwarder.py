"""The forwarder against real servers: each accepted event is executed once and in order, and none is ever skipped.

The oracle is a plain subscriber. Where the server is restarted, a proxy holds the forwarder back until it is there
again.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define
from structlog.testing import capture_logs
from tests.events import line
from tests.redis_log import event_log, forwarding, lines, until
from tests.redis_servers import (
    BINARIES,
    CHANNEL,
    CuttingProxy,
    RedisServer,
    Subscriber,
    cutting_proxy,
    each_server,
    eventually,
    redis_server,
    subscriber,
)

from synceventsd.config import RedisConfig
from synceventsd.eventlog import EventLog


@pytest.fixture(params=each_server())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(name: str) -> Iterator[RedisServer]:
    with redis_server(name) as server:
        yield server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[CuttingProxy]:
    with cutting_proxy(server) as proxy:
        yield proxy


@pytest.fixture
def heard(server: RedisServer) -> Iterator[list[bytes]]:
    with subscriber(server) as listener:
        yield listener.heard


def config(url: str, **more: Any) -> RedisConfig:
    return RedisConfig(url=url, **({"timeout": 20.0, "backlog_rate": 0} | more))


async def arrive(heard: list[bytes], wanted: list[bytes]) -> None:
    """Wait for as many messages as wanted, then compare: more, fewer or others are a failure."""
    await until(lambda: len(heard) >= len(wanted), f"{len(wanted)} messages")
    assert heard == wanted


def without_scripts(server: RedisServer) -> None:
    server.run("ACL", "SETUSER", "default", "-eval", "-evalsha")


async def test_events_arrive_byte_for_byte_once_and_in_order(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    async with event_log(tmp_path) as events, forwarding(events, config(server.url)) as running:
        await events.accept(250)
        await events.all_out()
        await arrive(heard, await events.accept(1250))
        await events.all_out()
        view = running.view()
        assert (view.sent, view.resent, view.failures, view.reason) == (1500, 0, 0, None)


async def test_nobody_listening_is_success(server: RedisServer, tmp_path: Path) -> None:
    async with event_log(tmp_path) as events, forwarding(events, config(server.url)):
        await events.accept(10)
        await events.all_out()


@pytest.mark.parametrize("scripts", [True, False])
async def test_a_reply_lost_after_the_work_sends_nothing_twice(
    server: RedisServer, proxy: CuttingProxy, heard: list[bytes], tmp_path: Path, scripts: bool
) -> None:
    if not scripts:
        without_scripts(server)
    async with event_log(tmp_path) as events, forwarding(events, config(proxy.url)):
        for number in (1, 101, 201):
            proxy.cut_after(lines(number, number)[0])
            await events.accept(100)
            await events.all_out()
        await arrive(heard, lines(300))
    assert proxy.cuts == 3


@pytest.mark.parametrize("scripts", [True, False])
async def test_a_request_cut_on_its_way_skips_nothing(
    server: RedisServer, proxy: CuttingProxy, heard: list[bytes], tmp_path: Path, scripts: bool
) -> None:
    if not scripts:
        without_scripts(server)
    async with event_log(tmp_path) as events, forwarding(events, config(proxy.url)):
        for number in (1, 101, 201):
            proxy.cut_before(lines(number, number)[0])
            await events.accept(100)
            await events.all_out()
        await arrive(heard, lines(300))
    assert proxy.cuts == 3


@pytest.mark.parametrize("scripts", [True, False])
async def test_connections_killed_by_redis_at_any_moment_change_nothing(
    server: RedisServer, heard: list[bytes], tmp_path: Path, scripts: bool
) -> None:
    if not scripts:
        without_scripts(server)
    async with event_log(tmp_path) as events, forwarding(events, config(server.url)):
        for _ in range(10):
            events.hand.hand_in(*lines(events.hand.numbered + 200, events.hand.numbered + 1))
            server.run("CLIENT", "KILL", "TYPE", "normal")
            await events.log.wait_beyond(events.log.forwarded)
        await events.all_out()
        await until(lambda: events.log.last == 2000)
        await arrive(heard, lines(2000))


async def test_scripts_that_redis_forgot_are_sent_again(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    async with event_log(tmp_path) as events, forwarding(events, config(server.url)) as running:
        for _ in range(3):
            await events.accept(50)
            await events.all_out()
            server.run("SCRIPT", "FLUSH")
        await arrive(heard, lines(150))
        assert running.view().failures == 0


async def test_a_new_daemon_goes_on_where_the_old_one_was_cut_off(
    server: RedisServer, proxy: CuttingProxy, heard: list[bytes], tmp_path: Path
) -> None:
    for start in (0, 300, 600):
        async with event_log(tmp_path) as events:
            proxy.cut_after(lines(start + 1, start + 1)[0])
            async with forwarding(events, config(proxy.url)):
                await events.accept(300)
                if start == 600:
                    await events.all_out()
            # Cancelled in the middle, more often than not.
    await arrive(heard, lines(900))


@pytest.mark.parametrize("options", [("--appendonly", "yes"), ("--save", "3600", "1000000")])
async def test_a_restart_that_keeps_the_cursor_repeats_nothing(
    name: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    with redis_server(name, *options) as server, cutting_proxy(server) as proxy, subscriber(server) as listener:
        async with event_log(tmp_path) as events, forwarding(events, config(proxy.url)):
            await events.accept(100)
            await events.all_out()
            await restart(server, proxy, listener)
            await events.accept(100)
            await events.all_out()
            await arrive(listener.heard, lines(200))


async def test_a_restart_that_loses_the_cursor_skips_nothing(name: str, tmp_path: Path) -> None:
    with redis_server(name) as server, cutting_proxy(server) as proxy, subscriber(server) as listener:
        async with event_log(tmp_path) as events, forwarding(events, config(proxy.url)):
            await events.accept(100)
            await events.all_out()
            await restart(server, proxy, listener, kill=True)
            await events.accept(100)
            await events.all_out()
            await until(lambda: listener.heard[-1:] == lines(200, 200))
            assert without_repeats(listener.heard) == lines(200)


async def restart(server: RedisServer, proxy: CuttingProxy, listener: Subscriber, *, kill: bool = False) -> None:
    # Out is not heard: what waits in Redis for its subscribers goes down with it.
    await until(lambda: len(listener.heard) >= 100)
    proxy.hold()
    await trio.to_thread.run_sync(server.kill if kill else server.stop)
    await until(lambda: not listener.subscribed.is_set())
    await trio.to_thread.run_sync(server.start)
    await until(listener.subscribed.is_set)
    assert bool(server.run("KEYS", "*")) is not kill, "the cursor was kept, or lost, as the test means it"
    proxy.release()


def without_repeats(heard: list[bytes]) -> list[bytes]:
    return list(dict.fromkeys(heard))


async def test_a_flushed_cursor_skips_nothing_and_is_noticed_while_idle(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    async with event_log(tmp_path) as events, forwarding(events, config(server.url)) as running:
        await events.accept(100)
        await events.all_out()
        server.run("FLUSHALL")
        await until(lambda: server.run("KEYS", "*"), "the cursor is written again")
        await running.connected()
        await events.accept(100)
        await events.all_out()
        await arrive(heard, lines(200))  # the log's own mark: nothing needs to be repeated


async def test_a_cursor_set_back_repeats_from_there(server: RedisServer, heard: list[bytes], tmp_path: Path) -> None:
    async with event_log(tmp_path) as events, forwarding(events, config(server.url)) as running:
        await events.accept(100)
        await events.all_out()
        (key,) = server.run("KEYS", "*")
        server.run("SET", key, str(events.log.epochs.current.name) + "-60")
        await events.accept(10)
        await until(lambda: heard[-1:] == lines(110, 110))
        assert heard == [*lines(100), *lines(100, 61), *lines(110, 101)] or heard == [*lines(100), *lines(110, 61)]
        assert running.view().resent >= 40
        assert running.view().rewinds == 1
        (entry,) = events.log.ledger()
        assert (entry.reason, entry.first, entry.count) == ("sent_again", 61, running.view().resent)


async def test_redis_absent_from_the_start_gets_everything_later(name: str, tmp_path: Path) -> None:
    with redis_server(name, start=False) as server, cutting_proxy(server) as proxy:
        async with event_log(tmp_path) as events, forwarding(events, config(proxy.url)) as running:
            await events.accept(300)
            await running.lost("closed")
            proxy.hold()
            await trio.to_thread.run_sync(server.start)
            with subscriber(server) as listener:
                proxy.release()
                await events.all_out()
                await arrive(listener.heard, lines(300))
            await running.connected()


async def test_a_missing_server_is_called_refused(tmp_path: Path) -> None:
    for number, url in enumerate(("redis://127.0.0.1:1/0", f"unix://{tmp_path}/nobody.sock")):
        async with event_log(tmp_path / str(number)) as events, forwarding(events, config(url)) as running:
            await running.lost("refused")
            assert url in str(running.view().error)


async def test_an_outage_is_logged_once_and_so_is_its_end(server: RedisServer, tmp_path: Path) -> None:
    with capture_logs() as records:
        async with event_log(tmp_path) as events, forwarding(events, config(server.url)) as running:
            await events.accept(10)
            await events.all_out()
            await trio.to_thread.run_sync(server.kill)
            await events.accept(10)
            await until(lambda: running.state.failures >= 4)
            await trio.to_thread.run_sync(server.start)
            await events.all_out()
    # The server came back without its cursor, which is told too, where a batch was on its way.
    states = [record for record in records if record["event"] != "redis.set_back"]
    told = [(record["event"], record.get("reason"), record["waiting"]) for record in states]
    assert told[0] == ("redis.connected", None, 10) or told[0] == ("redis.connected", None, 0)
    assert [name for name, _, _ in told[1:-1]] == ["redis.lost"] * len(told[1:-1])
    assert sorted({reason for _, reason, _ in told[1:-1]}) == sorted(reason for _, reason, _ in told[1:-1])
    assert records[-1]["event"] == "redis.recovered"
    assert records[-1]["failures"] >= 4


async def test_a_hung_redis_is_told_long_before_the_timeout_and_gets_each_event_once(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    async with event_log(tmp_path) as events, forwarding(events, config(server.url)) as running:
        await events.accept(10)
        await events.all_out()
        server.pause()
        await running.lost("timeout")
        assert running.view().state.value == "hung"
        assert running.state.connected
        await events.accept(300)
        server.resume()
        await events.all_out()
        await arrive(heard, lines(310))
        await running.connected()


async def test_a_redis_that_hung_beyond_the_timeout_gets_each_event_once(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    async with event_log(tmp_path) as events, forwarding(events, config(server.url, timeout=0.1)) as running:
        await events.accept(10)
        await events.all_out()
        server.pause()
        await events.accept(300)
        await until(lambda: running.state.failures >= 2)
        assert running.view().reason == "timeout"
        server.resume()
        await events.all_out()
        await arrive(heard, lines(310))


REFUSALS = {
    "readonly": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "oom": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    "noreplicas": (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0")),
}


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("reason", list(REFUSALS))
async def test_a_redis_that_takes_no_writes_gets_each_event_once_when_it_does(
    server: RedisServer, heard: list[bytes], tmp_path: Path, reason: str, scripts: bool
) -> None:
    if not scripts:
        without_scripts(server)
    elif reason == "noreplicas" and server.run("INFO")["redis_version"].startswith("6."):
        pytest.skip("Redis 6 does not count replicas before a script writes")
    refuse, permit = REFUSALS[reason]
    async with event_log(tmp_path) as events, forwarding(events, config(server.url)) as running:
        await events.accept(10)
        await events.all_out()
        server.run(*refuse)
        await events.accept(10)
        await running.lost(reason)
        await arrive(heard, lines(10))
        server.run(*permit)
        await events.all_out()
        await arrive(heard, lines(20))
        await running.connected()


async def test_a_redis_that_cannot_save_gets_each_event_once_when_it_can(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    async with event_log(tmp_path) as events, forwarding(events, config(server.url)) as running:
        await events.accept(10)
        await events.all_out()
        server.run("CONFIG", "SET", "save", "3600 1000000")
        place = server.directory / "dump.rdb"
        place.mkdir()  # in the way of the file
        (place / "x").touch()
        with server.client() as client:
            client.bgsave()
        eventually(lambda: server.client().info("persistence")["rdb_last_bgsave_status"] == "err")
        await events.accept(10)
        await running.lost("misconf")
        await arrive(heard, lines(10))
        shutil.rmtree(place)
        server.run("CONFIG", "SET", "save", "")
        await events.all_out()
        await arrive(heard, lines(20))


async def test_a_redis_that_loads_its_data_is_told_and_waited_for(name: str, tmp_path: Path) -> None:
    with redis_server(name, "--save", "3600", "1000000", "--rdbcompression", "no") as server:
        with server.client() as client:
            client.mset({f"key-{number}": "x" * 2000 for number in range(10_000)})
        server.stop()
        server.options = [*server.options, "--key-load-delay", "200"]
        async with event_log(tmp_path) as events, forwarding(events, config(server.url)) as running:
            await events.accept(10)
            await running.lost("refused")
            server.start(wait=False)
            await running.lost("loading")
            await events.all_out()


async def test_a_wrong_password_is_told_and_the_right_one_needs_no_restart(server: RedisServer, tmp_path: Path) -> None:
    server.run("CONFIG", "SET", "requirepass", "right")
    file = tmp_path / "password"
    file.write_text("wrong\n")
    with subscriber(server, password="right") as listener:
        async with event_log(tmp_path / "log") as events:
            wanted = config(server.url, password_file=file)
            async with forwarding(events, wanted) as running:
                await events.accept(10)
                await running.lost("auth")
                assert "redis.password_file" in str(running.view().error)
                assert "wrong" not in str(running.view().error)
                file.write_text("right\n")
                await events.all_out()
                await arrive(listener.heard, lines(10))


async def test_a_password_that_is_missing_is_told(server: RedisServer, tmp_path: Path) -> None:
    server.run("CONFIG", "SET", "requirepass", "right")
    async with event_log(tmp_path / "log") as events, forwarding(events, config(server.url)) as running:
        await running.lost("auth")


async def test_a_channel_that_is_forbidden_skips_nothing(server: RedisServer, tmp_path: Path) -> None:
    server.run("ACL", "SETUSER", "bridge", "on", ">secret", "~*", "resetchannels", "+@all")
    file = tmp_path / "password"
    file.write_text("secret")
    url = server.url.replace("unix://", "unix://bridge@")
    with subscriber(server) as listener:
        async with (
            event_log(tmp_path / "log") as events,
            forwarding(events, config(url, password_file=file)) as running,
        ):
            await events.accept(100)
            await running.lost("noperm")
            server.run("ACL", "SETUSER", "bridge", f"&{CHANNEL}")
            await events.all_out()
            await arrive(listener.heard, lines(100))
            await running.connected()


async def test_a_log_that_was_set_back_skips_no_new_event(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    kept, copy = tmp_path / "log", tmp_path / "copy"
    async with event_log(kept) as events, forwarding(events, config(server.url)):
        await events.accept(50)
        await events.all_out()
    shutil.copytree(kept, copy)
    async with event_log(kept) as events, forwarding(events, config(server.url)):
        await events.accept(50)
        await events.all_out()
    await arrive(heard, lines(100))
    heard.clear()
    async with event_log(copy) as events, forwarding(events, config(server.url)):
        assert events.log.last == 50
        await events.accept(20)
        await events.all_out()
        await until(lambda: heard[-1:] == lines(70, 70))
        assert without_repeats(heard)[-20:] == lines(70, 51)


async def test_a_log_set_back_while_the_daemon_runs_skips_no_new_event(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    async with event_log(tmp_path) as events, forwarding(events, config(server.url)):
        await events.accept(50)
        await events.all_out()
        (key,) = server.run("KEYS", "*")
        # What going back to a snapshot of the machine looks like: the cursor counts on under the running epoch's name.
        server.run("SET", key, f"{events.log.epochs.current.name}-90")
        await events.accept(100)
        await events.all_out()
        await until(lambda: heard[-1:] == lines(150, 150))
        assert without_repeats(heard) == lines(150)


async def test_another_log_shares_the_server_without_being_taken_for_this_one(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    for number in range(3):
        async with event_log(tmp_path / str(number)) as events, forwarding(events, config(server.url)):
            await events.accept(10)
            await events.all_out()
    await arrive(heard, lines(10) * 3)


async def test_a_backlog_is_paced_and_new_events_after_it_are_not(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    async with event_log(tmp_path) as events:
        await events.accept(300)
        begun = trio.current_time()
        async with forwarding(events, config(server.url, backlog_rate=200)):
            await events.all_out()
            assert (
                trio.current_time() - begun >= (300 - 20) / 200
            )  # never faster; how much slower is the machine's affair
            await events.accept(300)
            await events.all_out()
    await arrive(heard, lines(600))


async def test_cancelling_ends_a_call_to_a_hung_redis_at_once(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    async with event_log(tmp_path) as events:
        async with forwarding(events, config(server.url, timeout=3600.0)) as running:
            await running.connected()
            server.pause()
            await events.accept(10)
            await running.lost("timeout")
        # Here it has ended, an hour before its timeout.
        server.resume()
        async with forwarding(events, config(server.url)):
            await events.all_out()
    await arrive(heard, lines(10))


def behind_its_back(log: EventLog, sql: str, first: int) -> None:
    with closing(sqlite3.connect(log._store.path, timeout=10)) as db, db:
        assert db.execute(sql, (first,)).rowcount > 0


async def test_events_that_do_not_read_any_more_stand_in_the_ledger_and_hold_nothing_up(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    async with event_log(tmp_path) as events:
        await events.accept(500)
    async with event_log(tmp_path) as events:  # reopened, so that it reads from the disk
        for first in (101, 201):
            behind_its_back(events.log, "UPDATE event_group SET crc = crc + 1 WHERE first = ?", first)
        async with forwarding(events, config(server.url)):
            await events.all_out()
            await arrive(heard, [*lines(100), *lines(500, 301)])
        entries = [entry for entry in events.log.ledger() if entry.reason == "damaged"]
        assert [(entry.first, entry.last, entry.count) for entry in entries] == [(201, 300, 100), (101, 200, 100)]


async def test_a_cursor_set_back_beyond_what_is_kept_goes_on_with_the_oldest_event(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    async with event_log(tmp_path) as events, forwarding(events, config(server.url)):
        await events.accept(500)
        await events.all_out()
        behind_its_back(events.log, "DELETE FROM event_group WHERE first <= ?", 201)  # retention, as it looks from here
        events.log._tail._groups.clear()
        (key,) = server.run("KEYS", "*")
        server.run("SET", key, f"{events.log.epochs.current.name}-10")
        await until(lambda: len(heard) >= 700)
        await events.all_out()
        await arrive(heard, [*lines(500), *lines(500, 301)])
        assert events.log.ledger_totals() == {"sent_again": 490, "not_resent": 290}


@define(eq=False)
class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when the forwarder's task is about to make its n-th step."""

    scope: trio.CancelScope
    left: int

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if "forward" in task.name:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


async def test_cancelling_at_any_moment_loses_and_repeats_nothing(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    async with event_log(tmp_path) as events:
        for step in range(60):
            await events.accept(5)
            with trio.CancelScope() as scope:
                watch = CancelAtStep(scope, step)
                trio.lowlevel.add_instrument(watch)
                try:
                    async with forwarding(events, config(server.url)):
                        await events.all_out()
                finally:
                    trio.lowlevel.remove_instrument(watch)
        async with forwarding(events, config(server.url)):
            await events.all_out()
        await arrive(heard, lines(300))


@pytest.mark.parametrize("scripts", [True, False])
async def test_sent_again_at_any_moment_with_connections_killed_nothing_is_skipped_or_goes_out_unasked(
    server: RedisServer, heard: list[bytes], tmp_path: Path, scripts: bool
) -> None:
    if not scripts:
        without_scripts(server)
    async with event_log(tmp_path) as events, forwarding(events, config(server.url)):
        asked = []
        for number in range(12):
            events.hand.hand_in(*lines(events.hand.numbered + 150, events.hand.numbered + 1))
            await until(lambda: events.log.last == events.hand.numbered)
            if number % 2:
                if number % 4 == 1:
                    await events.all_out()
                asked.append(await events.log.send_again(max(1, events.log.last - 37 * number), 0))
            if number % 3 == 1:
                server.run("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: events.log.last == 12 * 150)
        await events.all_out()
        await until(lambda: heard[-1:] == lines(1800, 1800))
    numbers = {text: number for number, text in enumerate(lines(1800), 1)}
    out = [numbers[text] for text in heard]
    jumps = [now for before, now in zip([0, *out], out, strict=False) if now != before + 1]
    assert sorted(set(out)) == list(range(1, 1801))
    # A step back leads to where a request wanted it, in the order of the requests; there is no other step.
    wanted = iter(first for first, _ in asked)
    assert all(jump in wanted for jump in jumps)
    assert jumps, "some request came after its events were out"


async def test_a_request_kept_while_redis_was_flushed_is_carried_out_from_the_log_s_own_mark(
    server: RedisServer, heard: list[bytes], tmp_path: Path
) -> None:
    async with event_log(tmp_path) as events:
        async with forwarding(events, config(server.url)):
            await events.accept(100)
            await events.all_out()
        await events.log.send_again(41, 0)
        server.run("FLUSHALL")
        async with forwarding(events, config(server.url)):
            await events.accept(10)
            await events.all_out()
            await arrive(heard, [*lines(100), *lines(110, 41)])


async def test_a_network_too_slow_for_a_large_batch_gets_smaller_ones(tmp_path: Path) -> None:
    name = next(iter(BINARIES))
    with redis_server(name) as server, cutting_proxy(server) as proxy, subscriber(server) as listener:
        proxy.pace = (1000, 0.005)  # less than 200 KB a second; Redis' timeout leaves time for half of that
        async with event_log(tmp_path) as events:
            wanted = [line(number, pad="x" * 1000) for number in range(1, 351)]
            await events.hand.append(*wanted)
            async with forwarding(events, config(proxy.url, timeout=0.5)) as running:
                await running.lost("timeout")
                await arrive(listener.heard, wanted)
                await events.all_out()
