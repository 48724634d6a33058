"""The peer sse-starlette: what one writes with it, a queue for each reader. Started by peers.py, never imported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

queues: set[asyncio.Queue[str]] = set()


async def publish(request: Request) -> Response:
    """Hand the body to every reader."""
    text = (await request.body()).decode()
    for queue in queues:
        queue.put_nowait(text)
    return Response(status_code=202)


async def subscribe(request: Request) -> EventSourceResponse:
    """Stream what is published from now on."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    queues.add(queue)

    async def events() -> AsyncIterator[dict[str, str]]:
        try:
            while True:
                yield {"event": "integration.sync.order.created", "data": await queue.get()}
        finally:
            queues.discard(queue)

    return EventSourceResponse(events())


app = Starlette(routes=[Route("/pub", publish, methods=["POST"]), Route("/sub", subscribe)])
