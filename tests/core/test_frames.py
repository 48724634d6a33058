"""Frames are the same bytes whichever way they are made, and nothing in them ends a line of the stream."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from tests.events import line

from synceventsd.core.envelope import decode_envelope
from synceventsd.core.frames import payload, sse_event, sse_frame
from synceventsd.core.positions import Position


@given(st.text(min_size=1), st.none() | st.integers(1, 2**32 - 1), st.text(), st.booleans(), st.integers(1, 2**53))
def test_the_frame_in_one_piece_is_that_of_its_parts(
    event_id: str, business: int | None, note: str, loose: bool, seq: int
) -> None:
    event_id, note = (text.encode("utf-8", "replace").decode() for text in (event_id, note))
    text = line(1, business=business, id=event_id, data={"note": note})
    if loose:
        text = text.replace(b'"data":{', b'"data":\r{\r')  # white space that would end a line of the stream
    head = decode_envelope(text)
    frame = sse_frame("abcdef0123", seq, head)
    assert frame == sse_event(head.event_type, Position("abcdef0123", seq), payload(head, seq))
    assert b"\r" not in frame
    lines = frame.decode().split("\n")
    assert [field.partition(": ")[0] for field in lines] == ["id", "event", "data", "", ""]
    assert json.loads(lines[2].removeprefix("data: "))["data"] == {"note": note}
