"""One daemon with Redis for all examples of a file, and what they left in its log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from tests.faults.harness import Daemon, a_daemon
from tests.redis_servers import PATIENCE, RedisServer, eventually, redis_server, subscriber

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


@define(eq=False)
class Stage:
    """The daemon, the server behind it, and what the channel carried since the test began."""

    daemon: Daemon
    redis: RedisServer
    heard: list[bytes]

    @property
    def environ(self) -> dict[str, str]:
        return os.environ | {"SYNCEVENTS_SOCKET": self.daemon.socket}

    def run(self, *command: str | Path, cwd: Path = EXAMPLES, **more: str) -> subprocess.CompletedProcess[str]:
        """Run an example to its end."""
        environ: Mapping[str, str] = self.environ | more
        return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=PATIENCE)

    def python(self, *arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, *arguments, **more)

    def events(self, count: int) -> list[dict[str, Any]]:
        """Return what came to Redis, which must be that many events and no more."""
        eventually(lambda: len(self.heard) >= count, f"{count} events: {self.heard} {self.daemon.log_text}")
        assert len(self.heard) == count
        return [json.loads(text) for text in self.heard]

    def types(self, count: int) -> list[str]:
        """Return the types of these events, without what they all begin with."""
        return [event["event_type"].removeprefix("integration.sync.") for event in self.events(count)]


@pytest.fixture(scope="session")
def redis_for_examples() -> Iterator[RedisServer]:
    with redis_server("valkey-9.1", tcp=True) as server:
        yield server


@pytest.fixture(scope="session")
def daemon_for_examples(redis_for_examples: RedisServer) -> Iterator[Daemon]:
    # A short path: that of a Unix socket has at most 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="examples-") as directory,
        a_daemon(Path(directory), redis_for_examples.url) as daemon,
    ):
        daemon.start()
        yield daemon


@pytest.fixture
def stage(daemon_for_examples: Daemon, redis_for_examples: RedisServer) -> Iterator[Stage]:
    with subscriber(redis_for_examples) as listener:
        yield Stage(daemon_for_examples, redis_for_examples, listener.heard)
