"""Bodies of requests and of downloads: how many bytes of them a process holds, and how long they may take.

A body is in memory from its first byte on. So there is room for so many bytes, taken before the first is read, and
who is slow to send or to take the rest is cut.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from socket import socket

import gevent  # type: ignore[import-untyped]
from flask import Response, request
from gunicorn.http.errors import ParseException

from api.places import Places
from api.state import api
from shared.errors import BadRequestError, QuotaError, RequestTimeoutError, TooLargeError

SMALL_BYTES = 64 * 1024  # what has no more is not counted: so many connections may all have it
MAX_BYTES_PER_USER = 128 * 1024 * 1024
MAX_BYTES = 512 * 1024 * 1024
PIECE_BYTES = 256 * 1024
PATIENCE_S = 10.0  # for a piece; a body as a whole has that and what it takes at the least rate
LEAST_BYTES_PER_S = 128 * 1024
HEAVY_BYTES = 1024 * 1024
MAX_HEAVY = 2  # that go to Postgres or come from it at once: meanwhile each takes up to nine times its size
MAX_WAIT_S = 30.0  # for that
_ALREADY_S = 0.01  # what is there already may still be taken
_room = Places(MAX_BYTES_PER_USER, MAX_BYTES, f"bytes of bodies above {SMALL_BYTES}")
_heavy = threading.BoundedSemaphore(MAX_HEAVY)


class Pace:
    """Says how long the next piece may take.

    Args:
        size: of the body, bytes.
    """

    def __init__(self, size: int) -> None:
        self._end = time.monotonic() + PATIENCE_S + size / LEAST_BYTES_PER_S

    def left_s(self) -> float:
        """Returns seconds, never 0."""
        return max(_ALREADY_S, min(PATIENCE_S, self._end - time.monotonic()))


@contextmanager
def room(user_id: str, size: int) -> Iterator[None]:
    """Counts a body of so many bytes among those that are held, until the end of the block; not a small one.

    Raises:
        QuotaError: there is no room for it, for the user or at all.
    """
    if size <= SMALL_BYTES:
        yield
        return
    held = api().metrics.body_bytes
    with _room.take(user_id, size):
        held.inc(size)
        try:
            yield
        finally:
            held.dec(size)


@contextmanager
def turn(size: int) -> Iterator[None]:
    """Stands round what moves a body of so many bytes to Postgres or from it: few large ones do so at once.

    Raises:
        QuotaError: its turn has not come in time.
    """
    if size <= HEAVY_BYTES:
        yield
        return
    if not _heavy.acquire(timeout=MAX_WAIT_S):
        raise QuotaError(f"{MAX_HEAVY} other large bodies take their time at Postgres; ask again", retry_after_s=1)
    try:
        yield
    finally:
        _heavy.release()


def announced(most: int) -> int:
    """Returns how many bytes the request's body will have: `most` if it does not say.

    Raises:
        TooLargeError: more than `most`.
    """
    size = request.content_length
    if size is None:
        return most if "Transfer-Encoding" in request.headers else 0
    if size > most:
        raise _too_large(most)
    return size


def read(most: int) -> bytes:
    """Returns the request's body.

    Raises:
        TooLargeError: it has more than `most` bytes.
        RequestTimeoutError: it comes too slowly. The connection cannot be used again.
        BadRequestError: it does not come to its end, or is not HTTP.
    """
    body, pace = request.environ["wsgi.input"], Pace(announced(most))
    content = bytearray()  # not a list of pieces: the memory of these would stay with the process
    while piece := _piece(body, pace):
        content += piece
        if len(content) > most:
            raise _too_large(most)
    if len(content) < (request.content_length or 0):
        raise BadRequestError(f"the body ended after {len(content)} bytes of {request.content_length}")
    return bytes(content)


def download(content: bytes, headers: Mapping[str, str]) -> Response:
    """Returns an answer that is written in pieces; a client that does not take them in time is cut."""
    pieces = _pieces(content, request.environ.get("gunicorn.socket"))
    return Response(pieces, headers={**headers, "Content-Length": str(len(content))})


def _piece(body: object, pace: Pace) -> bytes:
    # Not a bare gevent.Timeout: gunicorn has to see an Exception, to know that the next request's begin is lost.
    late = RequestTimeoutError("the body comes too slowly")
    try:
        with gevent.Timeout(pace.left_s(), late):
            piece: bytes = body.read(PIECE_BYTES)  # type: ignore[attr-defined]
    except (OSError, ValueError, ParseException) as error:
        raise BadRequestError(f"the body cannot be read: {error}") from None
    return piece


def _pieces(content: bytes, sock: socket | None) -> Iterator[bytes]:
    pace = Pace(len(content))
    for start in range(0, len(content), PIECE_BYTES):
        if sock is not None:  # None: nothing but the app itself, as in tests
            sock.settimeout(pace.left_s())  # `gunicorn_worker.Worker` takes it away again
        yield content[start : start + PIECE_BYTES]


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(f"the body is larger than the limit of {most} bytes")
