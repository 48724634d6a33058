"""The sync status: a fold over the log, kept in memory, saved beside the events.

Rule of this file: a group is folded in the same step in which it becomes durable, before any of its lines is
acknowledged; so an answer includes every event acknowledged before the request. What is saved lags behind, and is
caught up from the log at the next start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import trio
from attrs import define, evolve, field

from synceventsd.core.errors import LogDamaged, StorageUnavailable
from synceventsd.core.ledger import Incident
from synceventsd.core.model import GLOBAL, Group
from synceventsd.core.overview import overview
from synceventsd.core.syncstate import Key, SyncState, fold_all, view
from synceventsd.eventlog import EventLog
from synceventsd.logs import get_logger

log = get_logger("status")

SAVE_EVERY: Final = 2.0  # seconds; what a crash leaves to fold again is at most what came in that time

_encode = msgspec.json.encode
_decoder = msgspec.json.Decoder(SyncState)


@define(eq=False)
class StatusBoard:
    """The states of all integrations; the only one that changes them."""

    _log: EventLog
    stalled_after: float
    wall_clock: Callable[[], float] = time.time
    upto: int = field(default=0, init=False)
    _saved_upto: int = field(default=0, init=False)
    _states: dict[Key, SyncState] = field(factory=dict, init=False)
    _of_integration: dict[int, dict[int | None, SyncState]] = field(factory=dict, init=False)
    _changed: set[Key] = field(factory=set, init=False)

    async def catch_up(self) -> None:
        """Load what was saved and fold what came after it; then follow the log. Call it once, before anything else."""
        saved_upto, saved = await self._log.load_syncs()
        # What was saved may reach beyond a log that lost its end to damage: the next events have those numbers again.
        self.upto = self._saved_upto = min(saved_upto, self._log.last)
        try:
            states = [_decoder.decode(text) for text in saved]
        except msgspec.DecodeError as error:
            log.warning("status.rebuilt", reason=str(error), effect="what retention took of older syncs is forgotten")
            detail = f"what retention took of older syncs is forgotten, the rest worked out anew: {error}"
            self._log.note(Incident("sync_states_forgotten", len(saved), detail=detail))
            states, self.upto = [], 0
        for state in states:
            self._keep(state)
        while self.upto < self._log.last:
            self.upto = max(self.upto, self._log.oldest - 1)
            try:
                found = await self._log.read(self.upto)
            except LogDamaged as error:
                first, self.upto = self.upto + 1, await self._log.end_of_damage(self.upto, error)
                log.error("status.events_lost", first=first, last=self.upto, reason=str(error))
                count, detail = self.upto - first + 1, f"not counted in the sync status: {error}"
                incident = Incident("not_in_sync_status", count, first=first, last=self.upto, detail=detail, once=True)
                self._log.note(incident)
                continue
            for group in found.groups:
                self.fold(group)
            self.upto = max(self.upto, found.upto)
        self._log.follow(self.fold)
        self._log.before_pruning(self.save)

    def fold(self, group: Group) -> None:
        """Take in one group; what of it was taken in before is stepped over."""
        skip = max(0, self.upto + 1 - group.first)
        heads = group.heads[skip:] if skip else group.heads
        changed = fold_all(self._states, heads, group.first + skip, group.accepted_at)
        for state in changed.values():
            self._keep(state)
        self._changed.update(changed)
        self.upto = max(self.upto, group.last)

    def _keep(self, state: SyncState) -> None:
        self._states[(state.integration_id, state.business_id)] = state
        self._of_integration.setdefault(state.integration_id, {})[state.business_id] = state

    async def save_for_ever(self) -> None:
        """Save what changed, every two seconds. Cancelled, it leaves that to `save` or to the next start."""
        while True:
            await trio.sleep(SAVE_EVERY)
            try:
                await self.save()
            except StorageUnavailable as error:
                log.debug("status.save_failed", reason=str(error))  # the committer tells of a failing log

    async def save(self) -> None:
        """Save what changed since the last time.

        Raises:
            StorageUnavailable: nothing was saved; it will be the next time.
        """
        if self.upto == self._saved_upto:
            return
        changed, self._changed, upto = self._changed, set(), self.upto
        rows = [(key[0], key[1] or GLOBAL, _encode(self._states[key])) for key in changed]
        try:
            await self._log.save_syncs(rows, upto)
        except StorageUnavailable:
            self._changed |= changed
            raise
        self._saved_upto = upto

    def view(self, integration_id: int, business_id: int | None) -> dict[str, Any]:
        """Return the sync status of an integration.

        Args:
            integration_id: the integration.
            business_id: only the syncs of this business, and the global ones; None: whichever sync is the latest.
        """
        now = self.wall_clock()
        for ahead in [state for state in self._of_integration.get(integration_id, {}).values() if state.heard_at > now]:
            self._keep(evolve(ahead, heard_at=now))  # the clock was set back: its future counts as now
        states = self._of_integration.get(integration_id, {})
        wanted = list(states.values())
        if business_id is not None:
            wanted = [states[key] for key in (business_id, None) if key in states]
            # A business's own syncs go before the global ones, however recent: it is them that were asked for.
            wanted = [state for state in wanted if state.business_id is not None and state.sync_seq] or wanted
        return view(wanted, now, self.stalled_after)

    def running(self) -> int:
        """Return how many syncs are going on."""
        return sum(state.run is not None for state in self._states.values())

    def overview(self) -> dict[str, Any]:
        """Return the running syncs and the latest finished ones of all integrations, a bounded number of each."""
        return overview(self._states.values(), self.wall_clock(), self.stalled_after)
