"""The same stream over WebSocket: a writer, and a reader that always drains.

The reader is not only for filters: without it, the close of a client that has sent some messages would go unseen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Protocol

import msgspec
import trio
from attrs import frozen
from msgspec import UNSET, Meta, UnsetType

from synceventsd.core import frames
from synceventsd.core.deliveries import Delivery
from synceventsd.core.frames import Message
from synceventsd.hub import Subscription
from synceventsd.web.opening import Opened, gap_message
from synceventsd.web.query import U32_MAX

GOING_AWAY: Final = 1001
POLICY_VIOLATION: Final = 1008


class Socket(Protocol):
    """What this file wants of a WebSocket that is accepted."""

    async def receive(self) -> str | bytes:
        """Return the client's next message."""

    async def send(self, data: str) -> None:
        """Send a text message."""

    async def close(self, code: int, reason: str = "") -> None:
        """Close it."""


class NewFilter(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a client may narrow its stream to; a key that is absent or null lifts that restriction."""

    integration_id: Annotated[int, Meta(ge=0, le=U32_MAX)] | None = None
    event_types: frozenset[str] | None = None
    order_ids: frozenset[str] | None = None


class Command(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A message from a client."""

    filter: NewFilter | UnsetType = UNSET


_decode = msgspec.json.Decoder(Command, strict=True).decode


@frozen
class Refused:
    """A client's message that cannot be used, and why."""

    reason: str


def read_command(text: str | bytes) -> NewFilter | Refused:
    """Read a client's message: `{"filter": {...}}`, and nothing else."""
    if isinstance(text, bytes):
        return Refused("a message must be text")
    try:
        command = _decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Refused(f"not understood: {error}")
    if isinstance(command.filter, UnsetType):
        return Refused('not understood: say {"filter": {...}}')
    return command.filter


def texts(delivery: Delivery) -> list[str]:
    """Return a delivery as messages; a keep-alive when there was nothing."""
    if delivery.gap is not None:
        return [frames.ws_message(gap_message(delivery.gap, delivery.position))]
    if delivery.runs:
        return [text for group, indexes in delivery.runs for text in group.ws(indexes)]
    return [frames.ws_message(Message("keep-alive", delivery.position, {}))]


async def converse(socket: Socket, opened: Opened, keep_alive: float, time_left: Callable[[], float]) -> None:
    """Send the stream until the hub closes or the reader's time is up, and close then.

    Cancelling (the client has gone) leaves the subscription to whoever opened it.

    Args:
        socket: accepted.
        opened: the stream.
        keep_alive: seconds without traffic after which a keep-alive is sent.
        time_left: returns for how many seconds the reader may still read.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_obey, socket.receive, socket.send, opened.subscription)
        for greeting in opened.greetings:
            await socket.send(frames.ws_message(greeting))
        while True:
            left = time_left()
            delivery = await opened.subscription.next(min(keep_alive, left)) if left > 0 else None
            if delivery is None or time_left() <= 0:
                break
            for text in texts(delivery):
                await socket.send(text)
        nursery.cancel_scope.cancel()
    if time_left() <= 0:
        await socket.close(POLICY_VIOLATION, "the token has expired")
    else:
        await socket.close(GOING_AWAY, "the daemon is stopping")


async def _obey(
    receive: Callable[[], Awaitable[str | bytes]], send: Callable[[str], Awaitable[None]], subscription: Subscription
) -> None:
    """Take filters from the client for ever; one that is malformed is answered and changes nothing."""
    while True:
        command = read_command(await receive())
        if isinstance(command, Refused):
            answer = Message("error", subscription.position, {"message": command.reason})
            await send(frames.ws_message(answer))
        else:
            subscription.filter = subscription.filter.narrowed(
                command.integration_id, command.event_types, command.order_ids
            )
