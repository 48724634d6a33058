"""What the demo says at its start: what runs, and what to open or to paste meanwhile.

Rule of this file: pure; every command can be pasted as it stands, into another terminal.
"""

import json
import shlex
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from syncevents.demo.processes import Daemon, Redis
from syncevents.demo.readers import CHANNEL
from syncevents.demo.watch import BUSINESS, STATUS_PATH, STREAM_PATH
from syncevents.events import EventType

_HOW_TO_GET_REDIS: Final = "for an embedded one: pip install 'syncevents[demo]'; for one that runs: --redis-url URL"

_TRY_IT: Final[dict[str, Any]] = {
    "event_type": EventType.SYNC_ORDER_CREATED,
    "integration_id": 7,
    "business_id": BUSINESS,
    "data": {"order_number": "#7", "total_amount": 12.5, "currency": "EUR", "status": "paid"},
}
"""Of another integration than the sync, so that it does not count there."""


def intro(daemon: Daemon, redis: Redis | None, program: str) -> Iterator[str]:
    """Yield the lines; `program` is how this one was called."""
    url = f"http://127.0.0.1:{daemon.port}"
    yield f"  synceventsd  process {daemon.process.pid}, takes events on {daemon.socket}"
    yield f"  redis        {redis.about if redis else f'off; {_HOW_TO_GET_REDIS}'}"
    yield ""
    yield "Open or paste while it runs:"
    yield f"  page         {url}/"
    yield f"  event stream curl -N {url}{STREAM_PATH}"
    yield f"  sync status  curl -s {shlex.quote(url + STATUS_PATH)}"
    yield f"  daemon       curl -s {url}/status"
    if redis:
        yield f"  redis        {redis.cli} subscribe {CHANNEL}"
    yield f"  publish      echo {shlex.quote(json.dumps(_TRY_IT, separators=(',', ':')))} \\"
    yield f"                 | socat - UNIX-CONNECT:{daemon.socket}"
    called = shlex.quote(program) if program.endswith("/syncevents") else "syncevents"
    yield f"               without socat: | {called} publish --socket {daemon.socket}"


def existing_redis(url: str) -> Redis:
    """Describe the server that somebody else runs; a password is not repeated."""
    shown = without_password(url)
    return Redis(url, f"at {shown}, which the demo did not start", f"redis-cli -u {shlex.quote(shown)}")


def without_password(url: str) -> str:
    """Return the URL as it may be shown."""
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@", 1) if password else url
