"""Flask-Sock with our socket in it: its own `route` builds simple-websocket's `Server` from a module global."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import flask_sock
from flask import Blueprint, Response, request

from api.gateway.protocol import MAX_MESSAGE_BYTES
from api.gateway.socket import StreamSocket

Handler = Callable[[StreamSocket], None]


class Upgraded(Response):
    """Tells gunicorn that the connection was used up and is to be closed."""

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        """Ends the request without an answer."""
        raise StopIteration


class Sock(flask_sock.Sock):  # type: ignore[misc] # published without types
    """Routes WebSockets to handlers that take a `StreamSocket`."""

    def route(self, path: str, bp: Blueprint, **options: Any) -> Callable[[Handler], Handler]:
        """Decorates a handler; the connection ends when it returns."""

        def decorate(handler: Handler) -> Handler:
            @wraps(handler)
            def view() -> Response:
                handler(StreamSocket(request.environ, MAX_MESSAGE_BYTES))
                return Upgraded()

            bp.route(path, websocket=True, **options)(view)
            return handler

        return decorate
