"""`/v1/stream`."""

from __future__ import annotations

import time

import structlog
from flask import Blueprint, g, request

from api.addresses import request_address
from api.auth import bearer
from api.gateway.executor import ConnectionExecutor
from api.gateway.protocol import CloseCode, StreamClosedError, close_for
from api.gateway.replay import Replay
from api.gateway.sock import Sock
from api.gateway.socket import StreamSocket
from api.gateway.stream import Stream, close, read_hello, sign_in
from api.refusals import Refusal
from api.state import Api, api
from shared.errors import LanewiseError, QuotaError, UnauthorizedError
from shared.tokens import Identity

bp = Blueprint("gateway", __name__)
sock = Sock()
log = structlog.get_logger(__name__)


@sock.route("/v1/stream", bp)
def stream(socket: StreamSocket) -> None:
    """Serves one connection from its upgrade to its end."""
    state, began = api(), time.monotonic()
    try:
        with state.manager.admit(request_address(state.services.settings.trusted_proxies)):
            ending = _serve(state, socket)
            _count(state, ending)
            close(socket, ending.code, ending.reason)
    except QuotaError as error:
        ending = close_for(error)
        _count(state, ending)
        socket.finish(ending.code, ending.reason)  # without lingering: nobody counts it
    log.debug("a stream ended", code=int(ending.code), reason=ending.reason, seconds=round(time.monotonic() - began, 3))


def _serve(state: Api, socket: StreamSocket) -> StreamClosedError:
    """Returns how it ended."""
    try:
        _follow(state, socket)
    except StreamClosedError as error:
        return error
    except LanewiseError as error:
        return close_for(error)
    except OSError:
        pass  # the other side is gone
    except Exception:
        log.exception("a stream failed")
        return StreamClosedError(CloseCode.OVERLOADED, "")
    if socket.too_slow:
        return StreamClosedError(CloseCode.TOO_SLOW, "a write took too long")
    return StreamClosedError(CloseCode.NORMAL, "")


def _count(state: Api, ending: StreamClosedError) -> None:
    if ending.code == CloseCode.UNAUTHORIZED:
        state.metrics.sign_in_failures.inc()
        state.refusals.count(Refusal("sign_in", "stream", ending.reason), g.correlation_id)
    if ending.code == CloseCode.FORBIDDEN:
        state.refusals.count(Refusal("call", "stream", ending.reason), g.correlation_id)
    state.metrics.closes.labels(int(ending.code)).inc()


def _follow(state: Api, socket: StreamSocket) -> None:
    _check_origin(state)
    token = _bearer()
    hello = read_hello(socket)
    identity = sign_in(hello, token, state.tickets)
    if "runs" not in identity.scopes:
        raise StreamClosedError(CloseCode.FORBIDDEN, "the token lacks the scope 'runs'")
    services = state.services
    executor = ConnectionExecutor(services, state.submissions, identity)
    connection = Stream(socket, identity, executor, state.tickets)
    replay = Replay(services.database, identity.user_id, state.runs, state.hub.gate, state.metrics)
    with state.manager.register(identity.user_id, connection), state.hub.channel(identity.user_id) as channel:
        connection.run(channel, replay, hello)


def _check_origin(state: Api) -> None:
    """Refuses other sites' pages: a browser always says where a page is from, and a program need not."""
    origin = request.headers.get("Origin")
    if origin is None or origin in state.services.settings.allowed_origins:
        return
    # A proxy that ends TLS need not say so; but a page that came without TLS is not the same as one that came with it.
    if origin not in {f"{scheme}://{request.headers.get('Host', '')}" for scheme in ("https", request.scheme)}:
        raise StreamClosedError(CloseCode.FORBIDDEN, "this origin may not connect")


def _bearer() -> Identity | None:
    header = request.headers.get("Authorization")
    if header is None:
        return None
    try:
        return bearer(header)
    except UnauthorizedError as error:
        raise StreamClosedError(CloseCode.UNAUTHORIZED, error.message) from error
