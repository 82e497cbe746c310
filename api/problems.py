"""Every error leaves as `application/problem+json`: ours, Flask's, and whatever escapes."""

from __future__ import annotations

import json
import math
from typing import Any

import structlog
from flask import Flask, Response, g
from werkzeug.exceptions import HTTPException

from shared.errors import (
    BadRequestError,
    ConflictError,
    ForbiddenError,
    LanewiseError,
    MethodNotAllowedError,
    NotFoundError,
    QuotaError,
    RequestTimeoutError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedMediaTypeError,
    UpgradeRequiredError,
)
from shared.jsonvalue import clean_json

log = structlog.get_logger(__name__)

CONTENT_TYPE = "application/problem+json"
_BY_STATUS: dict[int, type[LanewiseError]] = {
    kind.status: kind
    for kind in (
        BadRequestError, UnauthorizedError, ForbiddenError, NotFoundError, MethodNotAllowedError, RequestTimeoutError,
        ConflictError, TooLargeError, UnsupportedMediaTypeError, QuotaError, UnavailableError,
    )
}  # fmt: skip


def install(app: Flask) -> None:
    """Registers the handlers."""
    app.register_error_handler(HTTPException, _from_http)
    app.register_error_handler(Exception, lambda error: problem_response(as_lanewise_error(error)))


def as_lanewise_error(error: Exception) -> LanewiseError:
    """Returns what to tell the caller; what nobody foresaw is logged and told without details."""
    if isinstance(error, LanewiseError) and error.status < 500:  # noqa: PLR2004 - the caller's own errors
        return error
    if isinstance(error, UnavailableError):
        log.warning("a store is away", error=str(error.__cause__ or error))
        return error
    log.error("a request failed", exc_info=error)
    return LanewiseError("something went wrong on our side; the correlation id finds it in our logs")


def problem_of(error: LanewiseError) -> dict[str, Any]:
    """Returns the problem object, free of what JSON readers choke on."""
    body: dict[str, Any] = clean_json(error.problem())
    return body


def problem_response(error: LanewiseError) -> Response:
    """Returns the answer to a request that failed with the error."""
    body = problem_of(error)
    if "correlation_id" in g:
        body["correlation_id"] = g.correlation_id
    response = Response(json.dumps(body), status=error.status, content_type=CONTENT_TYPE)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == UnauthorizedError.status:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.status == UpgradeRequiredError.status:
        response.headers["Upgrade"] = "websocket"
        response.headers["Sec-WebSocket-Version"] = "13"
    return response


def _from_http(error: HTTPException) -> Response:
    kind = _BY_STATUS.get(error.code or 500, BadRequestError if (error.code or 500) < 500 else LanewiseError)  # noqa: PLR2004
    message = error.description or kind.title
    response = problem_response(kind(message))
    for name, value in error.get_headers():
        if name in {"Allow", "Retry-After"}:
            response.headers[name] = value
    return response
