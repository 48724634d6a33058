"""One publisher's connection: what is known of it, how far its lines are dealt with, and what it has still to be told.

Rule of this file: an acknowledgement is a level, not a message. Whoever moves it waits for nobody; one task tells the
newest level.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import trio
from attrs import define, field

from syncevents import wire
from syncevents._version import __version__
from synceventsd.admission import Peer, Refusal
from synceventsd.core.ahead import Ahead
from synceventsd.core.envelope import BUFFER_FULL
from synceventsd.core.permissions import Permit
from synceventsd.eventlog import Lot, ProducerState, Rejected, RejectRow

# Found but not yet sent. A publisher that sends rubbish and does not read why is not read on from here; a reject takes
# up to 5 KB, and each of a thousand publishers may be such a one.
MAX_UNSENT_REJECTS: Final = 250

# How many rejects are put into words before the others have a turn (2 ms): a welcome may be followed by 20,000.
REJECTS_AT_ONCE: Final = 250

# How long nothing is told to a publisher that goes on sending, after an ack (seconds): to send and to take one for each
# commit was a tenth of the daemon's processor time at 5,000 events/s, and of the client's.
ACK_REST: Final = 0.003
SMALL_WINDOW: Final = 4  # lines; who has no more than that under way may be waiting for the ack

STOP_FAREWELL: Final = 1.0  # seconds for a publisher to take its last acks when the daemon stops


@define(eq=False)
class Connection:
    """One publisher's connection: what is known of it, how far its lines are dealt with, what must still be told."""

    stream: trio.SocketStream
    ahead: Ahead
    peer: Peer
    permit: Permit | None = None
    producer: str | None = None
    client: str = ""
    numbered: int = 0  # lines handed in, as the producer counts them
    dealt: int = 0
    refusal: Refusal | None = None
    done: bool = False
    reading: trio.CancelScope = field(factory=trio.CancelScope)
    opened: bool = False  # its first line has come, and was answered if it is a hello
    _unsettled_rejects: int = 0
    _rejects: deque[Rejected] = field(factory=deque)
    _again: deque[RejectRow] = field(factory=deque)  # rejects of earlier connections, to be told once more
    _greeting: bytes = b""
    _told_level: int = 0
    farewell: trio.CancelScope | None = None
    _told: trio.Event = field(factory=trio.Event)
    _told_all: trio.Event = field(factory=trio.Event)
    _moved: trio.Event = field(factory=trio.Event)

    @property
    def uid(self) -> int:
        """Return the user at the other end."""
        return self.peer.uid

    def settled(self, upto: int, rejects: Sequence[Rejected]) -> None:
        """Learn from the committer that all lines up to `upto` are dealt with."""
        self.dealt = upto
        self._rejects.extend(rejects)
        # What the committer rejects by itself, because the buffer is full, was not counted when it was handed in.
        self._unsettled_rejects -= sum(reject.fault.code != BUFFER_FULL for reject in rejects)
        self._moved.set()

    def handed_in(self, lot: Lot) -> None:
        """Note what the committer has got now."""
        self.numbered = lot.upto
        self._unsettled_rejects += len(lot.rejects)

    def welcome(self, state: ProducerState, max_frame: int) -> None:
        """Go on where the producer's lines are dealt with, say so, and tell its rejects again."""
        self.numbered = self.dealt = self._told_level = state.accepted
        self._greeting = wire.encode_welcome(f"synceventsd/{__version__}", state.accepted, max_frame)
        self._again.extend(state.rejects)
        self._moved.set()

    def answer(self, text: bytes) -> None:
        """Tell an operator what became of the request, and read no more."""
        self._greeting = text
        self._moved.set()
        self.reading.cancel()

    def refuse(self, refusal: Refusal) -> None:
        """Read no more; what was handed in is still dealt with and told before the refusal. The first one counts."""
        self.refusal = self.refusal or refusal
        self.reading.cancel()

    def finish(self) -> None:
        """Nothing more will be settled: tell what is left, then end."""
        self.done = True
        self._moved.set()

    def hurry(self) -> None:
        """The daemon stops: a publisher that does not read has little time left."""
        if self.farewell is not None:
            self.farewell.deadline = min(self.farewell.deadline, trio.current_time() + STOP_FAREWELL)

    async def wait_told_all(self) -> None:
        """Wait until the publisher has taken everything."""
        await self._told_all.wait()

    @property
    def is_told(self) -> bool:
        """Whether the publisher has taken enough of its rejects for more to be read."""
        return len(self._again) + len(self._rejects) + self._unsettled_rejects <= MAX_UNSENT_REJECTS

    async def wait_told(self) -> None:
        """Wait until the publisher has taken enough of its rejects."""
        while not self.is_told:
            await self._told.wait()

    async def tell_levels(self) -> None:
        """Tell the welcome, rejects and the newest level, until the end. Cancelled, it leaves a line half sent."""
        while True:
            self._moved = trio.Event()
            done = self.done
            text = self._untold()
            if text:
                await self.stream.send_all(text)
                if self._is_busy and not done:
                    await trio.sleep(ACK_REST)
            elif done:
                self._told_all.set()
                return
            else:
                await self._moved.wait()

    @property
    def _is_busy(self) -> bool:
        """Whether the publisher has the next ack coming anyway; one that waits for each does not."""
        return self.numbered > self._told_level + SMALL_WINDOW and not self._rejects and not self._again

    def _untold(self) -> bytes:
        parts = [self._greeting]
        while self._again and len(parts) <= REJECTS_AT_ONCE:
            row = self._again.popleft()
            parts.append(wire.encode_reject(row.line, row.event_id, row.code, row.error))
        while self._rejects and len(parts) <= REJECTS_AT_ONCE:
            line, fault = self._rejects[0].line, self._rejects.popleft().fault
            parts.append(wire.encode_reject(line, fault.event_id, fault.code, fault.error))
        # A reject comes before the ack that covers it.
        level = 0 if self._again else self._rejects[0].line - 1 if self._rejects else self.dealt
        if level > self._told_level:
            parts.append(wire.encode_ack(level))
            self._told_level = level
        self._greeting = b""
        self._told.set()
        self._told = trio.Event()
        return b"".join(parts)
