"""Intake: publishers' connections on the Unix socket, from their lines to the committer and back to their acks.

Rule of this file: a connection's reader hands in and never waits for acks to be read; a task of its own tells them
(`publisher`), so a publisher that does not read stalls nobody.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from math import inf
from typing import Final

import trio
from attrs import define, field, frozen

from syncevents import wire
from synceventsd import admin
from synceventsd.admission import Admission, Peer, Refusal, peer_of
from synceventsd.config.settings import IngestConfig
from synceventsd.core.ahead import Ahead
from synceventsd.core.envelope import KNOWN_TYPES, Envelope, Fault, Stamp
from synceventsd.core.errors import RetryRefused, StorageUnavailable
from synceventsd.core.ledger import Incident
from synceventsd.core.linecheck import plain_heads, read_event
from synceventsd.eventlog import EventLog, Lot, Rejected, without
from synceventsd.logs import get_logger
from synceventsd.publisher import STOP_FAREWELL, Connection

log = get_logger("intake")

RECEIVE_BYTES: Final = 256 * 1024  # a stream's kernel buffer holds 208 KiB: one call takes all that is there

# How many lines of one connection are checked before the others have a turn: 0.5 ms of orders, 5 ms of the worst. Of
# several connections each has a share: else eight of them would have 2,000 checked for every 500 that the forwarder
# sends, and it would fall back behind what is kept in memory and read from the disk, a fifth of the throughput.
LINES_AT_ONCE: Final = 250
MOST_SHARES: Final = 8  # of which many may be idle

# Lines that are looked at together where one among them is odd, so that it costs few others; and after how many such
# lots in a row each line is looked at by itself, because all of them are odd.
FEW_LINES: Final = 10
MOST_ODD: Final = 2

FAREWELL: Final = 30.0  # seconds for a publisher that has ended its input to take its last acks
LINGER: Final = 1.0  # seconds in which input is thrown away, so that a last error is not cut off by a reset

# How many refused connections linger at a time. A storm of them must not use up the descriptors: the others are closed
# at once, and a client in the middle of a write may meet the reset before the error.
MAX_LINGERING: Final = 64


@frozen
class IntakeStatistics:
    """A snapshot: connections now, and since the start: connections, lines refused by code, refusals by code.

    `waited` is how long lines were made to wait for `ingest.max_rate`, by user, in seconds.
    """

    clients: int
    connections: int
    rejected: dict[str, int]
    refused: dict[str, int]
    waited: dict[int, float]


@define(eq=False)
class Intake:
    """All publishers' connections; owns who is connected and which connection speaks for which producer."""

    _log: EventLog
    _config: IngestConfig
    event_types: frozenset[str] = field(init=False)
    _admission: Admission = field(init=False)
    _connections: set[Connection] = field(factory=set, init=False)
    _producers: dict[str, Connection] = field(factory=dict, init=False)
    _stopping: bool = field(default=False, init=False)
    _lingering: int = field(default=0, init=False)
    _opened: int = field(default=0, init=False)
    _rejected: dict[str, int] = field(factory=dict, init=False)
    _refused: dict[str, int] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.event_types = KNOWN_TYPES | frozenset(self._config.extra_types)
        self._admission = Admission(self._config)

    def statistics(self) -> IntakeStatistics:
        """Return a snapshot."""
        waited = {uid: milliseconds / 1000 for uid, milliseconds in self._admission.waited.items()}
        return IntakeStatistics(
            self._admission.connected, self._opened, dict(self._rejected), dict(self._refused), waited
        )

    async def serve(
        self,
        listener: socket.socket,
        stop: trio.Event,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept publishers until `stop`; then read no more, settle and tell what was read, and return.

        The caller bounds the end with a deadline: cancelled, it leaves lines unacknowledged, which their publishers
        send again.
        """
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(
                    partial(trio.serve_listeners, self._guarded, listeners, handler_nursery=connections)
                )
                task_status.started()
                await stop.wait()
                accepting.cancel_scope.cancel()
            self._stopping = True
            for connection in self._connections:
                connection.reading.cancel()
                connection.hurry()

    async def _guarded(self, stream: trio.SocketStream) -> None:
        """Keep one connection's failure from the others."""
        try:
            async with stream:
                await self._handle(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, StorageUnavailable):
            pass  # gone; what it was not told, it will be told when it comes back
        except* Exception:
            log.exception("connection.failed")

    async def _handle(self, stream: trio.SocketStream) -> None:
        peer = peer_of(stream.socket)
        self._opened += 1
        refusal = self._admission.refusal(peer)
        if refusal is not None:
            await self._say_goodbye(stream, peer, refusal)
            return
        ahead = Ahead(wire.LineSplitter(self._config.max_frame))
        connection = Connection(stream, ahead, peer, self._admission.permit(peer))
        self._admission.enter(peer)
        self._connections.add(connection)
        if self._stopping:  # accepted just before the end
            connection.reading.cancel()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.tell_levels)
                with connection.reading:
                    await self._read(connection)
                if connection.opened:
                    await self._hand_in_ahead(connection, STOP_FAREWELL)  # read before a stop, so it is stored
                await self._log.committer.wait_settled(connection)
                connection.finish()
                with trio.CancelScope(deadline=trio.current_time() + FAREWELL) as connection.farewell:
                    if self._stopping:
                        connection.hurry()
                    await connection.wait_told_all()
                nursery.cancel_scope.cancel()
        finally:
            self._admission.leave(peer)
            self._connections.discard(connection)
            if connection.producer is not None and self._producers.get(connection.producer) is connection:
                del self._producers[connection.producer]
                self._log.committer.leave(connection.producer)
        if connection.refusal is not None:
            await self._say_goodbye(stream, peer, connection.refusal)

    async def _read(self, connection: Connection) -> None:
        """Read lines and hand them in, until the end of input, a refusal, or the end of the daemon."""
        ahead = connection.ahead
        while True:
            await self._log.committer.wait_room()
            try:
                data = await connection.stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError:
                return  # reset: whatever came of a last line is torn
            if data:
                ahead.feed(data)
            else:
                ahead.end(partial(self._counts, connection))
            if not connection.opened:
                await self._open(connection)
            await self._hand_in_ahead(connection)
            if ahead.too_large:
                most = self._config.max_frame
                error = f"a line is longer than {most} bytes (ingest.max_frame = {most}): send less in one event"
                connection.refuse(Refusal("frame_too_large", error))
            if not data or connection.refusal is not None:
                return

    def _counts(self, connection: Connection, line: bytes) -> bool:
        """Return whether the line that the input ended in counts.

        A numbered producer that is cut off in the middle of a line sends it again under the same number; were the torn
        half counted as a rejected line, the whole one would be taken for dealt with.
        """
        return connection.producer is None or not is_torn(read_event(line, self.event_types, make_stamp))

    async def _open(self, connection: Connection) -> None:
        """Take the first line, if it is there. Cancelled, the connection is not open, and nothing after it counts."""
        first = connection.ahead.take(1)
        if first and wire.is_hello(first[0]):
            await self._greet(connection, first[0])
            connection.opened = True
        elif first and wire.is_admin(first[0]):
            await self._administer(connection, first[0])
        else:
            self._hand_in(connection, first)
            connection.opened = bool(first)
            await self._slow_down(connection, len(first))

    async def _hand_in_ahead(self, connection: Connection, patience: float = inf) -> None:
        """Hand in what was read; give up when the publisher has taken none of its rejects for `patience` seconds.

        Cancelling leaves the rest where it is.
        """
        at_once = self._admission.lines_at_once(LINES_AT_ONCE)
        since_turn = 0
        while connection.refusal is None:
            await self._log.committer.wait_room()  # just before: the others that waited for it fill it too
            lines = connection.ahead.take(at_once)
            if not lines:
                return
            self._hand_in(connection, lines)
            await self._slow_down(connection, len(lines))
            since_turn += len(lines)
            if since_turn >= LINES_AT_ONCE // min(len(self._connections), MOST_SHARES):
                since_turn = 0
                await self._log.give_way()
            if not connection.is_told:
                with trio.move_on_after(patience) as waiting:
                    await connection.wait_told()
                if waiting.cancelled_caught:
                    return

    async def _slow_down(self, connection: Connection, lines: int) -> None:
        """Wait until so many lines are paid for; what was read before a stop waits for nothing."""
        if self._config.max_rate and not connection.reading.cancel_called:
            await self._admission.slow_down(connection.peer, lines)

    async def _greet(self, connection: Connection, line: bytes) -> None:
        """Answer a hello. Every older connection of the producer has been settled or dropped before the welcome."""
        try:
            hello = wire.parse_hello(line)
        except wire.BadHello as error:
            connection.refuse(Refusal(error.code, str(error)))
            return
        state = await self._log.producer(hello.producer, wire.MAX_NUMBER)  # whose it is; its rejects come below
        older = self._producers.get(hello.producer)
        owner = state.uid if older is None else older.uid
        if owner is not None and owner != connection.uid:
            connection.refuse(Refusal("forbidden", "this producer belongs to another user"))
            return
        connection.producer, connection.client = hello.producer, hello.client
        self._producers[hello.producer] = connection
        if older is not None:
            older.refuse(Refusal("producer_in_use", "a newer connection of this producer took over"))
        await self._log.committer.withdraw(hello.producer)
        state = await self._log.producer(hello.producer, hello.acked)
        self._log.committer.greet(hello.producer, hello.acked)
        connection.welcome(state, self._config.max_frame)

    async def _administer(self, connection: Connection, line: bytes) -> None:
        """Do what an operator asks for; the connection never opens, so nothing that follows in it counts."""
        try:
            connection.answer(await admin.obey(line, connection.uid, self._log))
        except (admin.Forbidden, wire.BadAdminRequest, RetryRefused) as error:
            connection.refuse(Refusal(error.code, str(error)))
        await trio.lowlevel.checkpoint()  # ends here: either has cancelled the reading

    def _hand_in(self, connection: Connection, lines: list[bytes]) -> None:
        """Check the lines and give them to the committer, all in one step."""
        if not lines or connection.refusal is not None:  # superseded: its lines are somebody else's to send now
            return
        first = connection.numbered + 1
        heads = plain_heads(lines, self.event_types)
        if heads is not None:  # nearly always
            lot = Lot(connection, first, first + len(lines) - 1, lines, heads, [], sum(map(len, lines)))
        else:
            lot = self._checked(connection, first, lines)
        if connection.permit is not None:
            lot = without(lot, connection.permit.forbidden(lot.heads))
        for reject in lot.rejects:
            self._rejected[reject.fault.code] = self._rejected.get(reject.fault.code, 0) + 1
        if lot.upto >= lot.first:
            connection.handed_in(lot)
            self._log.committer.hand_in(lot)

    def _checked(self, connection: Connection, first: int, lines: list[bytes]) -> Lot:
        """Return what becomes of lines among which one is odd, up to a hello, which ends the connection."""
        lot = Lot(connection, first, first - 1, [], [], [], 0)
        odd = 0
        for start in range(0, len(lines), FEW_LINES):
            few = lines[start : start + FEW_LINES]
            heads = plain_heads(few, self.event_types) if odd < MOST_ODD else None
            if heads is None:
                odd += 1
                self._look_closely(connection, lot, few)
                if connection.refusal is not None:
                    break
            else:
                odd = 0
                lot.lines += few
                lot.heads += heads
                lot.size += sum(map(len, few))
                lot.upto += len(few)
        return lot

    def _look_closely(self, connection: Connection, lot: Lot, lines: Sequence[bytes]) -> None:
        """Add what becomes of each line by itself, up to a hello."""
        for line in lines:
            found = read_event(line, self.event_types, make_stamp)
            if isinstance(found, Fault):
                if wire.is_hello(line):
                    connection.refuse(Refusal("bad_hello", "a hello may only be the first line of a connection"))
                    return
                lot.rejects.append(Rejected(lot.upto + 1, found))
            else:
                lot.lines.append(found[0])
                lot.heads.append(found[1])
                lot.size += len(found[0])
            lot.upto += 1

    async def _say_goodbye(self, stream: trio.SocketStream, peer: Peer, refusal: Refusal) -> None:
        """Tell why the connection ends, then close it so that the telling arrives."""
        self._refused[refusal.code] = self._refused.get(refusal.code, 0) + 1
        incident = Incident(f"connection_{refusal.code}", 1, peer.uid, detail=refusal.error)
        # A takeover costs nobody anything. What does is told when it begins, not once a connection.
        if refusal.code == "producer_in_use" or self._log.note(incident):
            log.info("connection.refused", code=refusal.code, reason=refusal.error, uid=peer.uid)
        with trio.move_on_after(LINGER):
            await stream.send_all(wire.encode_error(refusal.code, refusal.error))
            await stream.send_eof()
            if self._lingering < MAX_LINGERING:
                await self._linger(stream)

    async def _linger(self, stream: trio.SocketStream) -> None:
        self._lingering += 1
        try:
            while await stream.receive_some(RECEIVE_BYTES):
                pass
        finally:
            self._lingering -= 1


def is_torn(found: tuple[bytes, Envelope] | Fault) -> bool:
    """Return whether a last line may be half of one: half of a JSON object is no JSON."""
    return isinstance(found, Fault) and found.code == "invalid_json"


def make_stamp() -> Stamp:
    """Return an id and the time for an event whose client gave none."""
    return Stamp(str(uuid.uuid4()), datetime.now(UTC).isoformat())
