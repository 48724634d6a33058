"""What the daemon says of itself: readiness and `/status`. Reads the owners' snapshots, owns nothing."""

from __future__ import annotations

import time
from typing import Any

import trio
from attrs import asdict, define, field

from syncevents._version import __version__
from synceventsd.accounts import user_names
from synceventsd.core.errors import LogDamaged, StorageUnavailable
from synceventsd.depth import LOOK_EVERY, Depth
from synceventsd.eventlog import EventLog
from synceventsd.forwarder_state import ForwarderState
from synceventsd.hub import Hub
from synceventsd.intake import Intake
from synceventsd.metrics import Owners, Waiting, expose, rejected
from synceventsd.status import StatusBoard


@define(eq=False)
class Report:
    """The daemon's view of itself, for operators and machines."""

    _log: EventLog
    _intake: Intake
    _hub: Hub
    _board: StatusBoard
    _forwarding: ForwarderState | None
    _depth: Depth
    _started: float = field(factory=time.monotonic, init=False)
    _started_at: float = field(factory=time.time, init=False)

    @property
    def _owners(self) -> Owners:
        return Owners(self._log, self._intake, self._hub, self._board, self._forwarding)

    def unready(self) -> str | None:
        """Return why events are not accepted and stored just now, or None. Redis down is no reason."""
        log = self._log.statistics()
        if log.failing is not None:
            return f"the log cannot be written: {log.failing}"
        if log.full:
            return f"the buffer is full: {log.used} of {log.limit} bytes (storage.max_bytes)"
        return None

    async def status(self) -> dict[str, Any]:
        """Return what `/status` shows."""
        log, intake = self._log.statistics(), self._intake.statistics()
        reason, waiting, not_stored = self.unready(), await self._waiting(), rejected(self._owners)
        return {
            "version": __version__,
            "time": round(time.time(), 3),
            "started_at": round(self._started_at, 3),
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "log_id": self._log.log_id,
            "ready": reason is None,
            "not_ready_reason": reason,
            "redis": self._redis(),
            "events": {
                "accepted": log.last,
                "rejected": sum(not_stored.values()),
                "rejected_by_code": not_stored,
                "forwarded": 0 if self._forwarding is None else log.forwarded,
            },
            "waiting": {
                "count": waiting.count,
                "bytes": waiting.size,
                "oldest_age_seconds": waiting.oldest_age,
                "history": {"every_seconds": LOOK_EVERY, "counts": list(self._depth.counts)},
            },
            "storage": {
                "used_bytes": log.used,
                "max_bytes": log.limit,
                "ballast_bytes": log.ballast,
                "oldest_seq": log.oldest,
                "newest_seq": log.last,
                "failing": log.failing,
                "full": log.full,
            },
            "clients": intake.clients,
            "refused_connections": intake.refused,
            "throttled_seconds": {str(uid): seconds for uid, seconds in intake.waited.items()},
            "sse_connections": self._hub.streams,
            "syncs_in_progress": self._board.running(),
            "syncs": self._board.overview(),
            "event_types": sorted(self._intake.event_types),
            "ledger": await self._ledger(),
            "ledger_totals": self._log.ledger_totals(),
        }

    def _redis(self) -> dict[str, Any]:
        if self._forwarding is None:
            return {"state": "off", "last_error": None}
        view = self._forwarding.describe(trio.current_time())
        return asdict(view) | {"state": view.state.value, "last_error": view.error or view.last_error}

    async def _waiting(self) -> Waiting:
        log = self._log.statistics()
        count = log.last - log.forwarded
        try:
            backlog = await self._log.backlog()
            for_readers = await self._log.accepted_after(self._hub.slowest())
        except (StorageUnavailable, LogDamaged):
            return Waiting(count, None, None, None)
        return Waiting(count, backlog.size, _age(backlog.oldest_at), _age(for_readers))

    async def _ledger(self) -> list[dict[str, Any]]:
        entries = self._log.ledger()
        # In a thread: the account database may be a server somewhere.
        names = await trio.to_thread.run_sync(user_names, {entry.uid for entry in entries if entry.uid is not None})
        return [
            {
                "reason": entry.reason,
                "at": entry.at,
                "until": entry.until,
                "uid": entry.uid,
                "user": None if entry.uid is None else names[entry.uid],
                "first": entry.first,
                "last": entry.last,
                "count": entry.count,
                "detail": entry.detail,
            }
            for entry in entries
        ]

    async def metrics(self) -> tuple[bytes, str]:
        """Return Prometheus text and its content type."""
        return expose(self._owners, await self._waiting(), ready=self.unready() is None)


def _age(at: float | None) -> float | None:
    return None if at is None else max(0.0, round(time.time() - at, 3))
