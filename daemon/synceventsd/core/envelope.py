"""The envelope: what the daemon must know of an event. `data` and `metadata` stay raw JSON text.

Rule of this file: values and no judgement. Whether a line is an event is found in `linecheck`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Final

import msgspec
from attrs import frozen
from msgspec import UNSET, Meta, Raw, UnsetType

from syncevents.events import EVENT_TYPES

U32_MAX: Final = 2**32 - 1

# A rejected line's id goes back to the client; a longer one would make a reject as large as a frame.
MAX_ECHOED_ID: Final = 256

KNOWN_TYPES: Final = frozenset(EVENT_TYPES)

# The one code that says nothing of the line: the log has no room for it.
BUFFER_FULL: Final = "buffer_full"


# Of msgspec's own kind, not attrs': made faster and unknown to the garbage collector, which is 0.9 us an event of 9.
class Envelope(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An event's header, decoded; `data` and `metadata` are the client's own bytes."""

    event_type: str
    integration_id: Annotated[int, Meta(ge=0, le=U32_MAX)]
    data: Raw
    id: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    business_id: Annotated[int, Meta(ge=1, le=U32_MAX)] | None = None
    timestamp: str | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET


@frozen
class Fault:
    """Why a line is not stored: the contract's code, a sentence, and the event's id where it could be read."""

    code: str
    error: str
    event_id: str | None = None


@frozen
class Stamp:
    """What is added to an event whose client left it out."""

    event_id: str
    timestamp: str


Kind = tuple[str, int, int | None]  # event type, integration, business
kind_of: Callable[[Envelope], Kind] = attrgetter("event_type", "integration_id", "business_id")


def kinds_of(heads: Sequence[Envelope]) -> Mapping[Kind, int]:
    """Count events by what they are and whose."""
    kinds = list(map(kind_of, heads))
    if kinds and kinds.count(kinds[0]) == len(kinds):  # as a rule under load, and half of what counting takes
        return {kinds[0]: len(kinds)}
    return Counter(kinds)


decode_envelope = msgspec.json.Decoder(Envelope).decode
"""Decode a line that is an event; raises what msgspec raises where it has not the form of one."""


def echo(event_id: str | UnsetType) -> str | None:
    """Return an event's id as it goes back to the client: one that is too long does not."""
    return event_id if event_id is not UNSET and len(event_id) <= MAX_ECHOED_ID else None
