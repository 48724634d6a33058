"""What readers see of an event: the payload as JSON, framed for Server-Sent Events or for WebSocket.

Rule of this file: nothing that a publisher wrote can end a line of the event stream. Names come from the list of event
types, ids are ours, strings are JSON-escaped, and a raw CR (legal white space inside `data`) becomes a space.
"""

from __future__ import annotations

from typing import Final

import msgspec
from attrs import frozen
from msgspec import UNSET

from synceventsd.core.envelope import Envelope
from synceventsd.core.positions import Position

_encode = msgspec.json.encode


@frozen
class Message:
    """Something for a reader that is no event: `connection_established`, `keep-alive`, `gap`."""

    event: str
    position: Position
    fields: dict[str, object]


_CR: Final = 0x0D  # a byte is looked for five times as fast as a text of one byte


def payload(head: Envelope, seq: int) -> bytes:
    """Return the JSON object that readers get for an event, in one line."""
    return _between("", head, seq, "")


def sse_frame(epoch: str, seq: int, head: Envelope) -> bytes:
    """Return an event's frame for the event stream; its id is the position right after it."""
    return _between(f"id: {epoch}-{seq}\nevent: {head.event_type}\ndata: ", head, seq, "\n\n")


def _between(before: str, head: Envelope, seq: int, after: str) -> bytes:
    """Return the payload with a frame around it, in one piece: put around it later it takes twice as long.

    An id is the client's own. A type is of the list and a time is RFC 3339: neither has anything to escape.
    """
    business = "null" if head.business_id is None else head.business_id
    kind = f'"type":"{head.event_type}","integration_id":{head.integration_id},"business_id":{business}'
    return _one_line(
        b"".join(
            (
                f'{before}{{"id":'.encode(),
                _encode(head.id),
                f',{kind},"timestamp":"{head.timestamp}","data":'.encode(),
                head.data,
                b',"metadata":',
                b"{}" if head.metadata is UNSET else head.metadata,
                f',"seq":{seq}}}{after}'.encode(),
            )
        )
    )


def _one_line(text: bytes) -> bytes:
    # A raw CR can only be white space here (JSON forbids it inside strings), but it would end the line of the stream.
    return text.replace(b"\r", b" ") if _CR in text else text


def sse_event(name: str, position: Position, data: bytes) -> bytes:
    """Return one event of the stream; `data` must be a single line."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (str(position).encode(), name.encode(), data)


def sse_retry(seconds: float) -> bytes:
    """Return the line that tells the browser how long to wait before it connects again."""
    return b"retry: %d\n\n" % round(seconds * 1000)


def sse_keep_alive(position: Position) -> bytes:
    """Return the frame that is sent when nothing else was for a while."""
    return sse_event("keep-alive", position, b"ping")


def sse_message(message: Message) -> bytes:
    """Return `connection_established` or `gap` for the event stream."""
    return sse_event(message.event, message.position, _encode(message.fields))


def ws_event(name: str, position: Position, data: bytes) -> str:
    """Return one event as a WebSocket text message."""
    return (b'{"event":%b,"id":%b,"payload":%b}' % (_encode(name), _encode(str(position)), data)).decode()


def ws_message(message: Message) -> str:
    """Return `connection_established`, `keep-alive` or `gap` as a WebSocket text message."""
    return _encode({"event": message.event, "id": str(message.position), **message.fields}).decode()
