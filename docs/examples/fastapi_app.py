"""FastAPI, under asyncio: one publisher for the application, opened and flushed with it.

uvicorn fastapi_app:app          (or hypercorn, or any other server)
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypedDict

from fastapi import FastAPI, Request

import syncevents


class State(TypedDict):
    """What every request gets at."""

    publisher: syncevents.AsyncPublisher


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[State]:
    """Open the publisher at the start; at the stop flush it, for up to 5 s."""
    async with syncevents.open_publisher(client="fastapi-example/1.0") as publisher:
        yield {"publisher": publisher}


app = FastAPI(lifespan=lifespan)


@app.post("/businesses/{business_id}/integrations/{integration_id}/sync", status_code=202)
async def sync(business_id: int, integration_id: int, request: Request) -> dict[str, str]:
    """Begin a synchronisation; the answer does not wait for the daemon, which may be down."""
    started = syncevents.SyncStarted(
        integration_id=integration_id, integration_type="shopify", started_at=datetime.now(UTC)
    )
    await request.state.publisher.publish_sync_started(integration_id, business_id, started)
    return {"status": "started"}
