from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import cast

import gevent  # type: ignore[import-untyped]
import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, TextMessage

from api.gateway.executor import ConnectionExecutor
from api.gateway.socket import StreamSocket
from api.gateway.stream import Stream
from api.gateway.tickets import Tickets
from shared.tokens import Identity
from tests.websockets import accepted

PATIENCE_S = 20.0
MUCH = b"x" * 2_000_000  # more than the network's buffers hold


def test_what_has_come_is_read_however_late_we_are() -> None:
    with accepted() as (ours, theirs):
        theirs.sendall(Connection(ConnectionType.CLIENT).send(TextMessage("hello")))
        long_ago = time.monotonic() - 1
        assert list(ours.messages(deadline=long_ago)) == ["hello"]
        began = time.monotonic()
        assert list(ours.messages(deadline=long_ago)) == []
        assert time.monotonic() - began < 1


def test_a_reader_that_looks_again_and_again_leaves_the_writer_its_time() -> None:
    def look(socket: StreamSocket) -> None:
        while not socket.ended:
            assert list(socket.messages(deadline=time.monotonic() + 0.01)) == []

    with accepted() as (ours, theirs):
        writing = gevent.spawn(ours.write, MUCH)
        looking = gevent.spawn(look, ours)
        left = len(MUCH)
        while left and (data := theirs.recv(1 << 18)):
            left -= len(data)
            gevent.sleep(0.05)  # longer than the reader waits
        writing.get(timeout=PATIENCE_S)
        theirs.close()
        looking.get(timeout=PATIENCE_S)


def test_who_takes_a_little_now_and_then_has_no_longer_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.gateway.socket.SEND_BUFFER_BYTES", 8192)
    monkeypatch.setattr("api.gateway.socket.WRITE_DEADLINE_S", 0.5)
    with accepted() as (ours, theirs):
        writing = gevent.spawn(ours.write, MUCH)
        with gevent.Timeout(PATIENCE_S):
            while not writing.ready():
                theirs.recv(4096)
                gevent.sleep(0.02)
        with pytest.raises(TimeoutError):
            writing.get()


def test_who_was_catching_up_for_long_is_pinged_before_anything_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.gateway.stream.PING_S", 0.05)
    now = datetime.now(UTC)
    identity = Identity("alice", frozenset(), now, now + timedelta(minutes=5))
    with accepted() as (ours, theirs):
        stream = Stream(ours, identity, cast("ConnectionExecutor", None), cast("Tickets", None))
        stream._heard_at -= 60
        serving = gevent.spawn(stream._serve)
        received = b""
        with gevent.Timeout(PATIENCE_S):
            while b'"ping"' not in received:
                data = theirs.recv(4096)
                assert data, "cut without a ping"
                received += data
        theirs.sendall(Connection(ConnectionType.CLIENT).send(CloseConnection(1000)))
        serving.get(timeout=PATIENCE_S)
