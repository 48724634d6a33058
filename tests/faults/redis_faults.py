"""Troubles of Redis, each brought about for real, and taken back at the end of its `with` block.

Rule of this file: a fault leaves the server as it found it, so that they can follow one another in any order.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final

import redis
from attrs import frozen
from tests.faults.scene import DURABLE, SERVER, Scene
from tests.redis_servers import CHANNEL, eventually, redis_server

BALLAST: Final = tuple(f"ballast-{number}" for number in range(3000))


@frozen
class Fault:
    """One trouble.

    Attributes:
        name: what it is.
        inject: the trouble is there inside the block.
        reason: the word that /status says; "" where events go on flowing and nobody needs to hear of it.
        words: what its sentence contains.
    """

    name: str
    inject: Callable[[Scene], AbstractContextManager[None]]
    reason: str = ""
    words: str = ""


@contextmanager
def killed(scene: Scene) -> Iterator[None]:
    scene.hold()
    scene.redis.kill()
    scene.proxy.release()
    try:
        yield
    finally:
        scene.proxy.hold()
        scene.redis.start()
        scene.release()


@contextmanager
def loading(scene: Scene) -> Iterator[None]:
    server, before = scene.redis, tuple(scene.redis.options)
    scene.hold()
    with server.client() as client:
        client.config_set("rdbcompression", "no")
        client.mset(dict.fromkeys(BALLAST, "x" * 20000))
        client.save()
    server.kill()
    # It answers each two megabytes, and waits at each key for so many microseconds: 4 s in all.
    slow = ("--appendonly", "no", "--key-load-delay", "1500")
    server.options = (*before, *slow)
    server.start(wait=False)
    scene.release()
    try:
        yield
    finally:
        server.options = before
        with server.client() as client:
            eventually(server.answers, "it has loaded")
            client.config_set("key-load-delay", 0)
            client.delete(*BALLAST)
            client.config_set("appendonly", "yes")
            eventually(lambda: not rewriting(client.info("persistence")), "all is in the file again")


def rewriting(persistence: dict[str, object]) -> bool:
    return bool(persistence["aof_rewrite_in_progress"] or persistence["aof_rewrite_scheduled"])


@contextmanager
def paused(scene: Scene) -> Iterator[None]:
    scene.redis.pause()
    try:
        yield
    finally:
        scene.redis.resume()


@contextmanager
def demoted(scene: Scene) -> Iterator[None]:
    """Another server took over with all the data; this one follows it, until it is made the primary again."""
    with redis_server(SERVER, "--requirepass", "first", "--masterauth", scene.redis.password or "", tcp=True) as other:
        other.password = "first"
        scene.hold()
        scene.redis.run("CONFIG", "SET", "masterauth", "first")
        follow(other.client(), scene.redis.port)
        other.run("REPLICAOF", "NO", "ONE")
        follow(scene.redis.client(), other.port)
        scene.release()
        try:
            yield
        finally:
            scene.redis.run("REPLICAOF", "NO", "ONE")


def follow(client: redis.Redis, port: int) -> None:
    """Make a server the replica of another, and wait until it has its data."""
    with client:
        client.execute_command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        client.execute_command("REPLICAOF", "127.0.0.1", port)
        eventually(lambda: client.info("replication").get("master_link_status") == "up", "the replica is in step")


@contextmanager
def configured(scene: Scene, name: str, during: str, after: str) -> Iterator[None]:
    scene.redis.run("CONFIG", "SET", name, during)
    try:
        yield
    finally:
        scene.redis.run("CONFIG", "SET", name, after)


@contextmanager
def unable_to_save(scene: Scene) -> Iterator[None]:
    place = scene.redis.directory / "dump.rdb"
    place.unlink(missing_ok=True)
    place.mkdir()  # in the way of the file
    (place / "x").touch()
    with scene.redis.client() as client:
        client.config_set("save", "3600 1000000")
        client.bgsave()
        eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "saving fails")
        try:
            yield
        finally:
            client.config_set("save", "")
            shutil.rmtree(place)


@contextmanager
def password_changed(scene: Scene) -> Iterator[None]:
    scene.redis.run("CONFIG", "SET", "requirepass", "second")
    scene.redis.password = "second"
    scene.redis.run("CLIENT", "KILL", "TYPE", "normal")
    try:
        yield
    finally:
        scene.password_file.write_text("second\n")  # what an operator does: no restart is needed
        eventually(lambda: scene.view()["state"] == "connected", "the new password is used")
        scene.redis.run("CONFIG", "SET", "requirepass", "first")
        scene.redis.password = "first"
        scene.password_file.write_text("first\n")


@contextmanager
def forbidden(scene: Scene, *rights: str) -> Iterator[None]:
    scene.redis.run("ACL", "SETUSER", "default", *(f"-{right}" for right in rights))
    try:
        yield
    finally:
        scene.redis.run("ACL", "SETUSER", "default", *(f"+{right}" for right in rights))


@contextmanager
def wrong_type(scene: Scene) -> Iterator[None]:
    key = scene.cursor
    with scene.redis.client() as client:
        client.pipeline(transaction=True).delete(key).lpush(key, "somebody's").execute()
        try:
            yield
        finally:
            client.delete(key)


@contextmanager
def busy(scene: Scene) -> Iterator[None]:
    scene.redis.run("CONFIG", "SET", "lua-time-limit", "50")

    def loop() -> None:
        with suppress(redis.RedisError):  # it ends by being killed
            scene.redis.run("EVAL", "while true do end", "0")

    thread = threading.Thread(target=loop, name="endless script")
    thread.start()
    try:
        yield
    finally:
        with suppress(redis.RedisError):
            scene.redis.run("SCRIPT", "KILL")
        thread.join()


@contextmanager
def repeatedly(scene: Scene, harm: Callable[[], object]) -> Iterator[None]:
    """Something that is over in a moment, ten times."""
    for _ in range(10):
        harm()
        time.sleep(0.05)
    yield


@contextmanager
def slow_network(scene: Scene) -> Iterator[None]:
    scene.proxy.pace = (2000, 0.005)
    try:
        yield
    finally:
        scene.proxy.pace = None


def running(*command: str, on_cursor: bool = False) -> Callable[[Scene], AbstractContextManager[None]]:
    """Return a fault that is one command on the server, again and again; on the cursor's key if so said."""

    def inject(scene: Scene) -> AbstractContextManager[None]:
        words = [scene.cursor if word == "CURSOR" else word for word in command]
        return repeatedly(scene, lambda: scene.redis.run(*words))

    return inject


