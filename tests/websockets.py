"""WebSocket frames made by hand, sound or not, and a connection that sends them and reads what comes back."""

from __future__ import annotations

import json
import os
import socket
import struct
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from typing import Any, NamedTuple

from gevent.socket import socketpair  # type: ignore[import-untyped]

from api.gateway.socket import StreamSocket
from tests.api_process import Server

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MASK = b"\x37\xfa\x21\x3d"
PATIENCE_S = 10.0


def frame(  # noqa: PLR0913 - all that a frame is made of
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length: bytes | None = None,
) -> bytes:
    """Returns the bytes of a client's frame.

    Args:
        rsv: the three reserved bits, 4 being RSV1.
        mask: four bytes; None: not masked.
        length: the length as it is to be written, seven bits and what follows them; default: what is right.
    """
    size = len(payload)
    if length is None:
        short = bytes((min(size, 126 if size < 1 << 16 else 127),))
        length = (
            short if size < 126 else short + (struct.pack("!H", size) if size < 1 << 16 else struct.pack("!Q", size))
        )
    head = bytes((fin << 7 | rsv << 4 | opcode, (mask is not None) << 7 | length[0])) + length[1:]
    if mask is None:
        return head + payload
    key = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size) if size else b""
    return head + mask + masked


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """Returns a close frame."""
    return frame(CLOSE, struct.pack("!H", code) + reason)


def handshake(server: Server, user_id: str, **headers: str | None) -> bytes:
    """Returns an upgrade request with these headers (`_` for `-`) in place of the usual ones; None: without."""
    fields = {
        "Host": server.url.removeprefix("http://"),
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": b64encode(os.urandom(16)).decode(),
        "Authorization": f"Bearer {server.token(user_id)}",
    }
    changes = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in {**fields, **changes}.items() if value is not None]
    return "\r\n".join(["GET /v1/stream HTTP/1.1", *lines, "", ""]).encode("latin-1")


def upgrade(accepted: socket.socket) -> dict[str, Any]:
    """Returns what gunicorn makes of such a request that came over this socket."""
    return {
        "gunicorn.socket": accepted,
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_UPGRADE": "websocket",
        "HTTP_SEC_WEBSOCKET_KEY": b64encode(os.urandom(16)).decode(),
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_HOST": "lanewise.test",
        "PATH_INFO": "/v1/stream",
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
    }


class Frame(NamedTuple):
    """One of the server's."""

    opcode: int
    payload: bytes


class Wire:
    """A connection by hand. Everything that it waits for has a bound.

    Args:
        raw: connected.
        file: of the socket, to read.
    """

    def __init__(self, raw: socket.socket, file: BufferedReader) -> None:
        self.raw = raw
        self._file = file

    def send(self, data: bytes) -> None:
        """Sends bytes; what a server that has closed does not take any more is no failure."""
        with suppress(ConnectionError):
            self.raw.sendall(data)

    def head(self) -> tuple[int, dict[str, str]]:
        """Reads the head of an HTTP answer: its status, and the headers in lower case."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip().decode("latin-1"):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return status, headers

    def hello(self) -> None:
        """Signs in and waits until the stream is live."""
        self.send(frame(TEXT, b'{"t":"hello","v":1,"after":null}'))
        while self.json()["t"] != "live":
            pass

    def read(self) -> Frame | None:
        """Reads the server's next frame, None at the end; its form is checked."""
        head = self._file.read(2)
        if not head:
            return None
        assert head[0] & 0xF0 == 0x80, "servers send whole messages, without reserved bits"
        assert head[1] < 0x80, "servers do not mask"
        size = head[1]
        if size >= 126:
            size = int.from_bytes(self._file.read(2 if size == 126 else 8))
        payload = self._file.read(size)
        assert len(payload) == size, "the end came inside a frame"
        return Frame(head[0] & 0x0F, payload)

    def json(self) -> dict[str, Any]:
        """Reads up to the next text frame, and returns its object."""
        while (found := self.read()) is not None:
            assert found.opcode != CLOSE, close_code(found)
            if found.opcode == TEXT:
                value: dict[str, Any] = json.loads(found.payload)
                return value
        raise AssertionError("the server ended without a close frame")

    def rest(self) -> list[Frame]:
        """Reads everything up to the end."""
        return list(iter(self.read, None))


def close_code(found: Frame) -> int | None:
    """Returns the code of a close frame, None if it has none."""
    assert found.opcode == CLOSE
    return int.from_bytes(found.payload[:2]) if found.payload else None


@contextmanager
def wire(server: Server) -> Iterator[Wire]:
    """Connects, without a word."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with raw.makefile("rb") as file:
            yield Wire(raw, file)


@contextmanager
def live(server: Server, user_id: str) -> Iterator[Wire]:
    """Connects and signs in."""
    with wire(server) as connection:
        connection.send(handshake(server, user_id))
        assert connection.head()[0] == 101
        connection.hello()
        yield connection


@contextmanager
def accepted() -> Iterator[tuple[StreamSocket, socket.socket]]:
    """Yields a connection as the server has it, in this process, and the client's end; both are for greenlets."""
    ours, theirs = socketpair()
    with ours, theirs:
        made = StreamSocket(upgrade(ours), max_message_bytes=1000)
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += theirs.recv(4096)
        yield made, theirs
