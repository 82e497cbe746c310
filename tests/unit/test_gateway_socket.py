from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, TextMessage

from api.gateway.executor import ConnectionExecutor
from api.gateway.socket import StreamSocket
from api.gateway.stream import Stream
from api.gateway.tickets import Tickets
from shared.tokens import Identity

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def accept(ours: socket.socket) -> StreamSocket:
    environ = {
        "gunicorn.socket": ours,
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_UPGRADE": "websocket",
        "HTTP_SEC_WEBSOCKET_KEY": KEY,
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_HOST": "lanewise.test",
        "PATH_INFO": "/v1/stream",
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
    }
    return StreamSocket(environ, max_message_bytes=1000)


def test_what_has_come_is_read_however_late_we_are(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    accepted = accept(ours)
    theirs.sendall(Connection(ConnectionType.CLIENT).send(TextMessage("hello")))
    long_ago = time.monotonic() - 1
    assert list(accepted.messages(deadline=long_ago)) == ["hello"]
    began = time.monotonic()
    assert list(accepted.messages(deadline=long_ago)) == []
    assert time.monotonic() - began < 1


def test_who_was_catching_up_for_long_is_pinged_before_anything_is_missed(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ends
    monkeypatch.setattr("api.gateway.stream.PING_S", 0.05)
    now = datetime.now(UTC)
    identity = Identity("alice", frozenset(), now, now + timedelta(minutes=5))
    with futures.ThreadPoolExecutor() as pool:
        stream = Stream(accept(ours), identity, cast("ConnectionExecutor", None), cast("Tickets", None))
        stream._heard_at -= 60
        theirs.settimeout(5)
        answered = pool.submit(_close_at_first_ping, theirs)
        stream._serve()
        assert answered.result(5)


def _close_at_first_ping(theirs: socket.socket) -> bool:
    received = b""
    while b'"ping"' not in received:
        data = theirs.recv(4096)
        if not data:
            return False
        received += data
    theirs.sendall(Connection(ConnectionType.CLIENT).send(CloseConnection(1000)))
    return True
