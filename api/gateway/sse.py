"""Server-sent events: one run, followed to its end over plain HTTP, by `curl -N` or any client that can send the token.

A stream that ends before the run does (a slow reader, a token that expires, a drain, events lost) is taken up again by
its client with `Last-Event-ID`: so no end but the run's own needs a word.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import structlog
from flask import Response, request

from api.addresses import request_address
from api.gateway.channel import Channel, Delivery
from api.gateway.gate import Gate
from api.gateway.outbox import Outbox
from api.gateway.protocol import FRAMES_PER_WRITE, CloseCode
from api.gateway.replay import PAGE
from api.gateway.socket import SEND_BUFFER_BYTES, WRITE_DEADLINE_S
from api.state import Api
from shared.database import Database
from shared.errors import BadRequestError, LanewiseError
from shared.event_types import LAST_TYPES
from shared.events import last_run_seq, read_run
from shared.models import Run
from shared.states import ExecutionState
from shared.threads import find_run
from shared.tokens import Identity

CONTENT_TYPE = "text/event-stream"
HEADERS = {"X-Accel-Buffering": "no"}  # nginx would hold the events back
HEARTBEAT_S = 15.0
LOOK_S = 2.0  # until a client that went away without a word is noticed
RETRY_MS = 1000
_OPENING = f"retry: {RETRY_MS}\n\n".encode()
_HEARTBEAT = b":\n\n"

log = structlog.get_logger(__name__)


class RunStream:
    """The events of one run for one client: first from the log, then as they come.

    Args:
        gate: how many read the log at once.
        identity: of the token: the stream ends with it.
        run: as it was when the stream was asked for.
        after: the last `run_seq` that the client has.
        sock: the client's; writing to it has a deadline.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what is followed, for whom, from where
        self, database: Database, gate: Gate, identity: Identity, run: Run, after: int, sock: socket.socket
    ) -> None:
        self.identity = identity
        self._database = database
        self._gate = gate
        self._run_id = run.id
        self._committed = run.last_run_seq
        self._sent = after
        self._sock = sock
        self._last: int | None = None  # the `run_seq` with which the run has ended
        self._outbox = Outbox()
        self._wake = threading.Event()
        self._over = False

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        """Takes the next events; see `channel.Listener`."""
        if self._outbox.is_full:
            self._outbox.clear()
            self.end(CloseCode.TOO_SLOW, "")
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # so that nobody waits for it any longer
            return
        for view in (item.view for item in deliveries if item.view["run_id"] == self._run_id):
            self._outbox.put(view["run_seq"], self._message(view))
        if self._outbox:
            self._wake.set()

    def lose(self) -> None:
        """Takes notice that there is no going on; see `channel.Listener`."""
        self.end(CloseCode.GAP, "")

    def end(self, code: CloseCode, reason: str) -> None:
        """See `manager.Connection`: there is no close frame to tell why."""
        del code, reason
        self._over = True
        self._wake.set()

    def follow(self, channel: Channel) -> Iterator[bytes]:
        """Yields what is written, until the run or the stream ends."""
        yield _OPENING
        try:
            yield from self._read_log()  # however long that takes, no events queue up for it
            channel.add(self)
            yield from self._read_log()
            if 0 < self._committed <= self._sent:  # else the run was removed meanwhile
                yield from self._live()
        except LanewiseError as error:
            log.warning("a stream ends early", error=error.message)
        finally:
            channel.remove(self)

    def _read_log(self) -> Iterator[bytes]:
        """Yields what the log has by now: while the run goes on there is always more to come."""
        user_id, more = self.identity.user_id, True
        while more and not self._is_over():
            with self._gate.enter(), self._database.user_session(user_id) as session:
                self._committed = last_run_seq(session, user_id, self._run_id)
                views = read_run(session, user_id, self._run_id, self._sent, PAGE)
            more = bool(views) and views[-1]["run_seq"] < self._committed
            for start in range(0, len(views), FRAMES_PER_WRITE):
                some = views[start : start + FRAMES_PER_WRITE]
                yield from self._pass_on([(view["run_seq"], self._message(view)) for view in some])

    def _live(self) -> Iterator[bytes]:
        written = time.monotonic()
        while not self._is_over():
            self._wake.wait(max(0.0, min(LOOK_S, self._left_s(), written + HEARTBEAT_S - time.monotonic())))
            self._wake.clear()
            while not self._over and (batch := self._outbox.take()):
                for text in self._pass_on(batch):
                    yield text
                    written = time.monotonic()
            if _is_gone(self._sock):
                return
            if time.monotonic() - written >= HEARTBEAT_S:
                yield _HEARTBEAT
                written = time.monotonic()

    def _pass_on(self, messages: Sequence[tuple[int, bytes]]) -> Iterator[bytes]:
        """Yields the next events as one piece; what was sent is dropped, and behind a gap nothing is."""
        texts = []
        for run_seq, text in messages:
            if run_seq == self._sent + 1:
                texts.append(text)
                self._sent = run_seq
            self._over = self._over or self._sent == self._last or run_seq > self._sent
        if texts:
            yield b"".join(texts)

    def _message(self, view: dict[str, Any]) -> bytes:
        """Returns how an event is written."""
        if view["type"] in LAST_TYPES:
            self._last = view["run_seq"]
        body = json.dumps(view, separators=(",", ":"))  # ASCII without line ends: one `data` line
        return f"id: {view['run_seq']}\ndata: {body}\n\n".encode()

    def _is_over(self) -> bool:
        return self._over or self._left_s() <= 0

    def _left_s(self) -> float:
        return (self.identity.expires_at - datetime.now(UTC)).total_seconds()


def respond(state: Api, identity: Identity, run_id: str, after: int) -> Response:
    """Returns the stream of a run's events after `after`; 204, at which clients stop, if no more will come.

    Raises:
        NotFoundError: the user has no such run.
        BadRequestError: the run has no event `after`.
        QuotaError: too many connections, of the user, of the address or in all.
    """
    user_id, database = identity.user_id, state.services.database
    with database.user_session(user_id) as session:
        run = find_run(session, user_id, run_id)
    if after > run.last_run_seq:
        raise BadRequestError(f"after or Last-Event-ID is above {run.last_run_seq}, the run's last event")
    if after == run.last_run_seq and ExecutionState(run.status).is_end:
        return Response(status=204)
    sock = request.environ["gunicorn.socket"]
    stream = RunStream(database, state.hub.gate, identity, run, after, sock)
    with ExitStack() as stack:
        stack.enter_context(state.manager.admit(request_address(state.services.settings.trusted_proxies)))
        # A new one in place of the oldest would have that come back, and so on.
        stack.enter_context(state.manager.register(user_id, stream, replace=False))
        channel = stack.enter_context(state.hub.channel(user_id))
        sock.settimeout(WRITE_DEADLINE_S)  # `gunicorn_worker.Worker` takes it away again
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        response = Response(stream.follow(channel), content_type=CONTENT_TYPE, headers=HEADERS)
        response.call_on_close(stack.pop_all().close)
    return response


def _is_gone(sock: socket.socket) -> bool:
    """True if the client has closed the connection: it has nothing more to say, so that is all that can be read."""
    sock.settimeout(0)
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        sock.settimeout(WRITE_DEADLINE_S)
