"""Frames between runner, zygote and sandbox: four bytes of length, then one JSON object in UTF-8."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

from shared.errors import FrameError

MAX_FRAME_BYTES = 6 * 1024 * 1024  # the largest honest frame is an artifact: 4 MiB in base64
_LENGTH = struct.Struct("!I")


def encode_frame(value: dict[str, Any]) -> bytes:
    """Returns the frame of a JSON object.

    Raises:
        FrameError: what JSON cannot carry, NaN and infinities included, or a frame above 6 MiB.
    """
    try:
        body = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise FrameError(f"not a JSON value: {error}") from None
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes; the limit is {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into frames; what it holds never exceeds one frame and one read."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Adds bytes and yields each complete frame.

        Raises:
            FrameError: an announced length above the limit, or a body that is not a JSON object. The stream cannot be
                read on after that.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"a frame of {length} bytes is announced; the limit is {MAX_FRAME_BYTES}")
            if len(self._buffer) < _LENGTH.size + length:
                return
            body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
            del self._buffer[: _LENGTH.size + length]
            yield _object(body)

    @property
    def inside(self) -> bool:
        """True when a frame has begun and its end has not come yet."""
        return bool(self._buffer)


class FrameWriter:
    """Frames on their way out over a socket that does not block.

    Args:
        sock: connected; it is set not to block.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._left = bytearray()
        self._moved_at = 0.0

    def put(self, value: dict[str, Any]) -> None:
        """Adds a frame and sends what goes at once.

        Raises:
            FrameError: not JSON, or too large.
        """
        if not self._left:
            self._moved_at = time.monotonic()
        self._left += encode_frame(value)
        self.flush()

    def flush(self) -> None:
        """Sends what goes without waiting. What the other side does not want any more, because it ended, is dropped."""
        try:
            while self._left:
                del self._left[: self._sock.send(self._left)]
                self._moved_at = time.monotonic()
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._left.clear()

    @property
    def waiting(self) -> bool:
        """True while something is left to be sent."""
        return bool(self._left)

    @property
    def stuck_s(self) -> float:
        """For how many seconds the other side has read nothing of what is left; 0 if nothing is."""
        return time.monotonic() - self._moved_at if self._left else 0.0


class FrameSocket:
    """Frames over a connected stream socket, one reader and one writer at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._reader = FrameReader()
        self._ready: list[dict[str, Any]] = []

    def send(self, value: dict[str, Any]) -> None:
        """Writes one frame out before it returns.

        Raises:
            FrameError: not JSON, or too large.
            OSError: the other side is gone, or the socket's time-out passed.
        """
        self.sock.sendall(encode_frame(value))

    def receive(self) -> dict[str, Any] | None:
        """Returns the next frame, None at the end of the stream.

        Raises:
            FrameError: what came is no frame, or the stream ended inside one.
            TimeoutError: nothing within the socket's time-out.
        """
        while not self._ready:
            data = self.sock.recv(65_536)
            if not data:
                if self._reader.inside:
                    raise FrameError("the stream ended inside a frame")
                return None
            self._ready.extend(self._reader.feed(data))
        return self._ready.pop(0)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise FrameError("a frame that is not JSON") from None
    if not isinstance(value, dict):
        raise FrameError("a frame that is not a JSON object")
    return value
