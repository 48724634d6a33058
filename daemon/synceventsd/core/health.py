"""What `/status` means for whoever runs the daemon: are events stuck, where, and why.

Rule of this file: it reads the answer of a daemon that may be older or newer, so what is missing counts as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from attrs import frozen

# Seconds that an event may wait for a Redis that does not answer just now before it counts as stuck.
STUCK_AFTER: Final = 1.0
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


class Health(Enum):
    """The first word that an operator reads."""

    OK = "OK"
    NOT_READY = "NOT READY"
    STUCK = "EVENTS STUCK"


@frozen
class Judgement:
    """How things stand, and where and why they do not go well."""

    health: Health
    text: str


def judge(status: Mapping[str, Any]) -> Judgement:
    """Return how the daemon that answered this is."""
    if not status.get("ready"):
        return Judgement(Health.NOT_READY, str(status.get("not_ready_reason") or "the daemon does not say why"))
    redis, waiting = _part(status, "redis"), _part(status, "waiting")
    state, count, age = redis.get("state"), waiting.get("count") or 0, waiting.get("oldest_age_seconds")
    if state == "off":
        return Judgement(Health.OK, "events are accepted and stored; forwarding to Redis is off")
    if state == "connected":
        if count and age is not None and age >= STUCK_AFTER:
            return Judgement(Health.OK, f"catching up: {count} events are on their way to Redis")
        return Judgement(Health.OK, "events are accepted, stored and sent on to Redis")
    why = f"Redis is {state}" + (f" ({redis['reason']})" if redis.get("reason") else "")
    if count and (age is None or age >= STUCK_AFTER):
        since = "" if age is None else f", the oldest for {duration(age)}"
        return Judgement(Health.STUCK, f"{count} wait for Redis{since}. {why}: {redis.get('error') or 'no error yet'}")
    return Judgement(Health.OK, f"nothing waits, but {why}: {redis.get('error') or 'no error yet'}")


def lines(status: Mapping[str, Any]) -> list[str]:
    """Return ten lines for an operator; the first one is the judgement."""
    judgement = judge(status)
    redis, waiting, events, storage = (_part(status, name) for name in ("redis", "waiting", "events", "storage"))
    rejected = _counts(_part(events, "rejected_by_code"))
    waits = f"{waiting.get('count', '?')} events, {size(waiting.get('bytes') or 0)}"
    age = waiting.get("oldest_age_seconds")
    error = redis.get("last_error")
    return [
        f"{judgement.health.value}: {judgement.text}",
        f"daemon       version {status.get('version', '?')}, up {duration(status.get('uptime_seconds') or 0)}",
        f"redis        {redis.get('state', '?')}; last error: {error or 'none'}",
        f"events       {events.get('accepted', '?')} accepted, {events.get('forwarded', '?')} forwarded, "
        f"rejected since the start: {rejected}",
        f"waiting      {waits}" + ("" if age is None else f", the oldest for {duration(age)}"),
        f"storage      {size(storage.get('used_bytes') or 0)} of {size(storage.get('max_bytes') or 0)}, "
        f"events {storage.get('oldest_seq', '?')} to {storage.get('newest_seq', '?')}",
        f"publishers   {status.get('clients', '?')}; turned away: {_counts(_part(status, 'refused_connections'))}",
        f"readers      {status.get('sse_connections', '?')}",
        f"syncs        {status.get('syncs_in_progress', '?')} in progress",
        f"ledger       {_counts(_part(status, 'ledger_totals'))}",
    ]


def duration(seconds: float) -> str:
    """Return a time as people say it, in at most two units."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: int) -> str:
    """Return a size in the largest unit of which there is one."""
    amount, unit = float(count), _UNITS[0]
    for larger in _UNITS[1:]:
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"


def _part(status: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = status.get(name)
    return part if isinstance(part, Mapping) else {}


def _counts(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
