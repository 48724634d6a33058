"""What the doctor's findings about Redis mean: does it do what is needed, and what would cost events or repeat them.

Rule of this file: as in `checkup`; a None among the facts means that Redis did not let itself be asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from attrs import frozen

from synceventsd.core.findings import Finding, fail, ok, warn
from synceventsd.core.health import size

EVENT_BYTES: Final = 1000  # about what an order event takes on its way to a subscriber
FULL_SPEED: Final = 100_000  # events a second, where no rate is set
LEAST_STALL: Final = 2.0  # seconds that a subscriber should be able to stand still during a backlog
ALMOST_FULL: Final = 0.9


@frozen
class RedisFacts:
    """What a Redis says of itself; sizes in bytes.

    Attributes:
        role: `master` or `slave`, as INFO says.
        refusals: why a command that the daemon needs would be refused now, by command; judged when it was queued.
        scripts: whether this user may run scripts.
        transactions: whether WATCH, MULTI and EXEC are allowed.
        append_only: whether it keeps an append-only file.
        saves: the points at which it saves a snapshot; empty: never.
        save_failed: whether the last snapshot failed.
        policy: of eviction.
        pubsub_hard, pubsub_soft, pubsub_soft_seconds: when a subscriber that falls behind is cut off; 0: never.
    """

    version: str | None = None
    role: str | None = None
    refusals: Mapping[str, str] = {}
    scripts: bool = True
    transactions: bool = True
    append_only: bool | None = None
    saves: str | None = None
    save_failed: bool = False
    policy: str | None = None
    used: int | None = None
    maxmemory: int | None = None
    pubsub_hard: int | None = None
    pubsub_soft: int | None = None
    pubsub_soft_seconds: int | None = None


def check_unreachable(reason: str, sentence: str) -> Finding:
    """Judge a Redis that cannot be asked: `reason` and `sentence` are those of /status."""
    return fail(
        "redis", f"{sentence} ({reason})", "docs/operating.md, When Redis is down; meanwhile events wait in the log"
    )


def check_redis(facts: RedisFacts, backlog_rate: int) -> list[Finding]:
    """Judge a Redis that answers."""
    return [
        ok("redis", f"version {facts.version or 'unknown'} answers"),
        _role(facts),
        _rights(facts),
        _persistence(facts),
        _memory(facts),
        _subscribers(facts, backlog_rate),
    ]


def _role(facts: RedisFacts) -> Finding:
    if facts.role == "slave" or any("READONLY" in text for text in facts.refusals.values()):
        return fail("redis role", "it is a read-only replica", "point redis.url at the primary")
    if facts.role is None:
        return ok("redis role", "it does not let itself be asked (INFO); it takes writes")
    return ok("redis role", "primary")


def _rights(facts: RedisFacts) -> Finding:
    refused = {name: text for name, text in facts.refusals.items() if "READONLY" not in text}
    if refused:
        told = "; ".join(f"{name}: {text}" for name, text in refused.items())
        return fail(
            "redis rights",
            f"refused: {told}",
            "allow GET, SET, PUBLISH, EVAL, EVALSHA (or WATCH, MULTI, EXEC, DISCARD), the keys synceventsd:cursor:* and"
            " the channel in redis.channel",
        )
    if not facts.scripts and not facts.transactions:
        return fail("redis rights", "neither scripts nor transactions", "allow EVAL and EVALSHA, or WATCH, MULTI, EXEC")
    if not facts.scripts:
        return warn(
            "redis rights", "no scripts: transactions are used, at a quarter of the speed", "allow EVAL and EVALSHA"
        )
    return ok("redis rights", "cursor, channel and scripts are allowed")


def _persistence(facts: RedisFacts) -> Finding:
    lost = "a restart forgets the cursor, and what was on its way goes out again"
    remedy = "appendonly yes, in redis.conf (or a save point)"
    if facts.save_failed:
        return warn("redis persistence", "its last snapshot failed", "see its log, its dir and free space")
    if facts.append_only:
        return ok("redis persistence", "append-only file")
    if facts.saves:
        return ok("redis persistence", f"snapshots (save {facts.saves}); what is newer than the last may go out again")
    if facts.append_only is None or facts.saves is None:
        known = "no append-only file; " if facts.append_only is False else ""
        return warn(
            "redis persistence", f"{known}it does not let itself be asked (CONFIG GET save)", f"check it: {remedy}"
        )
    return warn("redis persistence", f"none: {lost}", remedy)


def _memory(facts: RedisFacts) -> Finding:
    if facts.maxmemory is None or facts.policy is None:
        return ok("redis memory", "it does not let itself be asked (INFO)")
    if facts.maxmemory == 0:
        return ok("redis memory", f"no maxmemory, policy {facts.policy}")
    seen = f"{size(facts.used or 0)} of {size(facts.maxmemory)}, policy {facts.policy}"
    if facts.policy.startswith("allkeys-"):
        return warn("redis memory", f"{seen}: the cursor can be evicted", "noeviction, or a volatile-* policy")
    if (facts.used or 0) > ALMOST_FULL * facts.maxmemory:
        return warn("redis memory", seen, "raise maxmemory, or free some: at the limit it takes no events")
    return ok("redis memory", seen)


def _subscribers(facts: RedisFacts, backlog_rate: int) -> Finding:
    """Judge how long a subscriber may stand still while a backlog goes out, before Redis cuts it off."""
    if facts.pubsub_hard is None:
        return ok("redis subscribers", "it does not let itself be asked (CONFIG GET client-output-buffer-limit)")
    if facts.pubsub_hard == 0:
        return ok("redis subscribers", "none is cut off, however far behind (client-output-buffer-limit pubsub)")
    stall = facts.pubsub_hard / ((backlog_rate or FULL_SPEED) * EVENT_BYTES)
    seen = f"may stand still for about {stall:.1f} s of a backlog (pubsub limit {size(facts.pubsub_hard)})"
    if stall < LEAST_STALL:
        rate = int(facts.pubsub_hard / (LEAST_STALL * EVENT_BYTES))
        return warn(
            "redis subscribers",
            f"{seen}; one that is slower is cut off and misses events",
            f"redis.backlog_rate = {max(rate, 1)} or less, or a higher client-output-buffer-limit pubsub",
        )
    return ok("redis subscribers", seen)


def parse_save(reply: str) -> str:
    """Return what `CONFIG GET save` says in a readable form."""
    return " ".join(reply.split())


def parse_pubsub_limit(reply: str) -> tuple[int, int, int] | None:
    """Return hard limit, soft limit and seconds from `CONFIG GET client-output-buffer-limit`; None: not understood."""
    words: Sequence[str] = reply.split()
    if "pubsub" not in words:
        return None
    numbers = words[words.index("pubsub") + 1 :][:3]
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        return None
    hard, soft, seconds = map(int, numbers)
    return hard, soft, seconds
