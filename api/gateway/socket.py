"""One WebSocket on the server's side, made safe for many readers of one stream.

simple-websocket's own `send` may write half a frame under gevent and may not be called by two greenlets; it accepts
compression (which costs three times the memory and makes frames stateful), buffers what comes in without limit and
reads in a thread of its own. Here one lock guards all writing, each write has a deadline, nothing is compressed, and
the request's own greenlet reads: it takes no more from the network than it can handle.
"""

from __future__ import annotations

import binascii
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

from gevent.socket import wait_read, wait_write  # type: ignore[import-untyped]
from simple_websocket import ConnectionError as HandshakeError
from simple_websocket import Server
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, ProtocolError

from api.gateway.protocol import BYTES_PER_WRITE, CloseCode, StreamClosedError, bad_message
from shared.errors import BadRequestError, UpgradeRequiredError

WRITE_DEADLINE_S = 10.0  # for each `BYTES_PER_WRITE`: who takes a byte now and then does not keep us
RECEIVE_BYTES = 16 * 1024
SEND_BUFFER_BYTES = 256 * 1024  # the kernel would let it grow to megabytes for each reader that is slow
RATE_PER_S = 400.0  # frames; above the 200 submissions a second that a user may send
BURST = 4000.0
MAX_REASON_BYTES = 123
KEY_BYTES = 16


class _NoThread:
    """Stands in for the thread that simple-websocket would read in."""

    name = "none"

    def __init__(self, target: Any) -> None:
        del target

    def start(self) -> None:
        """Nothing: `messages` reads."""


