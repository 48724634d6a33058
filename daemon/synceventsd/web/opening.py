"""How a stream begins, the same for Server-Sent Events and WebSocket: a place, a position, the first messages."""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from datetime import UTC, datetime

from attrs import frozen

from synceventsd.core.deliveries import Gap
from synceventsd.core.frames import Message
from synceventsd.core.positions import Position
from synceventsd.hub import Hub, Subscription
from synceventsd.web.query import StreamQuery


class StoppingError(Exception):
    """The daemon ends its streams; a new one would end at once."""


@frozen
class Opened:
    """A stream whose position is fixed: whatever is accepted from now on comes out of `subscription`.

    `greetings` come first: `connection_established`, and `gap` where the reader cannot go on where it was.
    """

    subscription: Subscription
    greetings: tuple[Message, ...]


async def open_stream(hub: Hub, query: StreamQuery, on_close: ExitStack) -> Opened:
    """Open a stream; `on_close` gives its place back.

    Raises:
        StoppingError: the daemon stops.
        TooManyStreams: there is no place.
        StorageUnavailable, LogDamaged: the log cannot be read now.
    """
    if hub.closing:
        raise StoppingError("the daemon is stopping")
    # The place first: finding the position may mean reading the log, and who finds no place must not cost that.
    subscription = on_close.enter_context(hub.subscribe(query.filter, hub.log.last))
    start = await hub.locate(query.filter, query.last_event_id, query.replay)
    if start is None:
        raise StoppingError("the daemon is stopping")
    subscription.after = start.after
    greetings = [_established(subscription.position)]
    if start.gap is not None:
        greetings.append(gap_message(start.gap, subscription.position))
    return Opened(subscription, tuple(greetings))


def gap_message(gap: Gap, position: Position) -> Message:
    """Return what tells a reader that it missed events."""
    return Message("gap", position, {"reason": gap.reason.value, "resumes_at_seq": gap.resumes_at})


def _established(position: Position) -> Message:
    fields: dict[str, object] = {
        "message": "connected; events follow",
        "connection_id": str(uuid.uuid4()),
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    return Message("connection_established", position, fields)
