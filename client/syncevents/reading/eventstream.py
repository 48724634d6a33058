"""The reader for plain synchronous code: Server-Sent Events with the standard library.

Rule of this file: one connection at a time, and the position moves on only with what is handed out. So whatever cuts a
connection, or interrupts the caller, the next one goes on right behind the last event that the caller got.
"""

import http.client
import logging
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from syncevents.errors import NotUnderstood, Refused
from syncevents.reading.answers import Http
from syncevents.reading.asking import Request, headers, refusal
from syncevents.reading.retrying import CONNECT_WITHIN, Pauses
from syncevents.reading.ssetext import Parser
from syncevents.reading.values import Gap, Note, Received, read_sse

_CHUNK: Final = 1 << 16  # bytes; as much as the daemon sends at once
_EVENT_STREAM: Final = "text/event-stream"
_MOST_OF_AN_ERROR: Final = 4096  # bytes

log = logging.getLogger("syncevents")


class EventStream:
    """Iterates over events and gaps; made by `syncevents.iter_events`.

    Used by one thread; only `close` may be called from another. Entering the `with` block waits until the stream is
    open: what is accepted from then on comes. Without the block it is opened by the first `next`.
    """

    def __init__(
        self,
        request: Request,
        token: str | Callable[[], str | None] | None,
        timeout: float,
        on_open: Callable[[], None] | None,
        on_retry: Callable[[str, float], None] | None,
    ) -> None:
        self._request = request
        self._token = token
        self._timeout = timeout
        self._on_open = on_open
        self._on_retry = on_retry
        self._pauses = Pauses()
        self._position = request.last_event_id
        self._connection: _Connection | None = None
        self._closing = threading.Event()
        self._in_use = threading.Lock()  # held by whoever waits for events

    @property
    def position(self) -> str | None:
        """Where the caller is, for a later `last_event_id`; also a quiet stream moves it on. None before it is open."""
        return self._position

    def close(self) -> None:
        """End the iteration, also one that waits in another thread; a connection that is being opened takes 10 s."""
        self._closing.set()
        connection = self._connection
        if connection is None:
            return
        connection.shut()
        if self._in_use.acquire(blocking=False):  # else whoever waits sees the end, and gives it back
            connection.end()
            self._in_use.release()

    def __enter__(self) -> Self:
        with self._in_use:
            self._opened()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Received | Gap:
        with self._in_use:
            item = self._next()
        if item is None:
            raise StopIteration
        return item

    def _next(self) -> Received | Gap | None:
        while (connection := self._opened()) is not None:
            try:
                item = connection.next()
            except (OSError, http.client.HTTPException) as error:
                self._lost(connection, _reason(error))
                continue
            finally:
                connection.end_unless_usable()
            self._position = item.position
            if not isinstance(item, Note):
                return item
        return None

    def _opened(self) -> "_Connection | None":
        """Return the connection, a new one where there is none; None once the stream is closed."""
        while not self._closing.is_set():
            if self._connection is not None and self._connection.usable:
                return self._connection
            request = self._request.after(self._position, self._request.filter)
            connection = _Connection(request, self._timeout)
            token = self._token() if callable(self._token) else self._token
            self._connection = connection
            try:
                greeting = connection.open(token)
            except (OSError, http.client.HTTPException) as error:
                self._lost(connection, _reason(error))
                continue
            finally:
                connection.end_unless_usable()
            self._position = greeting.position
            if self._on_open is not None:
                self._on_open()
        if self._connection is not None:
            self._connection.end()
        return None

    def _lost(self, connection: "_Connection", reason: str) -> None:
        connection.end()
        if self._closing.is_set():
            return
        pause = self._pauses.after(connection.lasted, random.random())  # noqa: S311 - not for secrets
        if self._on_retry is not None:
            self._on_retry(reason, pause)
        else:
            log.warning("the event stream is lost (%s); trying again in %.1f s", reason, pause)
        self._closing.wait(pause)


def _reason(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _Connection:
    """One answer of the daemon, from its head to its end; `usable` is false once anything went wrong with it."""

    def __init__(self, request: Request, timeout: float) -> None:
        self.usable = False
        self._request = request
        self._timeout = timeout
        self._http = Http(request.address, CONNECT_WITHIN)
        self._response: http.client.HTTPResponse | None = None
        self._parser = Parser()
        self._ready: deque[Received | Gap | Note] = deque()
        self._opened_at: float | None = None

    @property
    def lasted(self) -> float:
        """Seconds since the stream was open; 0 where it never was."""
        return 0.0 if self._opened_at is None else time.monotonic() - self._opened_at

    def open(self, token: str | None) -> Note:
        """Send the request, and return where the stream begins.

        Raises Refused, NotUnderstood, or OSError and HTTPException where another try may help.
        """
        given = {"Accept": _EVENT_STREAM, "Cache-Control": "no-store", **headers(token)}
        self._http.connect()
        # From here on: the daemon may have to look through its log before it answers, for seconds.
        self._http.sock.settimeout(self._timeout)
        self._http.request("GET", self._request.target("sse"), headers=given)
        response = self._http.getresponse()
        if response.status != http.client.OK:
            self._fail(response)
        kind = (response.headers.get("Content-Type") or "").partition(";")[0].strip()
        if kind != _EVENT_STREAM:
            # http.client takes a head that was cut off for a whole one.
            if _EVENT_STREAM.startswith(kind):
                raise ConnectionError("the connection was cut")
            raise NotUnderstood(
                f"{self._request.address} answers with {kind!r}, not an event stream; is the url right?"
            )
        self._response = response
        self.usable = True
        greeting = self.next()
        if not isinstance(greeting, Note):
            raise NotUnderstood(f"{self._request.address} begins its stream with an event; is the url right?")
        self._opened_at = time.monotonic()
        return greeting

    def next(self) -> Received | Gap | Note:
        """Wait for what comes next.

        Raises NotUnderstood, or OSError and HTTPException when the connection is lost. Whatever is raised, also by a
        signal's handler, the connection is not used again: nobody knows how much of it was read.
        """
        self.usable = False
        while not self._ready:
            assert self._response is not None  # noqa: S101 - for the type checker
            chunk = self._response.read1(_CHUNK)
            if not chunk:
                raise ConnectionError("the daemon ended the stream")
            for message in self._parser.feed(chunk):
                self._ready.append(read_sse(message.event, message.data, message.id))
        item = self._ready.popleft()
        self.usable = True
        return item

    def shut(self) -> None:
        """Make whoever waits for it see its end; may be called from any thread."""
        sock = self._http.sock
        if sock is not None:
            with suppress(OSError):  # closed already, which is as good
                sock.shutdown(socket.SHUT_RDWR)

    def end_unless_usable(self) -> None:
        """Give it back where something went wrong with it."""
        if not self.usable:
            self.end()

    def end(self) -> None:
        """Give it back."""
        self.usable = False
        if self._response is not None:
            self._response.close()
        self._http.close()

    def _fail(self, response: http.client.HTTPResponse) -> None:
        answer = refusal(response.status, response.read(_MOST_OF_AN_ERROR), self._request.address)
        if isinstance(answer, Refused):
            raise answer
        raise ConnectionError(answer)
