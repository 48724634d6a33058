"""The client's unacknowledged lines: what is numbered how, and what goes out next.

Rule of this file: state changes only, no socket, no clock, no lock; one thread owns a `Window`.
"""

import uuid
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from attrs import evolve

from syncevents.wire import MAX_FRAME, Ack, Message, ProtocolError, Refusal, Reject, Welcome, encode_hello

BATCH_BYTES: Final = 65536
"""How many bytes are handed to the socket at a time, so that acknowledgements are read in between."""


class Line(NamedTuple):
    """One line: which publish call it came from (counted from 1), and its bytes with the newline."""

    ordinal: int
    data: bytes


def new_producer() -> str:
    """Return a new producer id."""
    return str(uuid.uuid4())


class Window:
    """The lines that are not acknowledged yet, and where this connection stands with them.

    Rules:

    * The lines of a producer are numbered 1, 2, 3, ... The numbers up to `acked` are acknowledged and forgotten.
    * Every connection begins with `hello`, and no line goes out before its welcome. Welcome N: the lines up to N are
      dealt with, those after N were dropped for good by the daemon, so the numbering goes on at N+1.
    * Rejects of lines between `acked` and N follow the welcome. Therefore N counts as acknowledged only from `settle`
      on, or when an ack covers it; an earlier loss of the connection makes the daemon tell them once more.
    * N below `acked`, or above what was sent: the daemon's state was set back or forgotten. The window takes a new
      producer id, numbers its lines from 1, counts the incident, and asks for a new connection.
    * A reject is reported once. A rejected line is never sent again.
    * Where a connection ended in the middle of a line, the daemon may count the fragment as a line of its own (a last
      line needs no newline) and rejects it. Then the welcome names one more line than was sent, and the whole
      line gets the next number.
    """

    def __init__(self, producer: str | None = None, new_producer: Callable[[], str] = new_producer) -> None:
        self._new_producer = new_producer
        self.producer = producer or new_producer()
        self.acked = 0
        self.incidents = 0
        self.max_frame = MAX_FRAME
        self.welcomed = False
        self._handed: deque[Line] = deque()  # numbers acked+1, acked+2, ...: given to this connection
        self._waiting: deque[Line] = deque()  # not yet given to this connection
        self._last = 0  # the newest ordinal that came in
        self._sent = 0  # between connections: the highest number of which the daemon may have the whole line
        self._fragment = False  # the line after `_sent` went out in part
        self._reported: set[int] = set()  # rejected numbers above `acked`
        self._welcome_covers = 0  # the welcome's N until it is settled
        self._batch = b""
        self._written = 0

    @property
    def settled(self) -> int:
        """The newest ordinal up to which everything is dealt with."""
        if self._handed:
            return self._handed[0].ordinal - 1
        return self._waiting[0].ordinal - 1 if self._waiting else self._last

    @property
    def unsettled_welcome(self) -> bool:
        """Whether the welcome covers lines whose rejects may still be on their way."""
        return self._welcome_covers > self.acked

    @property
    def hungry(self) -> bool:
        """Whether new lines would go out at once: welcomed, and nothing is left to send or to resend."""
        return self.welcomed and not self._waiting and self._written == len(self._batch)

    def append(self, ordinal: int, data: bytes) -> Reject | None:
        """Take in the next line, with its newline; a line longer than `max_frame` is rejected instead."""
        self._last = ordinal
        if len(data) - 1 > self.max_frame:
            return _too_large(ordinal, len(data) - 1, self.max_frame)
        self._waiting.append(Line(ordinal, data))
        return None

    def hello(self, client: str) -> None:
        """Begin a connection: the hello is the first thing to send."""
        self._batch = encode_hello(self.producer, client, self.acked)
        self._written = 0

    def to_send(self) -> memoryview:
        """Return what has to be written next; empty when there is nothing, or the welcome is still awaited."""
        if self._written == len(self._batch) and self.welcomed:
            self._load()
        return memoryview(self._batch)[self._written :]

    def wrote(self, count: int) -> None:
        """Note that the socket took the first `count` bytes of `to_send`."""
        self._written += count

    def receive(self, message: Message) -> list[Reject]:
        """Follow one message; return the newly rejected events, `line` being their ordinals.

        Raises `ProtocolError` when the message does not fit: then the connection is of no use any more. After a
        welcome that shows a set-back `welcomed` is still False, and a new connection is needed.
        """
        if isinstance(message, Welcome):
            if self.welcomed or self._written < len(self._batch):
                raise ProtocolError("a welcome that no hello asked for")
            return self._welcome(message)
        if isinstance(message, Refusal):
            raise ProtocolError(f"{message.code}: {message.error}")
        highest = self.acked + len(self._handed)
        if not self.welcomed or message.line > highest:
            raise ProtocolError(f"line {message.line} is answered, but only {highest} lines were sent")
        if isinstance(message, Ack):
            self._forget(message.line)
            return []
        if message.line <= self.acked or message.line in self._reported:
            return []
        self._reported.add(message.line)
        return [evolve(message, line=self._handed[message.line - self.acked - 1].ordinal)]

    def settle(self) -> None:
        """Take the welcome's N for acknowledged: nothing more follows it."""
        self._forget(self._welcome_covers)

    def disconnect(self) -> None:
        """Note that the connection ended; whatever is not acknowledged waits for the next welcome."""
        rest = self._batch[self._written :]
        if self.welcomed:
            self._sent = self.acked + len(self._handed) - rest.count(b"\n")
            in_line = self._written > 0 and self._batch[self._written - 1 : self._written] != b"\n" and rest != b""
            # Only white space is missing: the daemon has the whole line.
            whole = in_line and not rest.partition(b"\n")[0].strip()
            self._sent += whole
            self._fragment = in_line and not whole
        self._waiting.extendleft(reversed(self._handed))
        self._handed.clear()
        self.welcomed = False
        self._welcome_covers = 0
        self._batch = b""
        self._written = 0

    def _welcome(self, welcome: Welcome) -> list[Reject]:
        accepted = welcome.accepted
        self.max_frame = welcome.max_frame
        if self._fragment and accepted == self._sent + 1:
            # The fragment took this number: an empty stand-in holds it, and its reject is not reported.
            index = accepted - self.acked - 1
            self._waiting.insert(index, Line(self._waiting[index].ordinal, b""))
            self._reported.add(accepted)
        elif not self.acked <= accepted <= self._sent:
            self._start_over()
            return []
        dealt_with = accepted - self.acked
        for _ in range(dealt_with):
            self._handed.append(self._waiting.popleft())
        later = self._unreported(self._waiting, accepted)
        self._reported = {number for number in self._reported if number <= accepted}
        self._waiting = deque(line for line in later if len(line.data) - 1 <= self.max_frame)
        self._welcome_covers = accepted
        self.welcomed = True
        return [
            _too_large(line.ordinal, len(line.data) - 1, self.max_frame)
            for line in later
            if len(line.data) - 1 > self.max_frame
        ]

    def _start_over(self) -> None:
        self._waiting = deque(self._unreported(self._waiting, self.acked))
        self.producer = self._new_producer()
        self.incidents += 1
        self.acked = self._sent = 0
        self._fragment = False
        self._reported.clear()

    def _unreported(self, lines: deque[Line], before: int) -> list[Line]:
        """Return the lines, the first of which has the number `before` + 1, without those reported as rejected."""
        if not self._reported:
            return list(lines)
        return [line for number, line in enumerate(lines, before + 1) if number not in self._reported]

    def _load(self) -> None:
        size = 0
        batch = []
        while self._waiting and size < BATCH_BYTES:
            line = self._waiting.popleft()
            self._handed.append(line)
            batch.append(line.data)
            size += len(line.data)
        self._batch = b"".join(batch)
        self._written = 0

    def _forget(self, line: int) -> None:
        for _ in range(line - self.acked):
            self._handed.popleft()
        if line > self.acked:
            self.acked = line
            if self._reported:
                self._reported = {number for number in self._reported if number > line}


def _too_large(ordinal: int, size: int, max_frame: int) -> Reject:
    # The id is the first key of what the library writes, but the line may be anybody's: it is not looked for.
    return Reject(ordinal, None, "frame_too_large", f"the event has {size} bytes, the daemon takes {max_frame}")
