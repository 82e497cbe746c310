"""Who is asking: a bearer token, verified, with the scope that the call needs."""

from __future__ import annotations

import structlog
from flask import g, request

from api.refusals import Refusal
from api.state import api
from shared.errors import ForbiddenError, LanewiseError, UnauthorizedError
from shared.jsonvalue import clean_json
from shared.tokens import Identity

ADMIN = "admin"  # the scope
MAX_CALL = 300  # characters that the audit trail tells of a refused call

log = structlog.get_logger(__name__)


def authenticate(scope: str) -> Identity:
    """Returns whom the request's token names.

    Raises:
        UnauthorizedError: no token, or a bad or revoked one.
        ForbiddenError: it lacks the scope.
    """
    try:
        identity = bearer(request.headers.get("Authorization"))
    except UnauthorizedError as error:
        api().metrics.sign_in_failures.inc()
        api().refusals.count(Refusal("sign_in", scope, error.message), g.correlation_id)
        log.info("a sign-in failed", reason=error.message, cause=str(error.__cause__ or ""))
        raise
    if scope not in identity.scopes:
        refusal = Refusal("call", scope, "the token lacks the scope", identity.user_id)
        api().refusals.count(refusal, g.correlation_id)
        raise ForbiddenError(f"the token lacks the scope {scope!r}")
    structlog.contextvars.bind_contextvars(user_id=identity.user_id)
    return identity


def refused(administrator: Identity, error: Exception) -> None:
    """Has the audit trail tell that a call of an administrator failed, and why."""
    reason = error.code if isinstance(error, LanewiseError) else "internal"
    call = clean_json(f"{request.method} {request.path}"[:MAX_CALL])
    api().refusals.count(Refusal("admin", call, reason, administrator.user_id), g.correlation_id)


def bearer(header: str | None) -> Identity:
    """Returns whom an Authorization header names.

    Raises:
        UnauthorizedError: it is missing, of another scheme, or its token does not verify or was revoked.
    """
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnauthorizedError("send a token: `Authorization: Bearer …`")
    state = api()
    identity = state.verifier.verify(token.strip())
    state.revocations.check(identity)
    return identity
