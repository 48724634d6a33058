"""Errors, split by what their reader should do: refuse the client, wait and retry, or stop the process."""

from __future__ import annotations


class StartupError(Exception):
    """The daemon cannot start; the message names the setting, the value and the remedy. Reader: stop."""


class StorageUnavailable(Exception):
    """The log cannot be written or read now (disk full, read-only, failed fsync). Reader: keep everything and retry."""


class LogDamaged(Exception):
    """The log's file is not a log, or its structure is broken. Reader: move it aside, begin a new one."""


class RedisUnavailable(Exception):
    """Redis did not do the work, or nobody knows whether it did. Reader: connect again, ask the cursor, retry.

    Args:
        reason: one word for machines (`refused`, `timeout`, `loading`, `readonly`, `oom`, `misconf`, `auth`, ...).
        message: one sentence for people, without secrets or payloads.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TooManyStreams(Exception):
    """`http.max_streams` readers are connected already. Reader: refuse with 503."""
