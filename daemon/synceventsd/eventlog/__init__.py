"""The event log: the one durable thing. Only this package touches SQLite.

`store` writes (one connection, one thread at a time), `reader` reads (a read-only connection), `committer` turns what
publishers hand in into group commits, `tail` keeps the newest groups in memory, `log` is what the other rooms see,
and `opening` opens it.
"""

from synceventsd.eventlog.commits import RejectRow
from synceventsd.eventlog.log import READ_BYTES, EventLog, Slice
from synceventsd.eventlog.lots import Lot, Rejected, Source, without
from synceventsd.eventlog.opening import open_log
from synceventsd.eventlog.reader import ProducerState

__all__ = [
    "READ_BYTES",
    "EventLog",
    "Lot",
    "ProducerState",
    "RejectRow",
    "Rejected",
    "Slice",
    "Source",
    "open_log",
    "without",
]
