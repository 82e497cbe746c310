"""A service that answers as its test says: real sockets, scripted answers."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from simple_websocket import ConnectionClosed, Server
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

WAIT_S = 10.0
CUT = 0

Answer = Response | Callable[[Request], Response]
Script = Callable[["Connection"], None]


class LostError(Exception):
    """Raised by an answer: the connection breaks instead."""


def problem(status: int, code: str, detail: str, **headers: str) -> Response:
    body = json.dumps({"type": "about:blank", "status": status, "code": code, "detail": detail})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(body, status, named, content_type="application/problem+json")


def answer(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, content_type="application/json")


def event(
    seq: int, kind: str = "agent_progress", *, run_id: str = "r1", run_seq: int | None = None, **data: Any
) -> Any:
    return {
        "t": "event", "seq": seq, "run_id": run_id, "run_seq": seq if run_seq is None else run_seq, "thread_id": "t1",
        "attempt": 1, "type": kind, "agent": "data", "at": "2026-01-01T00:00:00.000Z", "correlation_id": "c1",
        "data": data,
    }  # fmt: skip


def welcome(head: int, *, recovered: bool = True, snapshot: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "t": "welcome", "connection_id": "x", "head": head, "recovered": recovered, "reason": None, "replay": 0,
        "ping_s": 25, "expires_at": "2030-01-01T00:00:00Z", "snapshot": snapshot, **more,
    }  # fmt: skip


class Connection:
    """One WebSocket connection, seen from the service."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self.authorization = environ.get("HTTP_AUTHORIZATION")
        self._socket: socket.socket = environ["werkzeug.socket"]
        self._server = Server(environ)

    def send(self, *frames: Any) -> None:
        for frame in frames:
            self._server.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    def send_raw(self, data: bytes) -> None:
        """Sends bytes of frames; what `limit_writes` was given bounds it."""
        self._socket.sendall(data)

    def limit_writes(self, timeout_s: int) -> None:
        """Has `send_raw` raise an OSError after so long without progress."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", timeout_s, 0))

    def receive(self) -> Any:
        text = self._server.receive(timeout=WAIT_S)
        assert text is not None, "the client neither sent anything nor hung up"
        return json.loads(text)

    def close(self, code: int, reason: str = "") -> None:
        self._server.close(code, reason)

    def cut(self) -> None:
        """Breaks the connection without a word."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def stay(self) -> None:
        """Keeps the connection until the client closes it, which it must."""
        with suppress(ConnectionClosed):
            while True:
                self.receive()


def says(*frames: Any, then: int | None = None) -> Script:
    """A connection that sends frames, then waits for the client to close it, or closes it with a code, or is cut."""

    def script(connection: Connection) -> None:
        connection.send(*frames)
        if then is None:
            connection.stay()
        elif then == CUT:
            connection.cut()
        else:
            connection.close(then, "because")

    return script


def _refuse(connection: Connection) -> None:
    """A token that is not taken: no hello is waited for."""
    connection.close(4401, "the token is refused")


@dataclass
class Service:
    """What is scripted, and what came in."""

    url: str = ""
    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=lambda: defaultdict(list))
    connections: list[Script | Response] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    hellos: list[Any] = field(default_factory=list)
    hello_times: list[float] = field(default_factory=list)  # monotonic, seconds
    failures: list[BaseException] = field(default_factory=list)

    def on(self, method: str, path: str, *answers: Answer) -> None:
        """The answers to a call, one after the other; the last one again and again."""
        self.answers[method, path].extend(answers)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        request.get_data()
        self.requests.append(request)
        if request.headers.get("Upgrade") == "websocket":
            return self._connect(environ, start_response)
        script = self.answers.get((request.method, request.path))
        if not script:
            return problem(404, "not_found", f"nothing at {request.path}")(environ, start_response)
        found = script.pop(0) if len(script) > 1 else script[0]
        try:
            response = found if isinstance(found, Response) else found(request)
        except LostError:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionError from None  # so that werkzeug writes nothing
        return response(environ, start_response)

    def _connect(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        script = self.connections.pop(0) if self.connections else problem(404, "not_found", "no more connections")
        if isinstance(script, Response) and script.status_code == HTTPStatus.UNAUTHORIZED:
            self.connections.insert(0, script)  # for REST, which says it in full; here it is said as the gateway does
            script = _refuse
        elif isinstance(script, Response):
            return script(environ, start_response)
        connection = Connection(environ)
        try:
            if script is not _refuse:
                self.hellos.append(connection.receive())
                self.hello_times.append(time.monotonic())
            script(connection)
            connection.close(1000)
        except ConnectionClosed:
            pass
        except AssertionError as error:
            self.failures.append(error)
        with suppress(OSError):
            connection.cut()
        raise ConnectionError  # the connection has been used up: werkzeug writes nothing


@contextmanager
def serving() -> Iterator[Service]:
    """Runs a service on a free port; what its scripts asserted in vain is raised at the end."""
    service = Service()
    server = make_server("127.0.0.1", 0, service, threaded=True)
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    for failure in service.failures:
        raise failure