class StreamSocket(Server):  # type: ignore[misc] # published without types
    """See the module.

    Args:
        environ: of the upgrade request.
        max_message_bytes: the limit for what comes in; 1009 above.

    Raises:
        BadRequestError: the handshake is not one.
        UpgradeRequiredError: it is of another version of the protocol.
    """

    def __init__(self, environ: dict[str, Any], max_message_bytes: int) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._rest = memoryview(b"")  # of what `write_now` could not write: goes out before anything else
        self._over = False  # nothing more will come
        self.too_slow = False  # a write took longer than its deadline
        self._limit = max_message_bytes
        self._message = bytearray()  # what has come of the present one
        self._tokens, self._filled_at = BURST, time.monotonic()
        try:
            _check_handshake(environ)
            super().__init__(environ, receive_bytes=RECEIVE_BYTES, thread_class=_NoThread)
        except (ProtocolError, HandshakeError, ValueError) as error:
            hint = getattr(error, "event_hint", None)
            kind = UpgradeRequiredError if hint and hint.status_code == UpgradeRequiredError.status else BadRequestError
            raise kind(f"not a WebSocket handshake: {error}") from None
        self._sock = cast("socket.socket", self.sock)
        self._sock.settimeout(0)  # gevent looks at it at each wait, and reader and writers wait each for themselves
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    @property
    def closed(self) -> bool:
        """Whether nothing more may be written."""
        return self._closed

    @property
    def ended(self) -> bool:
        """Whether no more messages will come, or we have said that we close."""
        return self._closed or not self.connected

    def messages(self, deadline: float) -> Iterator[str]:
        """Yields text messages until the connection has `ended`.

        Args:
            deadline: on the monotonic clock; then it stops, but reads what has come by then: we may be late ourselves.

        Raises:
            StreamClosedError: too big, too many, not text, or not of the protocol.
        """
        over = False
        while True:
            while self.input_buffer:
                yield self.input_buffer.pop(0)
            if over or self.ended:
                return
            over = time.monotonic() >= deadline
            self._read(deadline)

    def write(self, frames: bytes) -> None:
        """Writes whole frames out.

        Raises:
            OSError: the other side is gone, or took too long (TimeoutError): nothing more can be written then.
        """
        with self._lock:
            if self._closed:
                raise BrokenPipeError
            try:
                self._send_all(frames)
            except OSError as error:
                self._closed = True  # perhaps in the middle of a frame
                self.too_slow = isinstance(error, TimeoutError)
                self.abort()
                raise

    def write_now(self, frames: bytes) -> bool:
        """Writes whole frames without waiting; False: nothing of it, because something else has to go out before.

        What the network does not take is `kept` for the next `write`, which must come soon.
        """
        if self._closed:
            return True
        if self._rest or self._lock.locked():
            return False
        try:
            sent = self._sock.send(frames)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._closed = True
            self.abort()
            return True
        self._rest = memoryview(frames)[sent:]  # no copy: all sockets share the frames
        return True

    @property
    def kept(self) -> bool:
        """Whether the next `write` has something to write before its own."""
        return bool(self._rest)

    def _send_all(self, frames: bytes) -> None:
        """Writes what was kept and the frames; more may be kept meanwhile."""
        data = memoryview(frames)
        while data or self._rest:
            rest, self._rest = self._rest, memoryview(b"")
            self._send(rest)
            for start in range(0, len(data), BYTES_PER_WRITE):
                self._send(data[start : start + BYTES_PER_WRITE])
            data = memoryview(b"")

    def _send(self, data: memoryview) -> None:
        deadline = time.monotonic() + WRITE_DEADLINE_S
        while data:
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                wait_write(self._sock.fileno(), max(0, deadline - time.monotonic()))

    def finish(self, code: int, reason: str = "") -> None:
        """Sends the close frame, unless that was done before, and lets the reader see the other side's answer."""
        with contextlib.suppress(OSError, LocalProtocolError), self._lock:
            if self._closed:
                return
            self._closed = True
            text = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
            self._send_all(self.ws.send(CloseConnection(code, text)))
            self._sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Cuts the connection; a reader that waits wakes up."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def linger(self, timeout_s: float) -> None:
        """Reads and drops until the other side ends, so that it gets our close frame instead of a reset."""
        if self._over:
            return
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(OSError):
            while (left := deadline - time.monotonic()) > 0:
                wait_read(self._sock.fileno(), left)
                if not self._sock.recv(RECEIVE_BYTES):
                    return

    def _read(self, deadline: float) -> None:
        """Reads what is there; if nothing is, waits for it, at most until the deadline."""
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            with contextlib.suppress(TimeoutError):
                wait_read(self._sock.fileno(), max(0, deadline - time.monotonic()))
            return
        except OSError:
            data = b""
        if not data:
            self._over, self.connected = True, False
            return
        try:
            self.ws.receive_data(data)
            self.connected = self._handle_events()
        except (ProtocolError, OSError):
            self.connected = False

    def _handle_events(self) -> bool:
        for event in self.ws.events():
            if isinstance(event, Request):
                self.sock.sendall(self.ws.send(AcceptConnection()))
            elif isinstance(event, CloseConnection):
                if self.ws.state is ConnectionState.OPEN:  # not the client's: wsproto found what may not be
                    raise StreamClosedError(CloseCode(event.code), event.reason or "")
                self.finish(event.code, event.reason or "")
                return False
            elif isinstance(event, RejectConnection):
                return False
            else:
                self._handle_message(event)
        return True

    def _handle_message(self, event: Any) -> None:
        if isinstance(event, BytesMessage):
            raise bad_message("frames must be text")
        if not isinstance(event, TextMessage):
            self._spend()
            if isinstance(event, Ping):
                self.write(self.ws.send(event.response()))
            return
        if event.frame_finished:
            self._spend()
        self._message += event.data.encode()
        if len(self._message) > self._limit:
            raise StreamClosedError(CloseCode.TOO_BIG, f"a message may have {self._limit} bytes")
        if event.message_finished:
            self.input_buffer.append(self._message.decode())
            self._message = bytearray()

    def _spend(self) -> None:
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._filled_at) * RATE_PER_S)
        self._filled_at = now
        if self._tokens < 1:
            raise StreamClosedError(CloseCode.TOO_MANY_MESSAGES, "too many messages")
        self._tokens -= 1


def _check_handshake(environ: dict[str, Any]) -> None:
    """Looks at what wsproto does not: RFC 6455, 4.2.1.

    Raises:
        ValueError: it is none.
    """
    if environ["SERVER_PROTOCOL"] == "HTTP/1.0":
        raise ValueError("it takes HTTP/1.1")
    key = binascii.a2b_base64(environ.get("HTTP_SEC_WEBSOCKET_KEY", ""), strict_mode=True)
    if len(key) != KEY_BYTES:
        raise ValueError(f"Sec-WebSocket-Key must be {KEY_BYTES} bytes in base64")
