"""The command `syncevents sync-status`: the sync of one integration that is going on, and the last one."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from syncevents.checks import MAX_ID
from syncevents.reading.answers import get_json
from syncevents.reading.asking import Address
from syncevents.reading_options import ENDINGS, Unreachable, Where, endings, where_options
from syncevents.telling import clock, counts, printable, span, to_json

_EPILOG: Final = f"""\b
Examples:
  syncevents sync-status 13                   the latest sync of integration 13
  syncevents sync-status 13 --business 42     the latest one for that shop
  syncevents sync-status 13 --json | jq .in_progress

\b
A sync of which nothing was heard for long (status.stalled_after) is marked STALLED.
--json prints the daemon's answer as it is. An integration never heard of is no error.

{ENDINGS}"""


@click.command(epilog=_EPILOG, short_help="Show the sync of one integration.")
@click.argument("integration", type=click.IntRange(0, MAX_ID))
@click.option("-b", "--business", type=click.IntRange(1, MAX_ID), metavar="N", help="Its sync for this business.")
@click.option("--json", "as_json", is_flag=True, help="The daemon's answer, as one line of JSON.")
@where_options
def sync_status(integration: int, business: int | None, as_json: bool, url: str, token_file: Path | None) -> None:
    """Show the sync of INTEGRATION that is going on, with its counters, and the last one that ended."""
    where = Where(url, token_file)
    with endings():
        answer = ask(where.address, integration, business, where.token())
        if as_json:
            click.echo(to_json(answer))
        else:
            for line in _lines(integration, business, answer, datetime.now(UTC)):
                click.echo(printable(line))


def ask(address: Address, integration: int, business: int | None, token: str | None) -> dict[str, Any]:
    """Return the daemon's answer; raises Refused, NotUnderstood or Unreachable."""
    query = "" if business is None else f"?business_id={business}"
    try:
        return get_json(address, f"/integrations/events/sync-status/{integration}{query}", token)
    except OSError as error:
        raise Unreachable(f"no daemon answers at {address}: {error.strerror or error}") from None


def _lines(integration: int, business: int | None, answer: Mapping[str, Any], now: datetime) -> Iterator[str]:
    running, last = answer.get("sync_state"), answer.get("last_sync")
    business = answer.get("business_id") if business is None else business
    shop = "" if business is None else f", business {business}"
    name = f"integration {integration}{shop}"
    if isinstance(running, dict):
        took = elapsed(running.get("started_at"), now)
        stalled = "   STALLED" if answer.get("stalled") else ""
        yield f"{name} ({running.get('integration_type')}): in progress for {span(took or 0)}{stalled}"
        yield f"  {counts(running)}"
    elif isinstance(last, dict):
        yield f"{name} ({last.get('integration_type')}): no sync is going on"
    else:
        yield f"{name}: no sync is known"
    if isinstance(last, dict):
        yield f"last sync: {last.get('status')} {_when(last.get('finished_at'))}{_took(last)}"
        yield f"  {last['error']}" if last.get("status") == "failed" else f"  {counts(last)}"


def elapsed(started_at: object, now: datetime) -> float | None:
    """Return the seconds since a time in an answer; None where it is none."""
    moment = _time(started_at)
    return None if moment is None else (now - moment).total_seconds()


def _took(last: Mapping[str, Any]) -> str:
    finished = _time(last.get("finished_at"))
    took = None if finished is None else elapsed(last.get("started_at"), finished)
    return "" if took is None else f", took {span(took)}"


def _when(text: object) -> str:
    moment = _time(text)
    return str(text) if moment is None else clock(moment)


def _time(text: object) -> datetime | None:
    """Return a time that a publisher wrote; None for what is none."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment
