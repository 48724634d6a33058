"""Errors, split by what their reader should do: refuse the client, wait and retry, or stop the process."""

from __future__ import annotations


class StartupError(Exception):
    """The daemon cannot start; the message names the setting, the value and the remedy. Reader: stop.

    Args:
        message: as above.
        may_pass: starting again later may help, because nothing is wrong but the state of the disk.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class StorageUnavailable(Exception):
    """The log cannot be written or read now (disk full, read-only, failed fsync). Reader: keep everything and retry.

    Args:
        message: what is wrong.
        full: it is that the disk is full.
    """

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class LogDamaged(Exception):
    """What was stored does not read. Reader: at the start, move the file aside; while running, step over it and say so.

    Args:
        message: what is wrong.
        last: number of the last event that is damaged, where that is known.
    """

    def __init__(self, message: str, last: int | None = None) -> None:
        super().__init__(message)
        self.last = last


class RedisUnavailable(Exception):
    """Redis did not do the work, or nobody knows whether it did. Reader: connect again, ask the cursor, retry.

    Args:
        reason: one word for machines (`refused`, `timeout`, `loading`, `readonly`, `oom`, `misconf`, `auth`, ...).
        message: one sentence for people, without secrets or payloads.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RetryRefused(Exception):
    """Events cannot go out to Redis again. Reader: tell who asked for it.

    Args:
        code: one word for machines (`out_of_range`, `redis_off`).
        message: one sentence for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TooManyStreams(Exception):
    """`http.max_streams` readers are connected already. Reader: refuse with 503."""
