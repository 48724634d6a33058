"""A subscriber in Python: the Redis channel, an event a message. Needs `pip install redis`.

Redis keeps nothing for who is away: a program that must miss nothing reads the stream of Server-Sent Events.
"""

import json
import os
import sys
import time
from typing import Any

import redis

CHANNEL = "probability:integrations:orders:sync:events"


def handle(event: dict[str, Any]) -> None:
    """What the program is for."""
    print(event["event_type"], event["integration_id"], event.get("business_id"), event["id"], flush=True)


def listen(client: redis.Redis) -> None:
    """Handle events until the connection breaks."""
    with client.pubsub(ignore_subscribe_messages=False) as channel:
        channel.subscribe(CHANNEL)
        for message in channel.listen():
            if message["type"] == "subscribe":
                print("subscribed", file=sys.stderr, flush=True)
            elif message["type"] == "message":
                handle(json.loads(message["data"]))


def main() -> None:
    """Subscribe again after every cut."""
    # No timeout: a channel may be quiet for as long as it likes.
    client = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"), socket_timeout=None)
    while True:
        try:
            listen(client)
        except redis.ConnectionError as error:
            print(error, file=sys.stderr, flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
