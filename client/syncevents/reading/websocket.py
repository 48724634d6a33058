"""The reader for trio: WebSocket, in a task beside the caller's block.

Rule of this file: one task owns the connection and reconnects. It hands each message over only when the caller takes
it, and resumes right behind what was taken. So a slow caller slows the daemon's sending down and costs no memory, and
nothing is lost or doubled, whatever is cut or cancelled.
"""

import inspect
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, NoReturn, Self, cast

import trio
from attrs import define, field, frozen
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream
from wsproto.utilities import ProtocolError

from syncevents.errors import Refused, SyncEventsError
from syncevents.reading.asking import Address, Filter, Request, headers, make_filter, refusal
from syncevents.reading.retrying import CONNECT_WITHIN, Pauses
from syncevents.reading.ssetext import MAX_LINE
from syncevents.reading.values import Gap, Note, Received, read_ws

Item = Received | Gap | Note
Token = str | Callable[[], str | Awaitable[str | None] | None] | None

_RECEIVE_BYTES: Final = 1 << 16

log = logging.getLogger("syncevents")


@frozen
class Manners:
    """How a feed behaves; the arguments of `syncevents.watch`."""

    token: Token
    timeout: float
    on_open: Callable[[], None] | None
    on_retry: Callable[[str, float], None] | None


@define(eq=False)
class _Shared:
    """What the caller's side and the task tell each other: the filter goes one way, all else the other."""

    filter: Filter
    changed: trio.Event = field(factory=trio.Event)
    opened: trio.Event = field(factory=trio.Event)
    ended_by: SyncEventsError | None = None


class Feed:
    """Iterates over events and gaps; made by `syncevents.watch`. One task at a time may iterate.

    Being cancelled while waiting for the next item loses nothing: the item comes with the next try.
    """

    def __init__(self, receive: "trio.MemoryReceiveChannel[Item]", shared: _Shared, position: str | None) -> None:
        self._receive = receive
        self._shared = shared
        self._position = position

    @property
    def position(self) -> str | None:
        """Where the caller is, for a later `last_event_id`; also a quiet stream moves it on while one iterates."""
        return self._position

    async def set_filter(
        self,
        *,
        integration_id: int | None = None,
        event_types: Iterable[str] | None = None,
        order_ids: Iterable[str] | None = None,
    ) -> None:
        """Read other events of the same business from now on; an argument left out lifts that restriction.

        It holds from the next event on that the daemon sends once it has got this, and after every reconnect; what was
        under way before still comes. Raises TypeError or ValueError as `syncevents.watch` does.
        """
        self._shared.filter = make_filter(integration_id, event_types, order_ids)
        self._shared.changed.set()
        await trio.lowlevel.checkpoint()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received | Gap:
        while True:
            try:
                item = await self._receive.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                raise (self._shared.ended_by or StopAsyncIteration) from None
            self._position = item.position
            if not isinstance(item, Note):
                return item


class _Lost(Exception):
    """The connection is gone; another one may help."""


@asynccontextmanager
async def open_feed(request: Request, manners: Manners) -> AsyncIterator[Feed]:
    """Read in a task for as long as the block lasts; the block begins when the stream is open for the first time.

    The block's own error leaves as it is, not in a group.
    """
    send, receive = trio.open_memory_channel[Item](0)
    shared = _Shared(request.filter)
    raised: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read_for_ever, request, manners, shared, send)
        try:
            await _wait_open(shared)
            yield Feed(receive, shared, request.last_event_id)
        except BaseException as error:  # noqa: BLE001 - raised again below, where no group takes it in; also Cancelled
            raised = error
        receive.close()
        nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised


async def _wait_open(shared: _Shared) -> None:
    await shared.opened.wait()
    if shared.ended_by is not None:
        raise shared.ended_by


async def _read_for_ever(
    request: Request, manners: Manners, shared: _Shared, send: "trio.MemorySendChannel[Item]"
) -> None:
    """Read one connection after the other, until the daemon refuses or is not understood."""
    pauses = Pauses()
    taken = _Taken(request.last_event_id)
    async with send:
        while True:
            began = trio.current_time()
            try:
                await _read_once(request, manners, shared, send, taken)
            except SyncEventsError as error:
                shared.ended_by = error
                shared.opened.set()
                return
            except _Lost as lost:
                reason = str(lost)
            pause = pauses.after(trio.current_time() - began, random.random())  # noqa: S311 - not for secrets
            if manners.on_retry is not None:
                manners.on_retry(reason, pause)
            else:
                log.warning("the event stream is lost (%s); trying again in %.1f s", reason, pause)
            await trio.sleep(pause)


@define(eq=False)
class _Taken:
    """Up to where the caller has taken everything."""

    position: str | None


