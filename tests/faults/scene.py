"""A whole installation under load: Redis, a proxy before it, a subscriber, the daemon, publishers, an SSE reader.

Faults are switched on and off while the load runs. `calm` ends the load and waits until all has arrived; `judge` then
asks the oracle. Nothing here says how fast anything has to be: how long things took is a figure.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from attrs import define, field
from tests.faults.harness import Daemon, Load, SseReader, a_daemon, assert_status_agrees, reading
from tests.faults.oracle import Verdict, compare
from tests.redis_servers import (
    BINARIES,
    PATIENCE,
    CuttingProxy,
    RedisServer,
    Subscriber,
    cutting_proxy,
    eventually,
    redis_server,
    subscriber,
)

SERVER: Final = next(iter(BINARIES))
PASSWORD: Final = "first"
DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")


@define(eq=False)
class Scene:
    """Everything that runs, and the figures so far."""

    directory: Path
    redis: RedisServer
    proxy: CuttingProxy
    channel: Subscriber
    daemon: Daemon
    load: Load
    reader: SseReader
    heard_before: list[bytes] = field(factory=list)  # by a subscriber of a server that is gone
    faults: Counter[str] = field(factory=Counter)
    recoveries: list[float] = field(factory=list)
    told_after: list[float] = field(factory=list)

    @property
    def password_file(self) -> Path:
        return self.directory / "password"

    @property
    def cursor(self) -> str:
        return f"synceventsd:cursor:{{{self.daemon.status()['log_id']}}}"

    def view(self) -> Any:
        return self.daemon.status()["redis"]

    # While a fault is there

    def shows(self, reason: str, words: str) -> None:
        """Wait until /status gives the reason and, in words, what is wrong; note how long that took."""
        began = time.monotonic()

        def told() -> bool:
            view = self.view()
            return view["state"] in ("hung", "unavailable") and view["reason"] == reason and words in view["error"]

        eventually(told, f"/status says {reason!r} and {words!r}")
        self.told_after.append(time.monotonic() - began)

    def goes_on(self) -> None:
        """Wait until more is acknowledged, and readers see more: Redis is not in their way."""
        acked, seen = sum(self.load.acked.values()), len(self.reader.seen)
        eventually(lambda: sum(self.load.acked.values()) > acked + 20, "publishers are acknowledged")
        eventually(lambda: len(self.reader.seen) > seen + 20, "the SSE reader sees events")
        assert self.daemon.get("/readyz")[0] == 200

    def restarts(self) -> None:
        """A clean stop and a start, whatever Redis does."""
        assert self.daemon.stop() == 0
        self.daemon.start()

    def complaints(self) -> Counter[str]:
        """Return how often the log told of each reason, in the daemon's present run."""
        records = [json.loads(line) for line in self.daemon.log_text.splitlines() if line.startswith("{")]
        starts = [index for index, record in enumerate(records) if record["event"] == "daemon.ready"]
        return Counter(record["reason"] for record in records[starts[-1] :] if record["event"] == "redis.lost")

    # Around a fault

    @contextmanager
    def recovery(self, name: str) -> Iterator[None]:
        """Note a fault that ends with this block, and how long it takes from then on until events flow again."""
        yield
        self.faults[name] += 1
        began, heard = time.monotonic(), len(self.channel.heard)
        eventually(lambda: len(self.channel.heard) > heard, f"events flow again after: {name}")
        eventually(lambda: self.view()["state"] == "connected", f"it is connected again after: {name}")
        self.recoveries.append(time.monotonic() - began)

    def hold(self) -> None:
        """Keep the daemon from Redis, and wait until the subscriber has all that Redis did: so that nothing is between
        the two when Redis is killed, which pub/sub would not repeat."""
        self.proxy.hold()
        self.proxy.cut_all()
        quiet(self.channel.heard)

    def release(self) -> None:
        """Let the daemon to Redis again, as soon as the subscriber is there."""
        assert self.channel.subscribed.wait(PATIENCE), "the subscriber came back"
        self.proxy.release()

    # The end

    def calm(self) -> None:
        """No more events, no more faults: everything must arrive."""
        self.load.finish()
        eventually(lambda: len(self.reader.seen) >= self.load.total, "the SSE reader has everything")
        eventually(lambda: self.daemon.status()["waiting"]["count"] == 0, "nothing waits")
        quiet(self.channel.heard)

    def judge(self, repeats: int = 0) -> Verdict:
        """Return the oracle's verdict, which has no flaw; `repeats` messages may be repeats."""
        heard = [*self.heard_before, *self.channel.heard]
        verdict = compare(self.load.told(), heard, self.reader.seen, repeats=repeats)
        assert verdict.flaws == []
        assert self.reader.gaps == []
        assert_status_agrees(self.daemon, self.load, self.reader)
        return verdict

    def figures(self, verdict: Verdict) -> dict[str, Any]:
        return {
            "events": verdict.events,
            "rejects": verdict.rejects,
            "faults": self.faults.total(),
            "lost": verdict.lost,
            "doubled": verdict.doubled,
            "longest_recovery_s": max(self.recoveries, default=0.0),
        } | ({"told_within_s": max(self.told_after)} if self.told_after else {})


def quiet(heard: list[bytes]) -> int:
    """Wait until nothing more comes, and return how much came."""
    while True:
        count = len(heard)
        time.sleep(0.3)
        if len(heard) == count:
            return count


@contextmanager
def a_scene(directory: Path, *options: str, **daemon: Any) -> Iterator[Scene]:
    """Set the scene, and let events flow; `options` are Redis', `daemon` is as for `a_daemon`."""
    settings = {
        "SYNCEVENTSD_REDIS_PASSWORD_FILE": str(directory / "password"),
        "SYNCEVENTSD_REDIS_TIMEOUT": "2",
        "SYNCEVENTSD_SHUTDOWN_GRACE": "5",
    }
    daemon["settings"] = settings | daemon.get("settings", {})
    (directory / "password").write_text(PASSWORD)
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(SERVER, *options, tcp=True, start=False))
        redis.options, redis.password = (*options, "--requirepass", PASSWORD), PASSWORD
        redis.start()
        proxy = stack.enter_context(cutting_proxy(redis))
        channel = stack.enter_context(subscriber(redis))
        process = stack.enter_context(a_daemon(directory, proxy.url, **daemon))
        process.start()
        load = Load(process.socket, publishers=2, pause=0.01)
        reader = stack.enter_context(reading(process))
        load.start()
        try:
            eventually(lambda: len(channel.heard) > 20, "events flow")
            yield Scene(directory, redis, proxy, channel, process, load, reader)
        finally:
            load.stop()
