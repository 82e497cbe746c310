"""One WebSocket from hello to close: the request's greenlet reads, a second one writes."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from api.gateway.channel import Channel, Delivery
from api.gateway.executor import ConnectionExecutor
from api.gateway.protocol import (
    HELLO_TIMEOUT_S,
    PING_S,
    CloseCode,
    Hello,
    StreamClosedError,
    bad_message,
    close_for,
    encode,
    error_frame,
    parse_frame,
    parse_ref,
)
from api.gateway.replay import PAGE, Opening, Replay
from api.gateway.socket import StreamSocket
from api.gateway.tickets import Tickets
from api.problems import as_lanewise_error, problem_of
from shared.errors import UnauthorizedError
from shared.events import iso
from shared.ids import new_id
from shared.tokens import Identity

MAX_QUEUED_FRAMES = 4096
MAX_QUEUED_BYTES = 4 * 1024 * 1024
FRAMES_PER_WRITE = 16
LINGER_S = 2.0
RETRY_MS = (200, 3000)

log = structlog.get_logger(__name__)


class Stream:
    """The connection of one user, signed in.

    Args:
        socket: the WebSocket.
        identity: of the token or ticket.
        executor: for what the client asks for.
        tickets: for what prolongs the connection.
    """

    def __init__(
        self, socket: StreamSocket, identity: Identity, executor: ConnectionExecutor, tickets: Tickets
    ) -> None:
        self.connection_id = new_id()
        self._socket = socket
        self.identity = identity
        self._executor = executor
        self._tickets = tickets
        self._queue: deque[Delivery] = deque()
        self._queued_bytes = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ending: tuple[CloseCode, str] | None = None
        self._sent = 0  # the last seq written
        self._heard_at = time.monotonic()

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        """Takes the next events; see `channel.Listener`."""
        with self._lock:
            self._queue.extend(deliveries)
            self._queued_bytes += sum(len(delivery.frame) for delivery in deliveries)
            too_much = len(self._queue) > MAX_QUEUED_FRAMES or self._queued_bytes > MAX_QUEUED_BYTES
            if too_much:
                self._queue.clear()
                self._queued_bytes = 0
        if too_much:
            self.end(CloseCode.TOO_SLOW, "events come faster than you read; resume")
        self._wake.set()

    def lose(self) -> None:
        """Takes notice that there is no going on; see `channel.Listener`."""
        self.end(CloseCode.GAP, "events were lost; resume")

    def end(self, code: CloseCode, reason: str) -> None:
        """Has the writer close the connection; the first reason counts."""
        self._ending = self._ending or (code, reason)
        self._wake.set()

    def run(self, channel: Channel, replay: Replay, hello: Hello) -> None:
        """Welcomes the client, catches it up, then serves it until one side ends.

        Raises:
            StreamClosedError: how it ends, if we end it.
            OSError: the other side is gone.
        """
        try:
            frames = None if hello.after is None else replay.recall(channel, self, hello.after)
            if hello.after is None or frames is None:
                self._begin(replay.open(hello.after))
                self._catch_up(replay)  # however long that takes, nothing is kept in memory for it
                self._catch_up(replay, at_least=channel.add(self))
            else:
                self._begin(Opening.recovered(hello.after, hello.after + len(frames)))
                self._write_frames(frames)
            if self._ending is None:
                self._write({"t": "live", "seq": self._sent})
            self._serve()
        finally:
            channel.remove(self)

    def _begin(self, opening: Opening) -> None:
        self._sent = opening.position
        self._write({"t": "welcome", "connection_id": self.connection_id, "expires_at": iso(self.identity.expires_at),
                     "ping_s": PING_S, **opening.welcome})  # fmt: skip

    def _catch_up(self, replay: Replay, at_least: int = 0) -> None:
        """Writes the log out from the last event written to its end, which is not before `at_least`."""
        while self._ending is None:
            views = replay.read(self._sent)
            if views and views[-1]["seq"] != self._sent + len(views):
                self.lose()  # trimmed meanwhile
                return
            self._write_frames([encode(view) for view in views])
            if len(views) < PAGE and self._sent >= at_least:
                return
            if not views:  # it ends before what was delivered: trimmed meanwhile, or Postgres is back at a backup
                self.lose()

    def _write_frames(self, frames: list[bytes]) -> None:
        """Writes the next events."""
        for start in range(0, len(frames), FRAMES_PER_WRITE):
            self._socket.write(b"".join(frames[start : start + FRAMES_PER_WRITE]))
        self._sent += len(frames)

    def _serve(self) -> None:
        writer = threading.Thread(target=self._write_on, name="lanewise-socket", daemon=True)
        writer.start()
        try:
            for text in self._socket.messages():
                self._heard_at = time.monotonic()
                self._handle(parse_frame(text))
        except StreamClosedError as error:
            self.end(error.code, error.reason)
        finally:
            self.end(CloseCode.NORMAL, "")
            writer.join()
        if self._ending is not None and self._ending[0] != CloseCode.NORMAL:
            raise StreamClosedError(*self._ending)

    def _handle(self, frame: dict[str, Any]) -> None:
        ref = parse_ref(frame)
        match frame.get("t"):
            case "pong":
                pass
            case "run.submit" | "run.cancel":
                self._answer(ref, lambda: {"run": self._executor.execute_with_websocket(frame, self.connection_id)})
            case "auth":
                self._answer(ref, lambda: self._prolong(frame.get("ticket")))
            case _:
                raise bad_message("unknown frame")

    def _answer(self, ref: str | None, action: Callable[[], dict[str, Any]]) -> None:
        try:
            answer = {"t": "ack", "ref": ref, **action()}
        except StreamClosedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes an error frame, as it becomes a problem over REST
            answer = error_frame(ref, problem_of(as_lanewise_error(error)))
        with contextlib.suppress(OSError):
            self._write(answer)

    def _prolong(self, ticket: Any) -> dict[str, Any]:
        if not isinstance(ticket, str):
            raise UnauthorizedError("an auth frame needs a ticket")
        identity = self._tickets.use(ticket)
        if identity.user_id != self.identity.user_id:
            raise UnauthorizedError("the ticket is another user's")
        self.identity = identity
        self._wake.set()
        return {"expires_at": iso(identity.expires_at)}

    def _write_on(self) -> None:
        """Writes events as they come, and pings; ends the connection when that is due."""
        next_ping = time.monotonic() + PING_S
        try:
            while self._ending is None:
                self._wake.wait(max(0.0, min(next_ping - time.monotonic(), self._left_s())))
                self._wake.clear()
                self._write_queue()
                if self._left_s() <= 0:
                    self.end(CloseCode.UNAUTHORIZED, "the token has expired")
                if time.monotonic() >= next_ping:
                    next_ping += PING_S
                    self._beat()
        except OSError:
            self._socket.abort()
            return
        self._say_bye()

    def _write_queue(self) -> None:
        while self._ending is None and (batch := self._take()):
            fresh = [delivery for delivery in batch if delivery.seq > self._sent]
            if fresh and fresh[0].seq != self._sent + 1:
                self.lose()
                return
            if fresh:
                self._socket.write(b"".join(delivery.frame for delivery in fresh))
                self._sent = fresh[-1].seq

    def _take(self) -> list[Delivery]:
        with self._lock:
            batch = [self._queue.popleft() for _ in range(min(FRAMES_PER_WRITE, len(self._queue)))]
            self._queued_bytes -= sum(len(delivery.frame) for delivery in batch)
            return batch

    def _beat(self) -> None:
        if time.monotonic() - self._heard_at > 2 * PING_S + 5:
            self.end(CloseCode.NORMAL, "no pong")  # half-open: nobody is there to read a reason
            self._socket.abort()
            return
        self._write({"t": "ping", "seq": self._sent})

    def _left_s(self) -> float:
        return (self.identity.expires_at - datetime.now(UTC)).total_seconds()

    def _say_bye(self) -> None:
        code, reason = self._ending or (CloseCode.NORMAL, "")
        if code == CloseCode.DRAINING:
            with contextlib.suppress(OSError):
                self._write({"t": "bye", "retry_ms": random.randint(*RETRY_MS)})  # noqa: S311 - spreads the rush
        self._socket.finish(code, reason)

    def _write(self, frame: dict[str, Any]) -> None:
        self._socket.write(encode(frame))


def read_hello(socket: StreamSocket) -> Hello:
    """Returns the client's first frame.

    Raises:
        StreamClosedError: it did not come in time, or is no hello.
    """
    for text in socket.messages(deadline=time.monotonic() + HELLO_TIMEOUT_S):
        return Hello.parse(parse_frame(text))
    raise StreamClosedError(CloseCode.NO_HELLO, f"no hello within {HELLO_TIMEOUT_S:g} s")


def sign_in(hello: Hello, bearer: Identity | None, tickets: Tickets) -> Identity:
    """Returns whom the upgrade's token or the hello's ticket names.

    Raises:
        StreamClosedError: neither, or a bad ticket, or the two disagree.
    """
    if hello.ticket is None:
        if bearer is None:
            raise StreamClosedError(CloseCode.UNAUTHORIZED, "no token and no ticket")
        return bearer
    try:
        identity = tickets.use(hello.ticket)
    except Exception as error:
        raise close_for(as_lanewise_error(error)) from error
    if bearer is not None and bearer.user_id != identity.user_id:
        raise StreamClosedError(CloseCode.UNAUTHORIZED, "token and ticket are not of the same user")
    return identity


def close(socket: StreamSocket, code: CloseCode, reason: str) -> None:
    """Ends a connection so that the client gets to know why."""
    socket.finish(code, reason)
    socket.linger(LINGER_S)
