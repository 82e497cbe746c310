"""The live stream of one user's events: exactly once, in order, over any number of connections.

The rule is the published one: accept only `seq == last + 1`, drop lower ones, and on a higher one reconnect with
`after: last`. Numbers are the service's; nothing is ever guessed here.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from lanewise.endpoint import Endpoint
from lanewise.errors import ApiError, GapError, StreamClosedError, UnreachableError
from lanewise.position import Position
from lanewise.rest import Rest
from lanewise.retry import backoff_s

Event = dict[str, Any]

FINAL_CODES = {4400: "a message was bad", 4403: "forbidden", 4409: "replaced by a newer connection", 1009: "too big"}
UNAUTHORIZED_CODE, UNAUTHORIZED_STATUS = 4401, 401
PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
MAX_FRAME_BYTES = 128 * 1024 * 1024  # a snapshot holds whole runs
MAX_FRAMES_AHEAD = 64  # received but not yet taken: beyond that the service waits
GIVE_UP_S = 120.0  # without a working connection, after there has been one
MAX_RETRY_S = 30.0  # what a service may ask us to wait
CLOSE_TIMEOUT_S = 1.0
LEEWAY_PAUSE_S = 1.0  # the service takes a token for some seconds longer than a stream that began with it


class Stream(Iterator[Event]):
    """Iterates over a user's events; reconnects by itself; made by `Client.stream`.

    An iteration blocks until the next event. The consumer may be slow: what is not taken waits at the service.

    With a position, asking for the next event, or leaving the `with` block without an exception, says that the one
    before is done with, and saves where that was. Who is killed before that gets it again: at least once, then.

    Attributes:
        last: the cursor: `seq` of the last event that was handed out, or the head it started from; None before that.
        snapshot: the user's live and recent runs, when the service sent them instead of a replay; else None.
        connections: how many were made so far.

    Args:
        endpoint: the service; its `retry_s` is how long to try for the first connection.
        after: everything after this `seq` first; None: only what happens from now on.
        position: where the stream goes on, if something was saved there; then `after` does not count.
    """

    def __init__(self, endpoint: Endpoint, after: int | None, position: Position | None = None) -> None:
        saved = position.load() if position else None
        self.last = after if saved is None else saved
        self._position = position
        self.snapshot: Any = None
        self.connections = 0
        self._endpoint = endpoint
        self._give_up_s = endpoint.retry_s
        self._socket: ClientConnection | None = None
        self._ping_s = endpoint.timeout_s
        self._failures = 0
        self._failing_since = time.monotonic()
        self._retry_s = 0.0
        self._complaint = ""
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._save()
        finally:
            self.close()

    def close(self) -> None:
        """Ends the stream, also from another thread: an iteration that waits stops."""
        self._closed.set()
        self._hang_up()

    def open(self) -> Self:
        """Connects now, instead of at the first iteration, so that nothing that happens from now on is missed.

        Raises:
            The same as an iteration.
        """
        while self._socket is None and not self._closed.is_set():
            self._try(self._connect)
        return self

    def __next__(self) -> Event:
        """Waits for the next event.

        Raises:
            GapError: once, when events are gone for good; iterate on and the stream continues after its `head`.
            ApiError: the service refuses us (401: the token).
            StreamClosedError: the service asked us not to come back.
            UnreachableError: no connection for too long.
            OSError: the position cannot be saved.
        """
        while not self._closed.is_set():
            self.open()
            self._save()  # what was handed out before is done with; at first this is the head
            event = self._try(self._receive)
            if event is not None:
                return event
        raise StopIteration

    def _save(self) -> None:
        if self._position is not None and self.last is not None:
            self._position.save(self.last)

    def _try(self, action: Callable[[], Event | None]) -> Event | None:
        """Returns what `action` returns; after a passing failure pauses and returns None."""
        try:
            return action()
        except ConnectionClosed as error:
            frame = error.rcvd or error.sent
            if frame is not None and frame.code == UNAUTHORIZED_CODE:
                self._check_token()
            if frame is not None and frame.code in FINAL_CODES and not self._closed.is_set():
                self.close()
                why = self._complaint or frame.reason or FINAL_CODES[frame.code]
                raise StreamClosedError(frame.code, f"the service closed the stream ({frame.code}): {why}") from None
            self._pause(f"closed with code {frame.code}" if frame else "connection lost")
        except InvalidStatus as error:
            self._refused(error)
        except InvalidHandshake as error:
            self._pause(f"no WebSocket there: {error}")
        except TimeoutError:
            self._pause("silence")
        except (OSError, EOFError, WebSocketException) as error:
            self._pause(str(error) or type(error).__name__)
        except (KeyError, TypeError, ValueError, AttributeError):
            self._pause("a frame that is not of this protocol")
        return None

    def _connect(self) -> None:
        self._socket = connect(
            f"ws{self._endpoint.url.removeprefix('http')}/v1/stream",
            additional_headers=self._endpoint.headers,
            compression=None,
            proxy=True if self._endpoint.proxied else None,
            open_timeout=self._endpoint.timeout_s,
            close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=None,  # the service pings by frames of its own
            max_size=MAX_FRAME_BYTES,
            max_queue=MAX_FRAMES_AHEAD,
            legacy=True,  # one connection; when to make another is ours to say
        )
        if self._closed.is_set():  # meanwhile, by another thread, for which there was nothing to hang up yet
            self._hang_up()
            return
        self.connections += 1
        self._complaint = ""
        self._send({"t": "hello", "v": 1, "after": self.last})
        welcome = self._read(self._endpoint.timeout_s)
        while welcome["t"] != "welcome":
            welcome = self._read(self._endpoint.timeout_s)
        head, recovered, self._ping_s = int(welcome["head"]), bool(welcome["recovered"]), float(welcome["ping_s"])
        if self.last is not None and recovered:
            return
        gap = self.last is not None
        self.last, self.snapshot = head, welcome["snapshot"]
        if gap:
            raise GapError(str(welcome.get("reason")), head, self.snapshot)

    def _receive(self) -> Event | None:
        frame = self._read(2 * self._ping_s)
        kind = frame["t"]
        if kind == "event":
            return self._accept(frame)
        if kind == "ping":
            self._send({"t": "pong"})
        if kind in ("ping", "live"):
            self._works()
        return None

    def _accept(self, event: Event) -> Event | None:
        last = self.last or 0
        if event["seq"] <= last:
            return None
        if event["seq"] > last + 1:
            self._pause(f"event {event['seq']} came after {last}")
            return None
        self.last = int(event["seq"])
        self._works()
        return event

    def _read(self, timeout_s: float) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(self._text(timeout_s))
        if frame["t"] == "bye":
            self._retry_s = min(float(frame["retry_ms"]) / 1000, MAX_RETRY_S)
        elif frame["t"] == "error":
            self._complaint = str(frame["problem"].get("detail", ""))
        return frame

    def _text(self, timeout_s: float) -> str | bytes:
        deadline = time.monotonic() + timeout_s
        while (socket := self._socket) is not None:
            try:
                return socket.recv(timeout=max(0.0, min(CLOSE_TIMEOUT_S, deadline - time.monotonic())))
            except TimeoutError:
                if socket.protocol.close_rcvd is not None:
                    socket.close()  # it said that it closes, but keeps its end open: the library would wait for ever
                elif time.monotonic() >= deadline:
                    raise
        raise EOFError("closed")

    def _send(self, frame: dict[str, Any]) -> None:
        if self._socket is not None:
            self._socket.send(json.dumps(frame))

    def _works(self) -> None:
        self._failures = 0
        self._give_up_s = GIVE_UP_S

    def _pause(self, reason: str) -> None:
        """Hangs up and waits before the next connection.

        Raises:
            UnreachableError: it has been going wrong for too long.
        """
        self._hang_up()
        now = time.monotonic()
        self._failing_since = now if self._failures == 0 else self._failing_since
        self._failures += 1
        pause_s = max(self._retry_s, backoff_s(self._failures))
        self._retry_s = 0.0
        if now + pause_s - self._failing_since > self._give_up_s and not self._closed.is_set():
            self.close()
            raise UnreachableError(f"no event stream from {self._endpoint.url}: {reason}")
        self._closed.wait(pause_s)

    def _refused(self, error: InvalidStatus) -> None:
        response = error.response
        problem = ApiError.from_body(response.status_code, response.body or b"", response.headers.get("Retry-After"))
        if response.status_code not in PASSING_STATUSES:
            self.close()
            raise problem from None
        self._retry_s = min(problem.retry_after_s or 0.0, MAX_RETRY_S)
        self._pause(problem.detail)

    def _check_token(self) -> None:
        """Asks by REST, where the service says for good whether it takes our token.

        Raises:
            ApiError: it does not.
        """
        self._hang_up()
        with contextlib.closing(Rest(self._endpoint)) as rest, contextlib.suppress(UnreachableError):
            try:
                rest.call("GET", "/v1/me", passing=frozenset())
            except ApiError as error:
                if error.status == UNAUTHORIZED_STATUS:
                    self.close()
                    raise
        self._retry_s = LEEWAY_PAUSE_S

    def _hang_up(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            with contextlib.suppress(OSError, WebSocketException):
                socket.close()
