"""gunicorn's gevent worker, taught to drain: at SIGTERM nobody is left to wait for but requests in flight."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import socket
from types import FrameType
from typing import Any

import gevent  # type: ignore[import-untyped]
from gunicorn import util
from gunicorn.http import Request, RequestParser
from gunicorn.workers.ggevent import GeventWorker

NOT_IMPLEMENTED = 501
LAST_REQUEST_S = 1.0  # for a connection that is new, or free again, when we are about to end
REST_S = 5.0  # for what the application left of a body: of a request that it refused, mostly
REST_BYTES = 64 * 1024  # of that at once


class Worker(GeventWorker):  # type: ignore[misc] # published without types
    """Sends sockets, waiting requests and idle connections home as soon as it is told to stop."""

    def init_process(self) -> None:
        """Called in the new process."""
        self._idle: dict[gevent.Greenlet, gevent.Timeout] = {}
        super().init_process()

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Gunicorn reads the next request of a connection inside this."""
        greenlet = gevent.getcurrent()
        with gevent.Timeout(self.cfg.keepalive if self.alive else LAST_REQUEST_S, False) as timeout:
            self._idle[greenlet] = timeout
            try:
                yield
            finally:
                del self._idle[greenlet]

    def handle_request(self, listener_name: Any, req: Any, sock: socket, addr: Any) -> None:
        """Gunicorn's, for connections that a write deadline or we ourselves have cut: the client counts as gone."""
        try:
            super().handle_request(listener_name, req, sock, addr)
        except OSError as error:
            raise BrokenPipeError(errno.EPIPE, str(error)) from error  # gunicorn takes a time-out for a failure of ours
        except StopIteration:  # the connection is to be closed
            _take_rest(req)
            raise
        finally:
            sock.settimeout(None)
        if not _take_rest(req):
            raise StopIteration

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: gunicorn takes no new connections from here on."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._drain)

    def _drain(self) -> None:
        from api.state import EXTENSION  # noqa: PLC0415 - the main process, which is not patched, imports this module

        self.wsgi.extensions[EXTENSION].drain()
        for greenlet, timeout in list(self._idle.items()):
            gevent.get_hub().loop.run_callback(_end, self._idle, greenlet, timeout)


def write_problem(sock: socket, status: int, reason: str, message: str) -> None:
    """Answers what is not HTTP; gunicorn itself sends a page, and 501 for a transfer coding that it does not know."""
    status = 400 if status == NOT_IMPLEMENTED else status
    problem = {"type": "urn:lanewise:problem:bad_request", "title": reason, "status": status, "code": "bad_request",
               "detail": message or reason}  # fmt: skip
    body = json.dumps(problem).encode()
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
    util.write_nonblock(sock, head.encode("latin-1") + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))


util.write_error = write_problem


class ClosingRequest(Request):  # type: ignore[misc] # published without types
    """Says in its answer that the connection will be closed, if that is because its body could not be read."""

    def should_close(self) -> bool:
        """Called when the answer is begun, and when it is done."""
        return bool(super().should_close() or (self.body is not None and self.body.failed))


RequestParser.mesg_class = ClosingRequest


def _take_rest(req: Any) -> bool:
    """Reads what is left of the body; returns whether that was all, so that another request can follow.

    Closed with bytes unread, the connection would be reset, and the client may lose the answer. Gunicorn itself would
    read on for as long as it waits for the next request.
    """
    with suppress(Exception), gevent.Timeout(REST_S, False):
        while not req.body.failed and req.body.read(REST_BYTES):
            pass
        return not req.body.failed
    return False


def _end(idle: dict[gevent.Greenlet, gevent.Timeout], greenlet: gevent.Greenlet, timeout: gevent.Timeout) -> None:
    if idle.get(greenlet) is timeout:  # else a request has come meanwhile
        greenlet.throw(timeout)
