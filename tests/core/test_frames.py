"""Frames are the same bytes however many are made together, and nothing in them ends a line of the stream."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from tests.events import line

from synceventsd.core.envelope import Envelope, decode_envelope
from synceventsd.core.frames import beginning_at, payload, single, sse_event, sse_frames
from synceventsd.core.model import Group, Stretch
from synceventsd.core.positions import Position

EPOCH = "abcdef0123"
TEXTS = st.text().map(lambda text: text.encode("utf-8", "replace").decode())
LINES = st.builds(
    lambda event_id, business, note, loose, bare: (
        line(1, business=business, id=event_id or "e", data={"note": note}, metadata={"n": note})
        .replace(b'"data":{', b'"data":\r{\r' if loose else b'"data":{')  # white space that would end the stream's line
        .replace(b',"metadata":{', b',"other":{' if bare else b',"metadata":{')
    ),
    TEXTS,
    st.none() | st.integers(1, 2**32 - 1),
    TEXTS,
    st.booleans(),
    st.booleans(),
)


def expected(head: Envelope, seq: int) -> bytes:
    """The payload by the contract's list of keys, in its order."""
    metadata = json.loads(bytes(head.metadata)) if isinstance(head.metadata, Raw) else {}
    keys = {
        "id": head.id,
        "type": head.event_type,
        "integration_id": head.integration_id,
        "business_id": head.business_id,
        "timestamp": head.timestamp,
        "data": json.loads(bytes(head.data)),
        "metadata": metadata,
        "seq": seq,
    }
    return json.dumps(keys).encode()


@given(st.lists(LINES, min_size=1, max_size=20), st.integers(1, 2**53))
def test_frames_made_together_are_those_of_the_single_events(texts: list[bytes], first: int) -> None:
    heads = list(map(decode_envelope, texts))
    numbers = range(first, first + len(heads))
    together = sse_frames(EPOCH, numbers, heads)
    assert b"\r" not in together
    frames = single(together)
    assert b"".join(frames) == together
    assert frames == [sse_frames(EPOCH, [seq], [head]) for seq, head in zip(numbers, heads, strict=True)]
    for seq, head, frame in zip(numbers, heads, frames, strict=True):
        assert frame == sse_event(head.event_type, Position(EPOCH, seq), payload(frame))
        assert [field.partition(": ")[0] for field in frame.decode().split("\n")] == ["id", "event", "data", "", ""]
        assert list(json.loads(payload(frame))) == list(json.loads(expected(head, seq)))
        assert json.loads(payload(frame)) == json.loads(expected(head, seq))
        assert beginning_at(together, Position(EPOCH, seq)) == b"".join(frames[seq - first :])


@given(st.lists(LINES, min_size=1, max_size=30), st.integers(1, 2**53), st.data())
def test_a_group_cut_into_stretches_gives_the_frames_of_its_single_events(
    texts: list[bytes], first: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synceventsd.core.model.STRETCH_BYTES", data.draw(st.integers(1, 2000)))
        group = Group(first, EPOCH, 0.0, texts)
        for start in data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=4)):
            stretches = group.stretches(None, first + start - 1)
            assert [one.size for one in stretches] == [sum(len(texts[index]) for index in one) for one in stretches]
            assert [index for stretch in stretches for index in stretch] == list(range(start, len(texts)))
            text = b"".join(map(group.sse, stretches))
            assert text == b"".join(Group(first, EPOCH, 0.0, texts).frames(range(start, len(texts))))
            assert text == group.sse(Stretch(list(range(start, len(texts))), 0))
