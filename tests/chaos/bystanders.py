"""Users who go on while runs of others are interrupted: they ask the api, hang up on it, listen, and check it all."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests import plain
from tests.fleet.fleet import Fleet

HUNG_UP_EVERY_S, ASKED_EVERY_S = 0.4, 0.4  # by each user, on average; more would be a flood, which is another test
AWAY_S = 0.005  # after a request, at most
PATHS = ("/v1/documents/own", "/v1/me", "/v1/runs?limit=200", "/v1/threads")
RESET = struct.pack("ii", 1, 0)


class Bystanders:
    """Watches until the end of the `with` block of `watching`.

    Args:
        note: told of each answer that was somebody else's.

    Attributes:
        checked: answers that were looked at, by where they came from.
        hung_up: requests whose client went away before any answer.
        lost: streams that were closed.
    """

    def __init__(self, fleet: Fleet, users: Sequence[str], note: Callable[[str], None]) -> None:
        self.checked: Counter[str] = Counter()
        self.hung_up = 0
        self.lost: list[str] = []
        self._fleet = fleet
        self._users = users
        self._note = note
        self._lock = threading.Lock()
        self._over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Has all of them go on meanwhile."""
        with ExitStack() as stack:
            for user in self._users:
                self._fleet.client(user).put_document("own", user)
                stack.enter_context(self._listening(user))
                stack.enter_context(_in_thread(self._ask, user))
                stack.enter_context(_in_thread(self._hang_up, user))
            stack.callback(self._over.set)
            yield

    def check(self, user: str) -> None:
        """Asks for what says whose it is, over a connection of its own."""
        headers = {"Authorization": f"Bearer {self._fleet.token(user)}"}
        with suppress(httpx.HTTPError), plain.client(base_url=self._fleet.url, headers=headers, timeout=30) as http:
            document, own = http.get("/v1/documents/own"), http.get("/v1/me")
            if document.is_success and document.text != user:
                self._note(f"the document of {document.text!r} for {user!r}")
            if own.is_success and own.json()["user_id"] != user:
                self._note(f"{own.text} for {user!r}")
            with self._lock:
                self.checked["the api's"] += document.is_success + own.is_success

    def _ask(self, user: str) -> None:
        while not self._over.wait(ASKED_EVERY_S):
            self.check(user)

    def _hang_up(self, user: str) -> None:
        """Sends requests and resets the connection, most often before there is an answer."""
        url, chance = urlsplit(self._fleet.url), random.Random(user)
        token = self._fleet.token(user)
        while not self._over.wait(chance.uniform(0, 2 * HUNG_UP_EVERY_S)):
            with suppress(OSError), socket.create_connection((url.hostname, url.port), timeout=5) as sock:
                head = f"GET {chance.choice(PATHS)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}"
                sock.sendall(f"{head}\r\n\r\n".encode())
                time.sleep(chance.uniform(0, AWAY_S))
                sock.setblocking(False)
                try:
                    sock.recv(1)
                except BlockingIOError:
                    with self._lock:
                        self.hung_up += 1
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    @contextmanager
    def _listening(self, user: str) -> Iterator[None]:
        headers = {"Authorization": f"Bearer {self._fleet.token(user)}"}
        with connect(self._fleet.stream_url, additional_headers=headers) as stream:
            stream.send(json.dumps({"t": "hello", "v": 1, "after": None}))

            def listen() -> None:
                with suppress(ConnectionClosed):
                    for text in stream:
                        frame = json.loads(text)
                        self._look_at_event(user, frame)
                        if frame["t"] == "ping":
                            stream.send('{"t":"pong"}')
                if not self._over.is_set():
                    self.lost.append(f"the stream of {user} was closed: {stream.close_code}")

            with _in_thread(listen):
                yield
                stream.close()

    def _look_at_event(self, user: str, event: dict[str, Any]) -> None:
        if event.get("type") == "agent_thinking":
            with self._lock:
                self.checked["events"] += 1
            if not event["data"]["text"].startswith(f"{user} {event['run_id']} "):
                self._note(f"the event {event!r} for {user!r}")


@contextmanager
def _in_thread(work: Callable[..., None], *arguments: Any) -> Iterator[None]:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)
