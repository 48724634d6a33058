"""Who may publish for what.

Rule of this file: rules grant and never take away. Where there are none, everybody may publish for everything; where
there is one, an event is taken when one rule that names its publisher (as a user, or by a group) holds both its
integration and its business. Events of no business want to be granted like a business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import field, frozen

from synceventsd.core.envelope import Envelope, Fault, echo


@frozen
class Grant:
    """One rule: a user or a group, and what they may publish for.

    Attributes:
        uid: the user, or None where the rule names a group.
        gid: the group, or None where it names a user.
        integrations: which ones; None: all.
        businesses: which ones, None among them standing for events of no business; None: all of these.
    """

    uid: int | None
    gid: int | None
    integrations: frozenset[int] | None
    businesses: frozenset[int | None] | None

    def holds(self, integration_id: int, business_id: int | None) -> bool:
        """Return whether it covers such an event."""
        return (self.integrations is None or integration_id in self.integrations) and (
            self.businesses is None or business_id in self.businesses
        )


@frozen
class Permit:
    """What one publisher may do, once it is known who it is."""

    uid: int
    _grants: tuple[Grant, ...] = field(repr=False)

    def allows(self, integration_id: int, business_id: int | None) -> bool:
        """Return whether such an event may be published."""
        return any(grant.holds(integration_id, business_id) for grant in self._grants)

    def forbidden(self, heads: Sequence[Envelope]) -> dict[int, Fault]:
        """Return the indexes of the events that may not be published, each with its fault."""
        kinds = {(head.integration_id, head.business_id) for head in heads}
        refused = {kind for kind in kinds if not self.allows(*kind)}
        if not refused:
            return {}
        return {
            index: Fault("forbidden", self._reason(head), echo(head.id))
            for index, head in enumerate(heads)
            if (head.integration_id, head.business_id) in refused
        }

    def _reason(self, head: Envelope) -> str:
        business = "events of no business" if head.business_id is None else f"business {head.business_id}"
        return f"user {self.uid} may not publish for integration {head.integration_id} and {business} (ingest.rules)"


def permit_for(grants: Iterable[Grant], uid: int, gids: frozenset[int]) -> Permit:
    """Return what the rules grant to a user who is in these groups."""
    return Permit(uid, tuple(grant for grant in grants if grant.uid == uid or grant.gid in gids))
