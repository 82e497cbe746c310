"""What the gateway is compared with: the loop of Flask-Sock's documentation, with Redis behind it, in gunicorn."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from queue import SimpleQueue

import redis
from flask import Flask
from flask_sock import Sock
from simple_websocket import Server

app = Flask(__name__)
sock = Sock(app)
rooms: defaultdict[str, set[SimpleQueue[str]]] = defaultdict(set)


@sock.route("/<channel>")  # type: ignore[untyped-decorator] # published without types
def stream(ws: Server, channel: str) -> None:
    """Sends on what is published on the channel."""
    queue: SimpleQueue[str] = SimpleQueue()
    rooms[channel].add(queue)
    try:
        while True:
            ws.send(queue.get())
    finally:
        rooms[channel].discard(queue)


def listen() -> None:
    """Takes what is published on all channels of the deployment."""
    client = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
    pubsub = client.pubsub()  # type: ignore[no-untyped-call]
    pubsub.psubscribe(os.environ["CHANNELS"])
    for message in pubsub.listen():
        if message["type"] == "pmessage":
            for queue in list(rooms[message["channel"]]):
                queue.put(message["data"])


threading.Thread(target=listen, daemon=True).start()
