"""The command `syncevents tail`: events as they come, a line each."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from syncevents.checks import MAX_ID
from syncevents.reading import iter_events
from syncevents.reading.asking import MAX_REPLAY
from syncevents.reading.values import Gap, Received
from syncevents.reading_options import ENDINGS, Patience, Where, endings, tell, where_options
from syncevents.telling import SHORT_NAMES, event_json, event_line, gap_json, gap_line
from syncevents.terminal import shows_colours

_DEFAULT_REPLAY: Final = 10
_SINCE_REPLAY: Final = 100_000  # what --since looks through: some 60 MB, and seconds
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_COLOURS: Final = {
    "order.created": "green",
    "order.updated": "cyan",
    "order.rejected": "yellow",
    "sync.failed": "red",
}
_BOLD: Final = ("sync.started", "sync.completed", "sync.failed")

_EPILOG: Final = f"""\b
Examples:
  syncevents tail                                   everything, from the last 10 events on
  syncevents tail --business 42 --since 10m         one shop, from ten minutes ago on
  syncevents tail -t order.rejected -t sync.failed  what went wrong
  syncevents tail --order 6f1c8f0e --replay 1000    the story of one order
  syncevents tail --json | jq .data.order_number    for programs: one JSON object a line

\b
It goes on until Ctrl-C, and reconnects by itself without missing an event. Where events
are missing all the same (they are no longer kept, say), it tells so on standard error;
with --json also as {{"gap": ...}}.

\b
--since looks at the time that the publisher wrote into the event, among the newest
{_SINCE_REPLAY} events that match (--replay looks further, or less far). From the first event
of that time on, everything is shown.

{ENDINGS}"""


def _read_ago(ctx: click.Context, param: click.Parameter, value: str | None) -> timedelta | None:
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,5})([smhd])", value)
    if match is None:
        raise click.BadParameter(f"{value!r}: write a number and s, m, h or d, such as 10m.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _complete_type(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in SHORT_NAMES.values() if name.startswith(incomplete)]


@click.command(epilog=_EPILOG, short_help="Show events as they come.")
@click.option(
    "-b", "--business", type=click.IntRange(1, MAX_ID), metavar="N", help="Only this business's and global ones."
)
@click.option("-i", "--integration", type=click.IntRange(0, MAX_ID), metavar="N", help="Only of this integration.")
@click.option(
    "-t",
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    shell_complete=_complete_type,
    help=f"Only of this type; repeat for more. {', '.join(SHORT_NAMES.values())}, or another's full name.",
)
@click.option("-o", "--order", "orders", multiple=True, metavar="ID", help="Only of this order_id; repeat for more.")
@click.option("--since", callback=_read_ago, metavar="TIME", help="Begin so long ago: 90s, 10m, 2h or 1d.")
@click.option(
    "-n",
    "--replay",
    type=click.IntRange(0, MAX_REPLAY),
    metavar="N",
    help=f"Begin with the newest N that match.  [default: {_DEFAULT_REPLAY}, with --since {_SINCE_REPLAY}]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@where_options
def tail(since: timedelta | None, replay: int | None, as_json: bool, **asked: Any) -> None:
    """Show events as they come, a line each: when, integration/business, what."""
    where = Where(asked["url"], asked["token_file"])
    if replay is None:
        replay = _DEFAULT_REPLAY if since is None else _SINCE_REPLAY
    begin = None if since is None else datetime.now(UTC) - since
    with endings():
        patience = Patience(where.address, tell)
        stream = iter_events(
            business_id=asked["business"],
            integration_id=asked["integration"],
            event_types=_full_names(asked["types"]) or None,
            order_ids=asked["orders"] or None,
            replay=replay,
            url=where.url,
            token=where.token,
            on_open=patience.found,
            on_retry=patience.lost,
        )
        with stream as items:
            for item in _from(begin, items):
                _show(item, as_json=as_json)


def _full_names(names: tuple[str, ...]) -> list[str]:
    full = {short: name for name, short in SHORT_NAMES.items()}
    return [full.get(name, name) for name in names]


def _from(begin: datetime | None, items: Iterator[Received | Gap]) -> Iterator[Received | Gap]:
    """Leave out the events before the first one of that time; those behind it are new, whatever time they bear."""
    for item in items:
        if begin is None or isinstance(item, Gap) or item.timestamp >= begin:
            begin = None
            yield item


def _show(item: Received | Gap, *, as_json: bool) -> None:
    if isinstance(item, Gap):
        tell(gap_line(item))
        if as_json:
            click.echo(gap_json(item))
    elif as_json:
        click.echo(event_json(item))
    else:
        name = SHORT_NAMES.get(item.type, item.type)
        line = event_line(item)
        click.echo(click.style(line, fg=_COLOURS.get(name), bold=name in _BOLD) if shows_colours() else line)
