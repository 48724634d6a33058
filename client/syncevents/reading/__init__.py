"""Reading events: `watch` for trio, `iter_events` for synchronous code.

Where things stand: `asking` what is asked for, `values` what comes, `ssetext` the text of an event stream, `retrying`
the pauses, `eventstream` and `websocket` the two readers, `answers` what is no stream.

Rule of this file: nothing is imported before it is used; a program that only publishes does not pay for reading.
"""

import importlib.util
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from syncevents.reading.eventstream import EventStream
    from syncevents.reading.websocket import Feed

DEFAULT_URL: Final = "http://127.0.0.1:8787"
"""Where the daemon answers by default."""

DEFAULT_TIMEOUT: Final = 45.0
"""Seconds: three times the daemon's default `http.keep_alive`."""


def watch(
    *,
    business_id: int | None = None,
    integration_id: int | None = None,
    event_types: Iterable[str] | None = None,
    order_ids: Iterable[str] | None = None,
    replay: int | None = None,
    last_event_id: str | None = None,
    url: str = DEFAULT_URL,
    token: str | Callable[[], str | Awaitable[str | None] | None] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    on_open: Callable[[], None] | None = None,
    on_retry: Callable[[str, float], None] | None = None,
) -> "AbstractAsyncContextManager[Feed]":
    """Read events under trio, over WebSocket; reconnects and resumes by itself, each event comes once and in order.

        async with syncevents.watch(business_id=42) as events:
            async for event in events:
                ...

    The block begins when the stream is open: what is accepted from then on comes. A `Gap` comes where events may be
    missing. Leaving the block, or cancelling it, ends everything.

    Args:
        business_id: whose events, beside the global ones; None: everybody's.
        integration_id: only of this integration.
        event_types: only of these types.
        order_ids: only of these orders.
        replay: how many of the newest events that match come first; None: 2000 for a business, none for everybody.
        last_event_id: go on right after this `position`; `replay` does not matter then.
        url: `http://host:port`, with the base path if there is one, or `unix:/path`.
        token: what `synceventsd token` prints; or a function, also an async one, that returns one. It is called for
            each connection, so a token that expired is replaced.
        timeout: seconds without anything, keep-alives included, after which the connection is given up.
        on_open: called whenever the stream is open, also again.
        on_retry: called when the connection was lost, with the reason and the seconds until the next try; without it
            the log `syncevents` has a warning. What these functions raise ends the block, in an exception group.

    Raises:
        ImportError: the extra `[watch]` is not installed.
        TypeError, ValueError: an argument is wrong; the message names it.
        Refused: from the block's beginning or from the iteration; everything else is retried for ever.
        NotUnderstood: what answers is no daemon, or a much newer one.
    """
    if any(importlib.util.find_spec(name) is None for name in ("trio", "trio_websocket")):
        raise ImportError("syncevents.watch needs trio and trio-websocket: pip install 'syncevents[watch]'")
    from syncevents.reading.asking import check_token, make_filter, make_request
    from syncevents.reading.retrying import check_timeout
    from syncevents.reading.websocket import Manners, open_feed

    filter_ = make_filter(integration_id, event_types, order_ids)
    check_token(token)
    request = make_request(url, business_id, filter_, replay, last_event_id)
    return open_feed(request, Manners(token, check_timeout(timeout), on_open, on_retry))


def iter_events(
    *,
    business_id: int | None = None,
    integration_id: int | None = None,
    event_types: Iterable[str] | None = None,
    order_ids: Iterable[str] | None = None,
    replay: int | None = None,
    last_event_id: str | None = None,
    url: str = DEFAULT_URL,
    token: str | Callable[[], str | None] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    on_open: Callable[[], None] | None = None,
    on_retry: Callable[[str, float], None] | None = None,
) -> "EventStream":
    """Read events in synchronous code, over Server-Sent Events; as `watch`, whose arguments and errors it has.

        for event in syncevents.iter_events(business_id=42):
            ...

    Used in a `with` block, it is open when the block begins, and closed when it ends. It needs no extra.
    """
    from syncevents.reading.asking import check_token, make_filter, make_request
    from syncevents.reading.eventstream import EventStream
    from syncevents.reading.retrying import check_timeout

    filter_ = make_filter(integration_id, event_types, order_ids)
    check_token(token)
    request = make_request(url, business_id, filter_, replay, last_event_id)
    return EventStream(request, token, check_timeout(timeout), on_open, on_retry)
