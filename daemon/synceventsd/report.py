"""What the daemon says of itself: readiness, `/status`, `/metrics`. Reads the owners' snapshots, owns nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import trio
from attrs import asdict, define, field

from syncevents._version import __version__
from synceventsd.core.errors import LogDamaged, StorageUnavailable
from synceventsd.eventlog import EventLog
from synceventsd.forwarder_state import ForwarderState, RedisState
from synceventsd.hub import Hub
from synceventsd.intake import Intake
from synceventsd.status import StatusBoard

if TYPE_CHECKING:
    from prometheus_client.core import Metric


@define(eq=False)
class Report:
    """The daemon's view of itself, for operators and machines."""

    _log: EventLog
    _intake: Intake
    _hub: Hub
    _board: StatusBoard
    _forwarding: ForwarderState | None
    _started: float = field(factory=time.monotonic, init=False)

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
        reason = self.unready()
        return {
            "version": __version__,
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "log_id": self._log.log_id,
            "ready": reason is None,
            "not_ready_reason": reason,
            "redis": self._redis(),
            "events": {
                "accepted": log.last,
                "rejected": sum(self._rejected().values()),
                "rejected_by_code": self._rejected(),
                "forwarded": 0 if self._forwarding is None else log.forwarded,
            },
            "waiting": await self._waiting(log.last - log.forwarded),
            "storage": {
                "used_bytes": log.used,
                "max_bytes": log.limit,
                "oldest_seq": log.oldest,
                "newest_seq": log.last,
                "failing": log.failing,
                "full": log.full,
            },
            "clients": intake.clients,
            "refused_connections": intake.refused,
            "sse_connections": self._hub.streams,
            "syncs_in_progress": self._board.running(),
            "ledger": await self._ledger(),
        }

    def _rejected(self) -> dict[str, int]:
        """Return how many lines were not stored since the start, by code."""
        full = self._log.committer.rejected_full
        return self._intake.statistics().rejected | ({"buffer_full": full} if full else {})

    def _redis(self) -> dict[str, Any]:
        if self._forwarding is None:
            return {"state": "off", "last_error": None}
        view = self._forwarding.describe(trio.current_time())
        return asdict(view) | {"state": view.state.value, "last_error": view.error or view.last_error}

    async def _waiting(self, count: int) -> dict[str, Any]:
        try:
            backlog = await self._log.backlog()
        except (StorageUnavailable, LogDamaged):
            return {"count": count, "bytes": None, "oldest_age_seconds": None}
        age = None if backlog.oldest_at is None else max(0.0, round(time.time() - backlog.oldest_at, 3))
        return {"count": count, "bytes": backlog.size, "oldest_age_seconds": age}

    async def _ledger(self) -> list[dict[str, Any]]:
        try:
            entries = await self._log.ledger()
        except (StorageUnavailable, LogDamaged):
            return []
        return [
            {
                "at": entry.at,
                "reason": entry.reason,
                "first": entry.first,
                "last": entry.last,
                "count": entry.count,
                "detail": entry.detail,
            }
            for entry in entries
        ]

    async def metrics(self) -> tuple[bytes, str]:
        """Return Prometheus text and its content type."""
        # Imported at the first scrape: it costs 40 ms, a tenth of the start.
        from prometheus_client import CollectorRegistry, ProcessCollector, exposition

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Snapshot(list(self._families(await self._waiting(0)))))
        ProcessCollector(registry=registry)
        return exposition.generate_latest(registry), exposition.CONTENT_TYPE_LATEST

    def _families(self, waiting: dict[str, Any]) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        log, intake = self._log.statistics(), self._intake.statistics()
        info = InfoMetricFamily("synceventsd_build", "Version and log of this daemon.")
        info.add_metric((), {"version": __version__, "log_id": self._log.log_id})
        yield info
        counters = (
            ("events_accepted", "Events stored durably over the log's whole life.", log.last),
            ("connections", "Publisher connections opened since the start.", intake.connections),
        )
        for name, text, value in counters:
            yield CounterMetricFamily(f"synceventsd_{name}", text, value)
        rejected = CounterMetricFamily(
            "synceventsd_events_rejected", "Lines not stored since the start, by the contract's code.", labels=["code"]
        )
        for code, count in self._rejected().items():
            rejected.add_metric((code,), count)
        yield rejected
        gauges = (
            ("ready", "1 when events are accepted and stored.", float(self.unready() is None)),
            ("redis_waiting_events", "Events that Redis has not got yet.", log.last - log.forwarded),
            ("redis_waiting_bytes", "Text of the events that Redis has not got yet.", waiting["bytes"] or 0),
            ("redis_oldest_waiting_seconds", "Age of the oldest of them.", waiting["oldest_age_seconds"] or 0),
            ("storage_used_bytes", "Bytes that the log takes on disk.", log.used),
            ("storage_limit_bytes", "storage.max_bytes.", log.limit),
            ("storage_full", "1 while new events are rejected with buffer_full.", float(log.full)),
            ("clients", "Publishers connected.", intake.clients),
            ("streams", "SSE and WebSocket readers connected.", self._hub.streams),
            ("syncs_in_progress", "Synchronisations going on.", self._board.running()),
        )
        for name, text, level in gauges:
            yield GaugeMetricFamily(f"synceventsd_{name}", text, level)
        if self._forwarding is not None:
            view = self._forwarding.describe(trio.current_time())
            yield CounterMetricFamily("synceventsd_events_forwarded", "Events that Redis executed.", log.forwarded)
            yield GaugeMetricFamily(
                "synceventsd_redis_connected", "1 while Redis answers.", float(view.state is RedisState.CONNECTED)
            )


@define(eq=False)
class _Snapshot:
    """Metric families made beforehand, as a registry wants to have them."""

    families: list[Metric]

    def collect(self) -> Iterator[Metric]:
        yield from self.families
