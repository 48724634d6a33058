"""What no publisher should send: frames made from valid ones by mutation, and bytes that never were one.

Everything comes from one seeded generator, so a run can be repeated.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from typing import Any

from attrs import define

from syncevents import wire
from syncevents.events import EVENT_TYPES

# Values that have broken decoders before, as JSON text.
VALUES = [
    b"null", b"true", b"0", b"-1", b"4294967295", b"4294967296", b"1e999", b"-0.0", b"0.1e-400", b"NaN", b"-Infinity",
    b"01", b"1.", b"1" * 5000, b"'a'", b"/**/1", b'""', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\x00"',
    b'"\\x"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xe2\x80\xa8"', b'"2026-02-30T00:00:00Z"',
    b"[]", b"{}", b'{"a":1,"a":2}', b"[" * 300 + b"]" * 300, b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'"' + b"x" * 70_000 + b'"',
]  # fmt: skip
TOKENS = [b"\0", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\xff", b" "]
KEYS = [
    "id",
    "event_type",
    "integration_id",
    "business_id",
    "timestamp",
    "data",
    "metadata",
    "Event_Type",
    "hello",
    "x",
]
HELLO_VALUES: list[Any] = [None, 0, 1, 2, -1, 2**63, 2**70, True, "", "x" * 5000, "\ud800", [], {}, 1.5]


@define
class BadFrames:
    """An endless supply of frames, each without its newline."""

    dice: random.Random

    def frame(self, *, hellos: bool = True) -> bytes:
        """Return one frame; about one in eight is valid. A hello that is not the first line ends a connection."""
        kinds: list[Callable[[], bytes]] = [
            self.envelope, self.with_bad_value, self.with_bad_value, self.damaged, self.damaged, self.damaged,
            self.hello if hellos else self.envelope, self.random_bytes, self.in_another_encoding,
        ]  # fmt: skip
        return self.dice.choice(kinds)()

    def envelope(self) -> bytes:
        """Return a valid envelope."""
        return b"{" + b",".join(b'"%b":%b' % pair for pair in self._pairs()) + b"}"

    def hello(self) -> bytes:
        """Return a hello that may be valid, or wrong in one place."""
        fields: dict[str, Any] = {"v": 1, "producer": str(uuid.UUID(int=self.dice.getrandbits(128))), "acked": 0}
        if self.dice.random() < 0.8:
            fields[self.dice.choice(["v", "producer", "client", "acked", "more"])] = self.dice.choice(HELLO_VALUES)
        return json.dumps({"hello": self.dice.choice([fields, fields, fields, None, []])}).encode()

    def with_bad_value(self) -> bytes:
        """Return an envelope with a value that is none, or twice the same key, or with a key too many."""
        pairs = self._pairs()
        place = self.dice.randrange(len(pairs))
        if self.dice.random() < 0.6:
            pairs[place] = (pairs[place][0], self.dice.choice(VALUES))
        else:
            pairs.insert(place, (self.dice.choice(KEYS).encode(), self.dice.choice([b"1", *VALUES])))
        return b"{" + b",".join(b'"%b":%b' % pair for pair in pairs) + b"}"

    def damaged(self) -> bytes:
        """Return a frame with bytes changed, cut out, put in or doubled."""
        text = bytearray(self.envelope())
        for _ in range(self.dice.choice([1, 1, 1, 2, 5, 40])):
            at = self.dice.randrange(len(text) + 1)
            end = min(len(text), at + self.dice.choice([0, 1, 1, 4, 60]))
            text[at:end] = self.dice.choice(
                [b"", self.dice.choice(TOKENS), self.dice.randbytes(2), bytes(text[at:end]) * 2]
            )
        return bytes(text)

    def random_bytes(self) -> bytes:
        """Return bytes of any length, seldom as many as a frame may have, or one more."""
        size = self.dice.choice([0, 1, 3, 20, 20, 300, 300, 5000])
        if self.dice.random() < 0.002:
            return b"x" * self.dice.choice([wire.MAX_FRAME - 1, wire.MAX_FRAME, wire.MAX_FRAME + 1])
        return self.dice.randbytes(size)

    def in_another_encoding(self) -> bytes:
        """Return a valid envelope that is not UTF-8, or begins with what marks it as such."""
        return (
            self.envelope()
            .decode()
            .encode(self.dice.choice(["utf-16", "utf-16-be", "utf-32-le", "utf-8-sig", "utf-7"]))
        )

    def _pairs(self) -> list[tuple[bytes, bytes]]:
        pairs = [
            (b"id", b'"fuzz-%d"' % self.dice.getrandbits(32)),
            (b"event_type", b'"%b"' % self.dice.choice(EVENT_TYPES).encode()),
            (b"integration_id", b"%d" % self.dice.randrange(20)),
            (b"business_id", b"%d" % self.dice.randrange(1, 20)),
            (b"timestamp", b'"2026-11-24T02:30:15.123456+00:00"'),
            (b"data", b'{"order_id":"\xc3\xa9","total_amount":12.50,"params":{"status":"any"}}'),
        ]
        return pairs if self.dice.random() < 0.5 else [*pairs, (b"metadata", b'{"order_id":"7"}')]
