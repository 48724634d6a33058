"""`/metrics`: what the owners know of themselves, as Prometheus wants to read it. Owns nothing.

Rule of this file: base units (seconds, bytes), counters only grow and end in `_total`, and no label has more values
than there are reasons, codes or users of this machine: never a business, an integration or a producer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import trio
from attrs import define, frozen

from syncevents._version import __version__
from synceventsd.core.latency import Latency
from synceventsd.core.positions import GapReason
from synceventsd.eventlog import EventLog
from synceventsd.forwarder_state import ForwarderState, RedisState
from synceventsd.hub import Hub
from synceventsd.intake import Intake
from synceventsd.status import StatusBoard

if TYPE_CHECKING:
    from prometheus_client.core import Metric


# What may never happen is there from the start, as 0: Prometheus sees no increase in a series that begins above it.
_ZERO_BY_CODE: Final = dict.fromkeys(
    ("invalid_json", "invalid_event", "unknown_event_type", "buffer_full", "forbidden"), 0
)
_ZERO_BY_GAP: Final = {reason.value: 0 for reason in GapReason}
_ZERO_BY_LOSS: Final = dict.fromkeys(("log_damaged", "damaged", "not_resent", "sent_again", "replay_shortened"), 0)


@frozen
class Waiting:
    """What has not gone out yet; sizes and ages (seconds) are None when the log cannot be read now, or nothing waits.

    Attributes:
        count: events that Redis has not got yet.
        size: their text, in bytes.
        oldest_age: of the oldest of them.
        oldest_age_for_readers: of the oldest event that was accepted after a reader came, and not handed to it yet.
    """

    count: int
    size: int | None
    oldest_age: float | None
    oldest_age_for_readers: float | None


@frozen
class Owners:
    """Whose snapshots are shown."""

    log: EventLog
    intake: Intake
    hub: Hub
    board: StatusBoard
    forwarding: ForwarderState | None


def expose(owners: Owners, waiting: Waiting, *, ready: bool) -> tuple[bytes, str]:
    """Return Prometheus text and its content type."""
    # Imported at the first scrape: it costs 40 ms, a tenth of the start.
    from prometheus_client import CollectorRegistry, ProcessCollector, exposition

    registry = CollectorRegistry(auto_describe=False)
    families = [
        *_build(owners),
        *_counters(owners),
        *_gauges(owners, waiting, ready),
        *_redis(owners, waiting),
        *_latencies(owners),
    ]
    registry.register(_Snapshot(families))
    ProcessCollector(registry=registry)
    return exposition.generate_latest(registry), exposition.CONTENT_TYPE_LATEST


def rejected(owners: Owners) -> dict[str, int]:
    """Return how many lines were not stored since the start, by code."""
    full = owners.log.committer.rejected_full
    return owners.intake.statistics().rejected | ({"buffer_full": full} if full else {})


def _build(owners: Owners) -> Iterator[Metric]:
    from prometheus_client.core import InfoMetricFamily

    info = InfoMetricFamily("synceventsd_build", "Version and log of this daemon.")
    info.add_metric((), {"version": __version__, "log_id": owners.log.log_id})
    yield info


def _counters(owners: Owners) -> Iterator[Metric]:
    intake = owners.intake.statistics()
    yield _counter("events_accepted", "Events stored durably over the log's whole life.", owners.log.statistics().last)
    yield _counter("connections", "Publisher connections opened since the start.", intake.connections)
    tables: tuple[tuple[str, str, str, Mapping[Any, float]], ...] = (
        (
            "events_rejected",
            "Lines not stored since the start, by the contract's code.",
            "code",
            _ZERO_BY_CODE | rejected(owners),
        ),
        ("connections_refused", "Publisher connections ended with an error, by its code.", "code", intake.refused),
        ("http_refused", "HTTP readers that found no place, by reason.", "reason", owners.hub.refused),
        ("reader_gaps", "Times that a reader was told of a gap, by reason.", "reason", _ZERO_BY_GAP | owners.hub.gaps),
        (
            "ledger_events",
            "What was ever rejected, dropped, skipped or sent again, over the log's whole life, by reason.",
            "reason",
            _ZERO_BY_LOSS | owners.log.ledger_totals(),
        ),
        (
            "throttled_seconds",
            "Seconds that a user's publishers were made to wait because of ingest.max_rate.",
            "uid",
            intake.waited,
        ),
    )
    for name, text, label, counts in tables:
        yield _counter_by(label, name, text, counts)


def _counter(name: str, text: str, value: float) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily(f"synceventsd_{name}", text, value)


def _counter_by(label: str, name: str, text: str, counts: Mapping[Any, float]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(f"synceventsd_{name}", text, labels=[label])
    for key, count in counts.items():
        family.add_metric((str(key),), count)
    return family


def _gauges(owners: Owners, waiting: Waiting, ready: bool) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    log, intake = owners.log.statistics(), owners.intake.statistics()
    for name, text, level in (
        ("ready", "1 when events are accepted and stored.", float(ready)),
        ("storage_used_bytes", "Bytes that the log takes on disk.", log.used),
        ("storage_ballast_bytes", "Bytes of it that are given up when the disk is full.", log.ballast),
        ("storage_limit_bytes", "storage.max_bytes.", log.limit),
        ("storage_full", "1 while new events are rejected with buffer_full.", float(log.full)),
        ("clients", "Publishers connected.", intake.clients),
        ("streams", "SSE and WebSocket readers connected.", owners.hub.streams),
        ("syncs_in_progress", "Synchronisations going on.", owners.board.running()),
    ):
        yield GaugeMetricFamily(f"synceventsd_{name}", text, level)


def _redis(owners: Owners, waiting: Waiting) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    ages = GaugeMetricFamily(
        "synceventsd_oldest_unsent_event_age_seconds",
        "Age of the oldest event that an output has not got yet; for readers, of what was accepted after they came.",
        labels=["output"],
    )
    ages.add_metric(("readers",), waiting.oldest_age_for_readers or 0)
    if owners.forwarding is not None:
        ages.add_metric(("redis",), waiting.oldest_age or 0)
    yield ages
    if owners.forwarding is None:
        return
    view = owners.forwarding.describe(trio.current_time())
    forwarded = owners.log.statistics().forwarded
    yield _counter("events_forwarded", "Events that Redis executed.", forwarded)
    yield _counter("events_resent", "Events that went out to Redis again, or perhaps did.", view.resent)
    yield _counter(
        "redis_failures", "Connections to Redis, and tries for one, that failed.", owners.forwarding.failed_ever
    )
    for name, text, level in (
        ("redis_waiting_events", "Events that Redis has not got yet.", waiting.count),
        ("redis_waiting_bytes", "Text of the events that Redis has not got yet.", waiting.size or 0),
    ):
        yield GaugeMetricFamily(f"synceventsd_{name}", text, level)
    connected = float(view.state is RedisState.CONNECTED)
    yield GaugeMetricFamily("synceventsd_redis_connected", "1 while Redis answers.", connected)


def _latencies(owners: Owners) -> Iterator[Metric]:
    yield _histogram(
        "accept_to_commit_seconds",
        "From a connection's handing in of an event until it is durable.",
        owners.log.committer.latency,
    )
    yield _histogram(
        "accept_to_reader_seconds",
        "From an event's acceptance until it is handed to a reader that was there already; once for each reader.",
        owners.hub.latency,
    )
    if owners.forwarding is not None:
        yield _histogram(
            "accept_to_redis_seconds",
            "From an event's acceptance until Redis said that it has executed it; outages and restarts included.",
            owners.forwarding.latency,
        )


def _histogram(name: str, text: str, latency: Latency) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    return HistogramMetricFamily(f"synceventsd_{name}", text, latency.cumulative(), latency.total)


@define(eq=False)
class _Snapshot:
    """Metric families made beforehand, as a registry wants to have them."""

    families: list[Metric]

    def collect(self) -> Iterator[Metric]:
        yield from self.families