LASTING: Final = (
    Fault("killed", killed, "closed", "closed the connection"),
    Fault("loading", loading, "loading", "is loading its data"),
    Fault("paused", paused, "timeout", "answer"),
    Fault("demoted", demoted, "readonly", "point redis.url at the primary"),
    Fault("out of memory", lambda s: configured(s, "maxmemory", "1", "0"), "oom", "raise its maxmemory"),
    Fault("cannot save", unable_to_save, "misconf", "cannot save to its disk"),
    Fault("password changed", password_changed, "auth", "correct redis.password_file"),
    Fault("publish forbidden", lambda s: forbidden(s, "publish"), "noperm", "does not permit this user"),
    Fault("cursor of a wrong type", wrong_type, "wrongtype", "delete that key"),
    Fault("busy with a script", busy, "busy", "busy with somebody's script"),
)
PASSING: Final = (
    Fault("scripts forbidden", lambda s: forbidden(s, "@scripting")),
    Fault("scripts flushed", running("SCRIPT", "FLUSH")),
    Fault("clients killed", running("CLIENT", "KILL", "TYPE", "normal")),
    Fault("slow network", slow_network),
    Fault("garbage in the cursor", running("SET", "CURSOR", "garbage")),
    Fault("cursor expires", running("PEXPIRE", "CURSOR", "1")),
)
__all__ = ["CHANNEL", "DURABLE", "LASTING", "PASSING", "Fault"]
