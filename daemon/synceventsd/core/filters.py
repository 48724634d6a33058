"""Which events a reader gets. Isolation is decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from attrs import evolve, frozen

from synceventsd.core.envelope import Envelope


@frozen
class Filter:
    """What one reader wants.

    Attributes:
        business_id: the only business, beside the global events, that this reader may see; None is the super-user, who
            sees every business.
        integration_id, event_types, order_ids: None means all. Unknown event types match nothing.
    """

    business_id: int | None
    integration_id: int | None = None
    event_types: frozenset[str] | None = None
    order_ids: frozenset[str] | None = None

    def matches(self, head: Envelope) -> bool:
        """Return whether this reader gets the event; of another business it never does."""
        if self.business_id is not None and head.business_id is not None and head.business_id != self.business_id:
            return False
        if self.integration_id is not None and head.integration_id != self.integration_id:
            return False
        if self.event_types is not None and head.event_type not in self.event_types:
            return False
        return self.order_ids is None or not self.order_ids.isdisjoint(order_ids_of(head))

    @property
    def takes_all(self) -> bool:
        """Return whether everything of the reader's business matches."""
        return self.integration_id is None and self.event_types is None and self.order_ids is None

    def narrowed(
        self, integration_id: int | None, event_types: Iterable[str] | None, order_ids: Iterable[str] | None
    ) -> Filter:
        """Return another filter for the same business: a reader may change all but whose events it sees."""
        return evolve(
            self,
            integration_id=integration_id,
            event_types=None if event_types is None else frozenset(event_types),
            order_ids=None if order_ids is None else frozenset(order_ids),
        )


def order_ids_of(head: Envelope) -> set[str]:
    """Return `metadata.order_id` and `data.order_id` as text, where they are text or whole numbers."""
    found = set()
    for raw in (head.metadata, head.data):
        text = bytes(_decode(raw).order_id) if isinstance(raw, msgspec.Raw) else b""
        if text.startswith(b'"'):
            found.add(msgspec.json.decode(text, type=str))
        elif text.removeprefix(b"-").isdigit():
            found.add(text.decode())
    return found


class _Part(msgspec.Struct):
    """Raw, because a number somewhere else in the object may be none that Python decodes."""

    order_id: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Part).decode
