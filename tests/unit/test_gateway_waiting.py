"""One WebSocket's stream over a pair of sockets that keeps writes apart: what is written together, and how it ends."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import gevent.socket  # type: ignore[import-untyped]
import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, TextMessage

from api.gateway import stream as stream_module
from api.gateway.channel import Channel, Listener
from api.gateway.outbox import MAX_FRAMES
from api.gateway.protocol import CloseCode, Hello, StreamClosedError
from api.gateway.replay import Opening
from api.gateway.socket import StreamSocket
from api.gateway.stream import Stream
from shared.tokens import Identity
from tests.websockets import PATIENCE_S, upgrade

HELLO = Hello(ticket=None, after=None)
MAX_PINGS = 40  # a client that is not given up by then leaves


class Client:
    """Reads write by write in a thread, until the end.

    Args:
        raw: its end of the connection.
        pongs: how many pings it answers.
        last: the `seq` after which it leaves.
    """

    def __init__(self, raw: socket.socket, *, pongs: int = 0, last: int = 0) -> None:
        self.writes: list[list[dict[str, Any]]] = []
        self.code: int | None = None
        self.pings = 0
        self.cut = False  # the server's end came, without a word of ours
        self._raw = raw
        self._pongs = pongs
        self._last = last
        self._frames = Connection(ConnectionType.CLIENT)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        with self._raw:
            while self._read():
                pass

    def _read(self) -> bool:
        try:
            data = self._raw.recv(1 << 20)
        except TimeoutError:
            return False
        self.cut = not data
        self._frames.receive_data(data or None)
        texts = []
        for event in self._frames.events():
            if isinstance(event, TextMessage):
                texts.append(json.loads(event.data))
            elif isinstance(event, CloseConnection) and data:
                self.code = event.code
        self.writes.append(texts)
        if texts and texts[-1]["t"] == "ping":
            self.pings += 1
            if self.pings <= self._pongs:
                self._raw.sendall(self._frames.send(TextMessage('{"t":"pong"}')))
        left = bool(texts) and texts[-1].get("seq") == self._last
        return not (self.cut or left or self.code or self.pings == MAX_PINGS)


class Busy(Channel):
    """At the last moment before a listener is live, so many events come: all but one together."""

    def __init__(self, count: int) -> None:
        super().__init__("alice", "channel")
        self._views = [{"t": "event", "seq": number} for number in range(1, count + 1)]

    def add(self, listener: Listener) -> int:
        position = super().add(listener)
        self.receive(self._views[:-1])
        self.receive(self._views[-1:])
        return position


class Empty:
    """A log with nothing in it."""

    def open(self, after: int | None) -> Opening:
        assert after is None
        return Opening(0, {"head": 0})


@pytest.fixture
def ends() -> Iterator[tuple[StreamSocket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(PATIENCE_S)
    with gevent.socket.socket(fileno=ours.detach()) as served, theirs:  # greenlets take turns, as they do in the api
        accepted = StreamSocket(upgrade(served), max_message_bytes=1000)
        assert theirs.recv(1000).startswith(b"HTTP/1.1 101")
        yield accepted, theirs


def serve(accepted: StreamSocket, events: int = 0) -> None:
    now = datetime.now(UTC)
    nobody = cast("Any", None)  # asks for nothing
    channel = Busy(events)
    channel.place(0)
    served = Stream(accepted, Identity("alice", frozenset(), now, now + timedelta(hours=1)), nobody, nobody)
    served.run(channel, cast("Any", Empty()), HELLO)


def test_what_waits_is_written_together(ends: tuple[StreamSocket, socket.socket]) -> None:
    client = Client(ends[1], last=MAX_FRAMES)
    serve(ends[0], MAX_FRAMES)
    client.join()
    written = [[text["seq"] for text in texts] for texts in client.writes if texts and texts[0]["t"] == "event"]
    assert written == [list(range(begin, begin + 16)) for begin in range(1, MAX_FRAMES + 1, 16)]


def test_who_has_more_waiting_than_may_when_more_comes_is_too_slow(ends: tuple[StreamSocket, socket.socket]) -> None:
    client = Client(ends[1], last=MAX_FRAMES + 2)
    with pytest.raises(StreamClosedError) as ending:
        serve(ends[0], MAX_FRAMES + 2)
    client.join()
    assert (ending.value.code, client.code) == (CloseCode.TOO_SLOW, 4408)


def test_who_answers_no_ping_any_more_is_given_up(
    ends: tuple[StreamSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "PING_S", 0.1)
    monkeypatch.setattr(stream_module, "SILENCE_S", 0.8)
    client = Client(ends[1], pongs=10, last=-1)
    serve(ends[0])
    client.join()
    assert client.pings > 10  # who answers stays
    assert (client.cut, client.code) == (True, None)
