"""What the gateway is compared with: an asyncio server of the `websockets` library that broadcasts from Redis."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import defaultdict

import redis.asyncio
from websockets.asyncio.server import ServerConnection, broadcast, serve

rooms: defaultdict[str, set[ServerConnection]] = defaultdict(set)


async def stream(connection: ServerConnection) -> None:
    """Keeps the connection in its channel's room until it closes."""
    assert connection.request is not None
    room = rooms[connection.request.path.removeprefix("/")]
    room.add(connection)
    try:
        await connection.wait_closed()
    finally:
        room.discard(connection)


async def main(port: int) -> None:
    """Serves until it is ended, and sends on what is published on all channels of the deployment."""
    pubsub = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True).pubsub()
    await pubsub.psubscribe(os.environ["CHANNELS"])
    async with serve(stream, "127.0.0.1", port, backlog=2048):
        async for message in pubsub.listen():
            if message["type"] == "pmessage":
                broadcast(rooms[message["channel"]], message["data"])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
