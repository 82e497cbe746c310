"""The WebSockets and SSE streams of this process: how many there may be, and how all of them are sent home."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

from api.gateway.protocol import MAX_SOCKETS_PER_USER, CloseCode
from api.metrics import Metrics
from api.revocations import REVOKED
from shared.errors import QuotaError
from shared.tokens import Identity

DRAIN_SPREAD_S = 2.0  # well below gunicorn's graceful_timeout, which is 5 s or more
DRAIN_STEPS = 20
DRAIN_BATCH = 50


class Connection(Protocol):
    """A client that follows: an open WebSocket or SSE stream."""

    identity: Identity

    def end(self, code: CloseCode, reason: str) -> None:
        """Has it closed; returns at once."""


class ConnectionManager:
    """Knows every client that follows.

    Args:
        metrics: shows how many there are.
        most: how many may be connected, signed in or not.
        most_of_address: how many of these from one address; None: not limited.
    """

    def __init__(self, metrics: Metrics, most: int, most_of_address: int | None) -> None:
        self._metrics = metrics
        self._most = most
        self._most_of_address = most_of_address
        self._admitted = 0
        self._addresses: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._by_user: dict[str, dict[Connection, None]] = {}  # oldest first
        self.draining = False

    @contextmanager
    def admit(self, address: str) -> Iterator[None]:
        """Counts a client for the time of the block, from before it says who it is.

        Raises:
            QuotaError: there are too many, in all or from this address.
        """
        with self._lock:
            if self._admitted >= self._most:
                raise QuotaError(f"{self._most} connections are open, which is all; try again", retry_after_s=5)
            if self._most_of_address is not None and self._addresses[address] >= self._most_of_address:
                raise QuotaError(f"{self._most_of_address} connections of your address are open", retry_after_s=5)
            self._admitted += 1
            self._addresses[address] += 1
        try:
            yield
        finally:
            with self._lock:
                self._admitted -= 1
                self._addresses[address] -= 1
                if not self._addresses[address]:
                    del self._addresses[address]

    @contextmanager
    def register(self, user_id: str, connection: Connection, *, replace: bool = True) -> Iterator[None]:
        """Keeps a connection for the time of the block.

        Args:
            replace: whether the user's oldest makes room if there are too many.

        Raises:
            QuotaError: there are too many, and none is to make room.
        """
        with self._lock:
            own = self._by_user.setdefault(user_id, {})
            oldest = next(iter(own)) if len(own) >= MAX_SOCKETS_PER_USER else None
            if oldest is not None and not replace:
                raise QuotaError(f"{MAX_SOCKETS_PER_USER} connections of yours are open", retry_after_s=5)
            if oldest is not None:
                del own[oldest]
            own[connection] = None
            self._metrics.sockets.inc()
        if oldest is not None:
            oldest.end(CloseCode.REPLACED, f"more than {MAX_SOCKETS_PER_USER} connections")
        if self.draining:
            connection.end(CloseCode.DRAINING, "the server is restarting")
        try:
            yield
        finally:
            with self._lock:
                self._metrics.sockets.dec()
                own.pop(connection, None)
                if not own and self._by_user.get(user_id) is own:
                    del self._by_user[user_id]

    def revoke(self, user_id: str, revoked_at: datetime) -> None:
        """Ends what the user opened with tokens that were issued up to then."""
        with self._lock:
            connections = list(self._by_user.get(user_id, ()))
        for connection in connections:
            if connection.identity.issued_at <= revoked_at:
                connection.end(CloseCode.UNAUTHORIZED, REVOKED)

    def drain(self) -> None:
        """Sends every connection home, so many at a time that they do not all come back at once; new ones at once."""
        self.draining = True
        with self._lock:
            connections = [connection for own in self._by_user.values() for connection in own]
        random.shuffle(connections)
        batch = max(DRAIN_BATCH, math.ceil(len(connections) / DRAIN_STEPS))
        for start in range(0, len(connections), batch):
            if start:
                time.sleep(DRAIN_SPREAD_S / DRAIN_STEPS)
            for connection in connections[start : start + batch]:
                connection.end(CloseCode.DRAINING, "the server is restarting")
