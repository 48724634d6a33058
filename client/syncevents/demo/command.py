"""The command `syncevents demo`: its options, and how it ends.

Rule of this file: it imports nothing beyond click and the standard library before it knows that the rest is installed.
"""

import importlib.util
import sys
from importlib.resources import files
from pathlib import Path
from typing import Final

import click

_DEFAULT_RATE: Final = 12.0  # orders a second: the sample takes 25 s
_NEEDED: Final = ("cattrs", "hypercorn", "msgspec", "quart_trio", "redis", "structlog", "trio")
_INTERRUPTED: Final = 130
_SAMPLE: Final = "orders.json"


@click.command(short_help="Show the whole system at work.")
@click.option(
    "--orders",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Orders as Shopify's Admin REST API gives them.  [default: 300 invented ones]",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0.01, max=1e6),
    default=_DEFAULT_RATE,
    show_default=True,
    metavar="N",
    help="Orders a second.",
)
@click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="Port for HTTP.  [default: a free one]")
@click.option(
    "--stay/--no-stay",
    default=None,
    help="Whether to go on running after the sync, until Ctrl-C.  [default: only on a terminal]",
)
@click.option(
    "--redis-url",
    metavar="URL|none",
    help="Use this Redis; its subscribers get the demo's events. none: use none.  [default: an embedded one]",
)
def demo(file: Path | None, rate: float, port: int | None, stay: bool | None, redis_url: str | None) -> None:
    """Show the whole system at work: a shop's orders are synchronised, and everybody who watches reports.

    Starts the daemon and an embedded Redis-compatible server in a temporary directory; at the end both are stopped and
    the directory is removed. An order counts as updated when its updated_at is later than its created_at, as rejected
    when it was cancelled, has no line items or is malformed, and as created otherwise.

    Exit status 0 when the Redis subscriber, the SSE reader and the sync status agree with what was published, else 1.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise click.ClickException(f"the demo needs {', '.join(missing)}: pip install 'syncevents[demo]'")
    from syncevents.demo.failure import DemoError
    from syncevents.demo.interrupts import interrupted_once
    from syncevents.demo.shopify import OrdersError, read_orders
    from syncevents.demo.stage import Plan, run

    name = _SAMPLE if file is None else str(file)
    try:
        orders = read_orders(_read(file))
    except OrdersError as error:
        raise click.ClickException(f"{name} {error}") from None
    stays = sys.stdout.isatty() if stay is None else stay
    with interrupted_once():
        try:
            agree = run(Plan(name, orders, rate), port, redis_url, stays=stays)
        except DemoError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            click.echo("\nStopped before the end; nothing is left behind.", err=True)
            sys.exit(_INTERRUPTED)
    if stays:
        click.echo("\nStopped; nothing is left behind.")
    sys.exit(0 if agree else 1)


def _read(file: Path | None) -> bytes:
    if file is None:
        return (files("syncevents.demo") / _SAMPLE).read_bytes()
    try:
        return file.read_bytes()
    except OSError as error:
        raise click.ClickException(f"{file} cannot be read: {error.strerror}") from None