async def _read_once(
    request: Request, manners: Manners, shared: _Shared, send: "trio.MemorySendChannel[Item]", taken: _Taken
) -> NoReturn:
    """Read one connection to its end; raises _Lost, Refused or NotUnderstood."""
    token = await _fresh(manners.token)
    filter_ = shared.filter
    asked = request.after(taken.position, filter_)
    ends: list[BaseException] = []
    async with await _connect(request.address) as stream:
        try:
            async with trio.open_nursery() as nursery:
                socket = await _shake_hands(nursery, stream, asked, token, manners.timeout)
                nursery.start_soon(_keep_filter, socket, filter_, shared)
                await _take_all(socket, manners, shared, send, taken)
        except* (_Lost, SyncEventsError, ConnectionRejected, ProtocolError) as group:
            ends = list(group.exceptions)
    raise _end_of(ends, request.address)


def _end_of(ends: list[BaseException], address: Address) -> Exception:
    """Return what a connection's end means; it may have ended in several places at once."""
    for end in ends:
        if isinstance(end, ConnectionRejected):
            answer = refusal(end.status_code, end.body or b"", address)
            return answer if isinstance(answer, Refused) else _Lost(answer)
    for end in ends:
        if isinstance(end, SyncEventsError | _Lost):
            return end
    return _Lost(f"{address}: no WebSocket: {ends[0]}")


async def _fresh(token: Token) -> str | None:
    """Return the token for the next connection."""
    if not callable(token):
        return token
    made = token()
    return await made if inspect.isawaitable(made) else made


async def _connect(address: Address) -> trio.SocketStream:
    try:
        with trio.fail_after(CONNECT_WITHIN):
            if address.unix_path is not None:
                return await trio.open_unix_socket(address.unix_path)
            return await trio.open_tcp_stream(address.host, address.port)
    except trio.TooSlowError:
        raise _Lost(f"{address}: no connection within {CONNECT_WITHIN:g} s") from None
    except OSError as error:
        raise _Lost(f"{address}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    """Return why connecting failed; trio has an error for each address that a name stands for."""
    causes = getattr(error.__cause__, "exceptions", (error,))
    return str(causes[0].strerror or causes[0])


@define(eq=False)
class _Ending(trio.abc.ReceiveStream):
    """The receiving half of a stream, which tells when it is at its end: trio-websocket waits on for its handshake."""

    _stream: trio.SocketStream
    ended: trio.Event = field(factory=trio.Event)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive as the stream does."""
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            self.ended.set()
            raise
        if not data:
            self.ended.set()
        return data

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()


async def _shake_hands(
    nursery: trio.Nursery, stream: trio.SocketStream, asked: Request, token: str | None, patience: float
) -> WebSocketConnection:
    """Open the WebSocket; the daemon may have to look through its log before it answers, for seconds."""
    extra = [(name.encode(), value.encode()) for name, value in headers(token).items()]
    ending = _Ending(stream)
    with trio.move_on_after(patience) as scope:
        nursery.start_soon(_cancel_at, ending.ended, scope)
        return await wrap_client_stream(
            nursery,
            cast("trio.SocketStream", trio.StapledStream(stream, ending)),  # it sends, receives and closes, no more
            asked.address.authority,
            asked.target("ws"),
            extra_headers=extra,
            max_message_size=MAX_LINE,
            receive_buffer_size=_RECEIVE_BYTES,
        )
    why = "the connection was closed unanswered" if ending.ended.is_set() else f"no answer within {patience:g} s"
    raise _Lost(f"{asked.address}: {why}")


async def _cancel_at(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _take_all(
    socket: WebSocketConnection, manners: Manners, shared: _Shared, send: "trio.MemorySendChannel[Item]", taken: _Taken
) -> NoReturn:
    """Hand over what comes; raises _Lost or NotUnderstood at the end."""
    greeting = read_ws(await _next_message(socket, manners.timeout))
    taken.position = greeting.position
    if manners.on_open is not None:
        manners.on_open()
    shared.opened.set()
    while True:
        item = read_ws(await _next_message(socket, manners.timeout))
        if isinstance(item, Note) and item.trouble:
            log.warning("the daemon complains: %s", item.trouble)
        await send.send(item)
        taken.position = item.position


async def _next_message(socket: WebSocketConnection, patience: float) -> str | bytes:
    with trio.move_on_after(patience):
        try:
            return await socket.get_message()
        except ConnectionClosed as closed:
            why = closed.reason.reason if closed.reason is not None else None
            raise _Lost(why or "the connection was cut") from None
    raise _Lost(f"not even a keep-alive came for {patience:g} s")


async def _keep_filter(socket: WebSocketConnection, sent: Filter, shared: _Shared) -> None:
    """Tell the daemon of the newest filter whenever it is not the one it has; ends with the connection."""
    while True:
        if shared.filter != sent:
            sent = shared.filter
            try:
                await socket.send_message(sent.command)
            except ConnectionClosed:
                return  # the next connection begins with it
        else:
            shared.changed = trio.Event()
            await shared.changed.wait()
