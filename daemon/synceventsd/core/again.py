"""Whether events can be sent to Redis again: only those that the log still holds, and only where it forwards at all."""

from __future__ import annotations


def cannot_send_again(seq: int, oldest: int, last: int, *, forwarding: bool) -> tuple[str, str] | None:
    """Return code and sentence of why the events from `seq` on cannot go out again; None where they can.

    Args:
        seq: number of the first event wanted.
        oldest: number of the oldest event kept (`last + 1` when none is).
        last: number of the newest event.
        forwarding: whether the daemon forwards to Redis.
    """
    if not forwarding:
        return "redis_off", "this daemon does not forward to Redis (redis.url = none)"
    if last < oldest:
        return "out_of_range", "the log holds no event"
    if seq < oldest:
        return "out_of_range", f"event {seq} is gone: the oldest event kept is {oldest}"
    if seq > last:
        return "out_of_range", f"there is no event {seq} yet: the newest is {last}"
    return None
