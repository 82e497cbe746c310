"""The WebSockets of this process, by user: how many each may have, and how all of them are sent home."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

from api.gateway.protocol import MAX_SOCKETS_PER_USER, CloseCode
from api.metrics import Metrics
from api.revocations import REVOKED
from shared.tokens import Identity


class Connection(Protocol):
    """A client that follows: an open WebSocket or SSE stream."""

    identity: Identity

    def end(self, code: CloseCode, reason: str) -> None:
        """Has it closed; returns at once."""


class ConnectionManager:
    """Knows every open WebSocket.

    Args:
        metrics: shows how many there are.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()
        self._by_user: dict[str, dict[Connection, None]] = {}  # oldest first
        self.draining = False

    @contextmanager
    def register(self, user_id: str, connection: Connection) -> Iterator[None]:
        """Keeps a connection for the time of the block; the user's oldest makes room if there are too many."""
        with self._lock:
            own = self._by_user.setdefault(user_id, {})
            oldest = next(iter(own)) if len(own) >= MAX_SOCKETS_PER_USER else None
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
        """Sends every connection home; new ones follow at once."""
        self.draining = True
        with self._lock:
            connections = [connection for own in self._by_user.values() for connection in own]
        for connection in connections:
            connection.end(CloseCode.DRAINING, "the server is restarting")
