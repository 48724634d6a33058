"""What there is to know of a log at a glance, for `synceventsd log stat`: nothing here reads the events themselves."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from attrs import frozen

from synceventsd.eventlog.onlooker import Onlooker
from synceventsd.eventlog.store import SUSPECT_SUFFIX
from synceventsd.eventlog.stretch import bounds


@frozen
class Facts:
    """A snapshot. Sizes are bytes, times are seconds since 1970; None where there is no event.

    Attributes:
        file_bytes, wal_bytes: of the files.
        running: whether a daemon uses it now.
        suspect: whether an earlier run met damage, so that the next start salvages the log.
        epochs: how many there are; about one a start of the daemon.
        events: how many numbers lie between the first and the newest kept, both included.
        text_bytes: of the events kept.
        forwarded: Redis has everything up to this number; a running daemon saves it about once a second.
        waiting: events beyond it.
        producers, rejects, syncs, ledger: how many rows are remembered.
    """

    file: str
    file_bytes: int
    wal_bytes: int
    running: bool
    suspect: bool
    log_id: str
    epochs: int
    epoch: str
    first: int | None
    first_at: float | None
    newest: int | None
    newest_at: float | None
    events: int
    text_bytes: int
    forwarded: int
    waiting: int
    producers: int
    rejects: int
    syncs: int
    ledger: int


def gather(onlooker: Onlooker) -> Facts:
    """Return the facts; raises as `Onlooker.look` does."""
    path = onlooker.path
    found = onlooker.look(_read)
    return Facts(
        file=str(path),
        file_bytes=_size(path),
        wal_bytes=_size(path.with_name(f"{path.name}-wal")),
        running=onlooker.running,
        suspect=path.with_name(f"{path.name}{SUSPECT_SUFFIX}").exists(),
        **found,
    )


def _read(db: sqlite3.Connection) -> dict[str, Any]:
    meta = dict(db.execute("SELECT key, value FROM meta"))
    oldest = db.execute("SELECT first, accepted_at, bytes_before FROM event_group ORDER BY first LIMIT 1").fetchone()
    newest = db.execute(
        "SELECT accepted_at, bytes_before + length(lines) FROM event_group ORDER BY first DESC LIMIT 1"
    ).fetchone()
    first, last = bounds(db)
    epoch = db.execute("SELECT name FROM epoch ORDER BY number DESC LIMIT 1").fetchone()
    forwarded = int(meta.get("forwarded", 0))
    return {
        "log_id": str(meta.get("log_id", "")),
        "epochs": _count(db, "epoch"),
        "epoch": "" if epoch is None else epoch[0],
        "first": None if oldest is None else first,
        "first_at": None if oldest is None else oldest[1],
        "newest": last or None,
        "newest_at": None if newest is None else newest[0],
        "events": last - first + 1,
        "text_bytes": 0 if oldest is None or newest is None else newest[1] - oldest[2],
        "forwarded": forwarded,
        "waiting": max(0, last - forwarded),
        "producers": _count(db, "producer"),
        "rejects": _count(db, "reject"),
        "syncs": _count(db, "sync"),
        "ledger": _count(db, "ledger"),
    }


def _count(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 (a name of this file)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
