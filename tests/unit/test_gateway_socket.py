from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from api.gateway.socket import StreamSocket
from tests.websockets import upgrade


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_what_has_come_is_read_however_late_we_are(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    accepted = StreamSocket(upgrade(ours), max_message_bytes=1000)
    theirs.sendall(Connection(ConnectionType.CLIENT).send(TextMessage("hello")))
    long_ago = time.monotonic() - 1
    assert list(accepted.messages(deadline=long_ago)) == ["hello"]
    began = time.monotonic()
    assert list(accepted.messages(deadline=long_ago)) == []
    assert time.monotonic() - began < 1
