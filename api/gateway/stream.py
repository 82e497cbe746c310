"""One WebSocket from hello to close: the request's greenlet reads, and whoever has an event for it writes.

Nearly always the network takes an event at once. Only if it does not, a second greenlet writes, until nothing is left.
Nothing else switches greenlets here, so what is read and set between two writes needs no lock.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import gevent  # type: ignore[import-untyped]
import structlog

from api.gateway.channel import Batch, Channel
from api.gateway.executor import ConnectionExecutor
from api.gateway.outbox import Outbox
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
    portions,
)
from api.gateway.replay import Opening, Replay
from api.gateway.socket import StreamSocket
from api.gateway.tickets import Tickets
from api.problems import as_lanewise_error, problem_of
from shared.errors import UnauthorizedError
from shared.events import iso
from shared.ids import new_id
from shared.tokens import Identity

NEAR = 100  # so many events before the end of the log a client that catches up begins to listen
LINGER_S = 2.0
SILENCE_S = 2 * PING_S + 5  # then two pings were not answered
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
        self._outbox = Outbox()
        self._writer: gevent.Greenlet | None = None
        self._live = False  # caught up
        self._ending: tuple[CloseCode, str] | None = None
        self._sent = 0  # the last seq written
        self._heard_at = 0.0

    def offer(self, deliveries: Batch) -> None:
        """Takes the next events; see `channel.Listener`."""
        if self._ending is not None:
            return
        if self._outbox.is_full:
            self._outbox.clear()
            self.end(CloseCode.TOO_SLOW, "events come faster than you read; resume")
            return
        for delivery in deliveries[self._write_now(deliveries) :]:
            self._outbox.put(delivery.seq, delivery.frame)
        if self._outbox or self._socket.kept:
            self._start_writer()

    def lose(self) -> None:
        """Takes notice that there is no going on; see `channel.Listener`."""
        self.end(CloseCode.GAP, "events were lost; resume")

    def end(self, code: CloseCode, reason: str) -> None:
        """Has the connection closed soon, whatever goes on; the first reason counts."""
        if self._ending is None:
            self._ending = (code, reason)
            if not self._live:  # the catch-up looks at it between two writes, each of which may take long
                gevent.spawn_later(LINGER_S, self._socket.abort)
        self._start_writer()

    def run(self, channel: Channel, replay: Replay, hello: Hello) -> None:
        """Welcomes the client, catches it up, then serves it until one side ends.

        Raises:
            StreamClosedError: how it ends, if we end it.
            OSError: the other side is gone.
        """
        try:
            frames = None if hello.after is None else replay.recall(channel, self, hello.after)
            if hello.after is None or frames is None:
                opening = replay.open(hello.after)
                self._begin(opening)
                while self._ending is None and self._sent < (near := (channel.last or 0) - NEAR):
                    self._catch_up(replay, near)  # however long that takes, no events queue up for it
                self._catch_up(replay, max(channel.add(self), opening.welcome["head"]))
            else:
                self._begin(Opening.recovered(hello.after, hello.after + len(frames)))
                self._write_frames(iter(frames))
            if self._ending is None:
                self._write({"t": "live", "seq": self._sent})
            self._serve()
        finally:
            channel.remove(self)

    def _write_now(self, deliveries: Batch) -> int:
        """Writes without waiting if nothing has to go before; returns how many of the events that were."""
        written = 0
        if self._live and self._writer is None and deliveries[0].seq == self._sent + 1:
            for count, frames in deliveries.portions:
                if not self._socket.write_now(frames):
                    break
                written += count
                self._sent += count
        return written

    def _begin(self, opening: Opening) -> None:
        self._sent = opening.position
        self._write({"t": "welcome", "connection_id": self.connection_id, "expires_at": iso(self.identity.expires_at),
                     "ping_s": PING_S, **opening.welcome})  # fmt: skip

    def _catch_up(self, replay: Replay, at_least: int) -> None:
        """Writes the log out from the last event written up to `at_least`, and what was read with it."""
        while self._ending is None and self._sent < at_least:
            views = replay.read(self._sent)
            if not views or views[-1]["seq"] != self._sent + len(views):
                self.lose()  # trimmed meanwhile, or Postgres is back at a backup
                return
            self._write_frames(map(encode, views))

    def _write_frames(self, frames: Iterator[bytes]) -> None:
        """Writes the next events, made a few at a time."""
        for count, portion in portions(frames):
            if self._ending is not None:
                return
            self._socket.write(portion)
            self._sent += count

    def _serve(self) -> None:
        self._live = True
        self._start_writer()
        self._heard_at = time.monotonic()  # whoever catches up is not pinged: not to be heard of is no fault
        next_ping = self._heard_at + PING_S
        try:
            while not self._socket.ended:
                for text in self._socket.messages(min(next_ping, time.monotonic() + self._left_s())):
                    self._heard_at = time.monotonic()
                    self._handle(parse_frame(text))
                if self._left_s() <= 0:
                    self.end(CloseCode.UNAUTHORIZED, "the token has expired")
                    return
                if time.monotonic() >= next_ping:
                    next_ping += PING_S
                    self._beat()
        except StreamClosedError as error:
            self.end(error.code, error.reason)
        except OSError:
            pass  # as if nothing more was read
        finally:
            self._finish()

    def _finish(self) -> None:
        self.end(CloseCode.NORMAL, "")
        while self._writer is not None:
            self._writer.join()
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
        return {"expires_at": iso(identity.expires_at)}

    def _start_writer(self) -> None:
        if self._live and self._writer is None and not self._socket.closed:
            self._writer = gevent.spawn(self._write_on)

    def _write_on(self) -> None:
        """Writes what is left; then ends the connection if that is due."""
        try:
            self._socket.write(b"")
            self._write_queue()
            if self._ending is not None:
                self._say_bye()
        except OSError:
            self._socket.abort()
        finally:
            self._writer = None

    def _write_queue(self) -> None:
        while self._ending is None and (batch := self._outbox.take()):
            fresh = [(seq, frame) for seq, frame in batch if seq > self._sent]
            if fresh and fresh[0][0] != self._sent + 1:
                self.lose()
                return
            if fresh:
                self._socket.write(b"".join(frame for _, frame in fresh))
                self._sent = fresh[-1][0]

    def _beat(self) -> None:
        if time.monotonic() - self._heard_at > SILENCE_S:
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
        gevent.spawn_later(LINGER_S, self._socket.abort)  # if the client does not end the connection by itself

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
