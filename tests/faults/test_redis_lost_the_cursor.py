"""Redis forgot how far it was, or remembers an older state: at least once, none skipped, the repeats are counted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.harness import Load, a_daemon
from tests.faults.oracle import compare
from tests.faults.redis_faults import follow
from tests.faults.scene import PASSWORD, SERVER, Scene, a_scene, quiet
from tests.redis_servers import eventually, redis_server, subscriber


def end(scene: Scene, tell: Callable[..., None], **more: int) -> None:
    """Let all arrive; there must be repeats, and /status must have counted each: in doubt too many, never too few."""
    scene.calm()
    told = scene.view()["resent"]
    verdict = scene.judge(repeats=told)
    assert 0 < verdict.doubled <= told
    tell(**more, **scene.figures(verdict), repeats_told=told)


def forget(scene: Scene) -> None:
    """Have Redis do a batch, lose the reply, and restart Redis without its data before the daemon can ask."""
    cuts = scene.proxy.cuts
    scene.proxy.cut_after(b"event_type", then_hold=True)
    eventually(lambda: scene.proxy.cuts > cuts, "a reply is lost")
    quiet(scene.channel.heard)
    scene.redis.kill()
    scene.redis.forget()
    with scene.recovery("restarted without its data"):
        scene.redis.start()
        scene.release()


def test_restarted_without_its_data_it_repeats_only_what_was_in_doubt(
    tmp_path: Path, tell: Callable[..., None]
) -> None:
    with a_scene(tmp_path) as scene:
        for _ in range(3):
            forget(scene)
        end(scene, tell)


@pytest.mark.soak
def test_restarted_without_its_data_many_times(tmp_path: Path, tell: Callable[..., None]) -> None:
    with a_scene(tmp_path) as scene:
        for _ in range(50):
            forget(scene)
        end(scene, tell, rounds=50)


def test_a_failover_to_a_replica_that_was_behind_repeats_what_the_replica_did_not_know(
    tmp_path: Path, tell: Callable[..., None]
) -> None:
    with a_scene(tmp_path) as scene, redis_server(SERVER, "--requirepass", PASSWORD, tcp=True) as replica:
        replica.password = PASSWORD
        replica.run("CONFIG", "SET", "masterauth", PASSWORD)
        with replica.client() as client:
            follow(client, scene.redis.port)
        replica.run("REPLICAOF", "NO", "ONE")  # from here on it hears of nothing
        heard = len(scene.channel.heard)
        eventually(lambda: len(scene.channel.heard) > heard + 100, "the primary is ahead")
        scene.hold()
        scene.redis.kill()
        scene.heard_before = list(scene.channel.heard)
        with subscriber(replica) as channel:
            scene.proxy.target, scene.channel = replica.socket_path, channel
            with scene.recovery("failover"):
                scene.release()
            end(scene, tell)


def test_a_cursor_of_an_older_run_repeats_what_came_after_it(tmp_path: Path, tell: Callable[..., None]) -> None:
    with a_scene(tmp_path) as scene:
        key = scene.cursor
        older = scene.redis.run("GET", key)
        scene.restarts()
        heard = len(scene.channel.heard)
        eventually(lambda: len(scene.channel.heard) > heard + 100, "the new run is ahead")
        with scene.recovery("an older state restored"):
            scene.hold()
            assert scene.redis.run("GET", key).split(b"-")[0] != older.split(b"-")[0]
            scene.redis.run("SET", key, older)
            scene.release()
        end(scene, tell)


def test_two_daemons_of_one_copied_log_skip_nothing_and_say_so(tmp_path: Path, tell: Callable[..., None]) -> None:
    with a_scene(tmp_path) as scene:
        assert scene.daemon.stop() == 0
        (tmp_path / "twin").mkdir()
        shutil.copytree(scene.daemon.state, tmp_path / "twin" / "state")
        scene.daemon.start()
        with a_daemon(tmp_path / "twin", scene.proxy.url, settings=scene.daemon.settings) as twin:
            twin.start()
            load = Load(twin.socket, publishers=2, pause=0.01, first=10)
            load.start()
            scene.shows("cursor", "somebody else changed it")
            for _ in range(5):  # all the while each takes the cursor from the other
                scene.shows("cursor", "somebody else changed it")
                scene.goes_on()
            lines = scene.complaints()["cursor"]
            load.finish()
            eventually(lambda: twin.status()["waiting"]["count"] == 0, "the twin got rid of all")
            told = twin.status()["redis"]["resent"]
            assert twin.stop() == 0
        scene.calm()
        told += scene.view()["resent"]
        wanted = scene.load.told() | load.told()
        verdict = compare(wanted, scene.channel.heard, repeats=told)
        assert verdict.flaws == []
        tell(**scene.figures(verdict), log_lines=lines)
        assert lines <= 3
