"""The two who watch the sync from outside: a subscriber of the Redis channel, and a reader of the event stream.

Rule of this file: each reads in a thread of its own and puts what it got, as it came, into the inbox; nobody here
counts or prints. A reader is ready once it misses nothing that is published from then on.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Self

import redis
from attrs import asdict

from syncevents.demo.failure import DemoError
from syncevents.demo.seen import Seen, Source, Trouble
from syncevents.reading import iter_events
from syncevents.reading.values import Gap

CHANNEL: Final = "probability:integrations:orders:sync:events"

_READY_WITHIN: Final = 15.0  # seconds; the daemon and Redis answered before a reader starts
_POLL: Final = 0.2  # seconds until a thread notices that it is to end

Inbox = SimpleQueue[Seen | Trouble]


class Reader:
    """A thread that reads until the block is left; entering the block waits until it is ready.

    `check` raises when there is no use in waiting.
    """

    source: Source

    def __init__(self, inbox: Inbox, check: Callable[[], None]) -> None:
        self._inbox = inbox
        self._check = check
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"demo-{self.source}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + _READY_WITHIN
        while not self._ready.wait(_POLL):
            self._check()
            if time.monotonic() > deadline:
                raise DemoError(f"the reader {self.source} is not connected after {_READY_WITHIN:g} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._interrupt()
        self._thread.join(timeout=2)

    def _read(self) -> None:
        raise NotImplementedError

    def _interrupt(self) -> None:
        """Wake the thread where it waits longer than a moment."""

    def _put(self, text: str | bytes) -> None:
        at = time.time()
        self._inbox.put(Seen(self.source, json.loads(text, parse_float=Decimal), at))


class RedisSubscriber(Reader):
    """What an ordinary subscriber does: SUBSCRIBE, and take what comes."""

    source: Source = "redis"

    def __init__(self, inbox: Inbox, check: Callable[[], None], url: str) -> None:
        super().__init__(inbox, check)
        self._url = url

    def _read(self) -> None:
        try:
            self._subscribe()
        except redis.RedisError as error:
            if not self._stopping.is_set():
                self._inbox.put(Trouble("redis", str(error)))
        self._ready.set()

    def _subscribe(self) -> None:
        with redis.Redis.from_url(self._url) as client, client.pubsub() as channel:
            channel.subscribe(CHANNEL)
            while not self._stopping.is_set():
                message = channel.get_message(timeout=_POLL)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._ready.set()
                elif message["type"] == "message":
                    self._put(message["data"])


class StreamReader(Reader):
    """What any program may do: read the event stream with this library, which after a cut goes on where it was."""

    source: Source = "sse"

    def __init__(self, inbox: Inbox, check: Callable[[], None], port: int, business_id: int) -> None:
        super().__init__(inbox, check)
        self._stream = iter_events(
            business_id=business_id, replay=0, url=f"http://127.0.0.1:{port}", on_retry=self._tell_lost
        )

    def _read(self) -> None:
        with self._stream as events:
            self._ready.set()
            for event in events:
                if isinstance(event, Gap):
                    self._inbox.put(Trouble("sse", f"gap: {event.reason}; going on with {event.resumes_at_seq}"))
                else:
                    self._inbox.put(Seen("sse", asdict(event, recurse=False), time.time()))

    def _tell_lost(self, reason: str, pause: float) -> None:
        self._inbox.put(Trouble("sse", f"{reason}; connecting again"))

    def _interrupt(self) -> None:
        self._stream.close()


def check_redis(url: str) -> None:
    """Raise `DemoError` when no Redis answers there."""
    try:
        _ping(url)
    except (redis.RedisError, ValueError) as error:
        raise DemoError(f"--redis-url: no Redis answers: {error}") from None


def _ping(url: str) -> None:
    with redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as client:
        client.ping()


def get_json(port: int, path: str) -> dict[str, Any]:
    """Return what the daemon answers to a GET; raises OSError, HTTPException, or ValueError for no JSON object."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        body = connection.getresponse().read()
    finally:
        connection.close()
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError(f"{path} answered {body[:100]!r}")  # noqa: TRY004 - of the answer's text, not of an argument
    return value
