"""Events sent to Redis again because an operator asked: byte for byte, in order, once more, and nothing else twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.events import line
from tests.faults.harness import Daemon, a_daemon, eventually
from tests.faults.test_daemon_killed import CRASHING, SERVER
from tests.other_users import let_everybody_in
from tests.redis_servers import redis_server, subscriber
from tests.users import NOBODY, as_nobody

from syncevents import Publisher
from synceventsd.logtool import asking


def publish(daemon: Daemon, first: int, last: int) -> list[bytes]:
    lines = [line(number) for number in range(first, last + 1)]
    with Publisher(daemon.socket) as publisher:
        for text in lines:
            publisher.publish_envelope(text)
        publisher.flush(timeout=60)
    return lines


def retry(daemon: Daemon, seq: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "synceventsd", "log", "retry-from", str(seq), "--socket", daemon.socket, "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def heard_twice(daemon: Daemon, heard: list[bytes], lines: list[bytes], seq: int, last: int) -> None:
    """Publish some more, and compare: everything once, then what was asked for again, then the rest once."""
    more = publish(daemon, len(lines) + 1, len(lines) + 50)
    wanted = lines[:last] + lines[seq - 1 :] + more
    eventually(lambda: len(heard) >= len(wanted), f"{len(wanted)} messages, but {len(heard)}")
    eventually(lambda: daemon.status()["waiting"]["count"] == 0, "nothing waits")
    assert heard == wanted


def test_what_was_asked_for_goes_out_again_in_order_and_what_follows_once(tmp_path: Path) -> None:
    with redis_server(SERVER) as redis, subscriber(redis) as channel, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start()
        lines = publish(daemon, 1, 1200)
        eventually(lambda: len(channel.heard) == 1200, "everything is out")
        done = retry(daemon, 101)
        assert (done.returncode, json.loads(done.stdout)) == (0, {"first": 101, "last": 1200})
        heard_twice(daemon, channel.heard, lines, 101, 1200)
        (entry,) = daemon.status()["ledger"]
        assert (entry["reason"], entry["first"], entry["last"], entry["count"]) == ("retried", 101, 1200, 1100)
        assert entry["uid"] == os.geteuid()
        assert '"event": "redis.retry", "first": 101, "last": 1200' in daemon.log_text
        assert daemon.status()["redis"]["resent"] == 1100
        assert daemon.stop() == 0


def test_a_number_that_is_not_there_and_redis_off_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with redis_server(SERVER) as redis, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start()
        assert "the log holds no event" in retry(daemon, 1).stderr
        publish(daemon, 1, 5)
        done = retry(daemon, 6)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "synceventsd: refused: there is no event 6 yet: the newest is 5\n"
        assert "retried" not in daemon.status()["ledger_totals"]
        assert daemon.stop() == 0
        daemon.redis_url = "none"
        daemon.start()
        assert "does not forward to Redis" in retry(daemon, 1).stderr
    assert retry(daemon, 1).returncode == 69


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_request_while_redis_hangs_is_kept_beyond_the_end_of_the_daemon(tmp_path: Path, end: str) -> None:
    with redis_server(SERVER) as redis, subscriber(redis) as channel, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start(SYNCEVENTSD_SHUTDOWN_GRACE="0.2")
        lines = publish(daemon, 1, 300)
        eventually(lambda: len(channel.heard) == 300, "everything is out")
        redis.pause()
        eventually(lambda: daemon.status()["redis"]["state"] == "hung", "Redis hangs")
        assert retry(daemon, 51).returncode == 0
        assert daemon.status()["waiting"]["count"] == 250
        daemon.kill() if end == "kill" else daemon.stop()
        redis.resume()
        daemon.start()
        heard_twice(daemon, channel.heard, lines, 51, 300)
        assert daemon.stop() == 0


def test_killed_while_events_go_out_again_it_goes_on_where_it_was(tmp_path: Path) -> None:
    with redis_server(SERVER) as redis, subscriber(redis) as channel, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start()
        lines = publish(daemon, 1, 1000)
        eventually(lambda: len(channel.heard) == 1000, "everything is out")
        assert daemon.stop() == 0
        daemon.start(SYNCEVENTSD_REDIS_BACKLOG_RATE="500")
        assert retry(daemon, 11).returncode == 0
        eventually(lambda: len(channel.heard) > 1100, "some are out again")
        daemon.kill()
        assert len(channel.heard) < 1990
        daemon.start()
        heard_twice(daemon, channel.heard, lines, 11, 1000)
        assert daemon.stop() == 0


@pytest.mark.parametrize("point", ["before the claim", "after the claim", "after the request"])
def test_killed_at_a_named_point_of_a_retry_nothing_is_skipped_or_doubled(tmp_path: Path, point: str) -> None:
    with (
        redis_server(SERVER) as redis,
        subscriber(redis) as channel,
        a_daemon(tmp_path, redis.url, program=CRASHING) as daemon,
    ):
        daemon.start()
        lines = publish(daemon, 1, 300)
        eventually(lambda: len(channel.heard) == 300, "everything is out")
        assert daemon.stop() == 0
        # The first claim is that of the start.
        daemon.start(CRASH_POINT=point, CRASH_AT="2" if "claim" in point else "1")
        eventually(lambda: daemon.status()["redis"]["state"] == "connected", "it is connected")
        done = retry(daemon, 101)
        assert daemon.wait() == -signal.SIGKILL
        assert done.returncode in (0, 75)
        daemon.start()
        heard_twice(daemon, channel.heard, lines, 101, 300)
        assert daemon.stop() == 0


def test_two_requests_before_redis_is_back_are_both_kept(tmp_path: Path) -> None:
    with redis_server(SERVER) as redis, subscriber(redis) as channel, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start()
        lines = publish(daemon, 1, 300)
        eventually(lambda: len(channel.heard) == 300, "everything is out")
        redis.pause()
        assert [retry(daemon, seq).returncode for seq in (51, 201)] == [0, 0]
        daemon.kill()
        redis.resume()
        daemon.start()
        heard_twice(daemon, channel.heard, lines, 51, 300)


def test_retention_leaves_what_is_owed_again(tmp_path: Path) -> None:
    with redis_server(SERVER) as redis, subscriber(redis) as channel, a_daemon(tmp_path, redis.url) as daemon:
        daemon.start()
        lines = publish(daemon, 1, 300)
        eventually(lambda: len(channel.heard) == 300, "everything is out")
        redis.pause()
        assert retry(daemon, 1).returncode == 0
        daemon.kill()
        daemon.start(SYNCEVENTSD_STORAGE_RETAIN_BYTES="0", SYNCEVENTSD_STORAGE_RETAIN_SECONDS="0.001")
        lines += publish(daemon, 301, 302)
        eventually(lambda: daemon.status()["waiting"]["count"] == 302, "all are owed")
        assert daemon.status()["storage"]["oldest_seq"] == 1
        redis.resume()
        eventually(lambda: daemon.status()["storage"]["oldest_seq"] == 303, "retention took all, once they were out")
        assert channel.heard == lines[:300] + lines
        assert retry(daemon, 302).returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_refused_and_nothing_is_sent(tmp_path: Path) -> None:
    let_everybody_in(tmp_path)
    settings = {"SYNCEVENTSD_INGEST_SOCKET_MODE": "0666"}
    with (
        redis_server(SERVER) as redis,
        subscriber(redis) as channel,
        a_daemon(tmp_path, redis.url, settings=settings) as daemon,
    ):
        daemon.start()
        publish(daemon, 1, 10)
        eventually(lambda: len(channel.heard) == 10, "everything is out")

        def ask() -> int:
            try:
                asking.ask_to_retry(Path(daemon.socket), 1, 30)
            except asking.NotAllowed as error:
                return 0 if f"user {NOBODY} may not" in str(error) else 1
            return 2

        assert as_nobody(ask) == 0
        publish(daemon, 11, 12)
        eventually(lambda: len(channel.heard) == 12, "the new ones are out")
        assert "retried" not in daemon.status()["ledger_totals"]
