"""The one error root, with a stable code and an HTTP status for each class.

The message of an error is meant for the person who sent the request: it names the field and the limit, and never
carries a traceback or a secret. `api` turns these into `application/problem+json`, the WebSocket into `error` frames.
"""

from __future__ import annotations

from typing import Any, ClassVar


class LanewiseError(Exception):
    """The root. `code` is stable and machine-readable, `status` its HTTP status.

    Args:
        message: what went wrong and what to do, for people.
        errors: one entry per offending field, `{"field": "input.text", "message": "..."}`.
        retry_after_s: seconds after which another try makes sense (sent as `Retry-After`).
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, message: str, *, errors: list[dict[str, str]] | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.errors = errors or []
        self.retry_after_s = retry_after_s

    def problem(self) -> dict[str, Any]:
        """Returns the RFC 9457 problem object."""
        body: dict[str, Any] = {
            "type": f"urn:lanewise:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.message,
        }
        if self.errors:
            body["errors"] = self.errors
        if self.retry_after_s is not None:
            body["retry_after_s"] = self.retry_after_s
        return body


class BadRequestError(LanewiseError):
    """The request could not be read at all: broken JSON, a bad cursor, a malformed frame."""

    code, status, title = "bad_request", 400, "Malformed request"


class UpgradeRequiredError(LanewiseError):
    """The WebSocket handshake is of another version than 13."""

    code, status, title = "upgrade_required", 426, "Other version needed"


class UnauthorizedError(LanewiseError):
    """No token, or one that does not verify."""

    code, status, title = "unauthorized", 401, "Not signed in"


class ForbiddenError(LanewiseError):
    """The token is good but lacks the scope."""

    code, status, title = "forbidden", 403, "Not allowed"


class NotFoundError(LanewiseError):
    """Nothing by that name, or somebody else's: the two look the same on purpose."""

    code, status, title = "not_found", 404, "Not found"


class MethodNotAllowedError(LanewiseError):
    """The resource exists but not with this method."""

    code, status, title = "method_not_allowed", 405, "Method not allowed"


class RequestTimeoutError(LanewiseError):
    """The body of the request came too slowly; the connection is closed."""

    code, status, title = "request_timeout", 408, "Too slow"


class ConflictError(LanewiseError):
    """The request collides with one that is being handled now."""

    code, status, title = "conflict", 409, "Conflict"


class StateConflictError(ConflictError):
    """Another run of the thread saved the state meanwhile: load it again, and save what follows from that."""

    code, title = "state_conflict", "State conflict"


class NotRetryableError(ConflictError):
    """The run has not ended, or has completed: there is nothing to retry."""

    code, title = "not_retryable", "Not to be retried"


class DeletingError(ConflictError):
    """The user is being deleted: nothing new is accepted. Without `retry_after_s`, for who tries again begins anew."""

    code, title = "being_deleted", "Being deleted"


class SupersededError(LanewiseError):
    """The attempt is over: another one has taken over, or the run has ended. Nothing was written."""

    code, status, title = "superseded", 409, "Superseded"


class TooLargeError(LanewiseError):
    """A body or a value above its size limit."""

    code, status, title = "too_large", 413, "Too large"


class UnsupportedMediaTypeError(LanewiseError):
    """The body is not of a content type that this call takes."""

    code, status, title = "unsupported_media_type", 415, "Unsupported media type"


class InvalidError(LanewiseError):
    """The request can be read but is wrong by its schema; `errors` names each field."""

    code, status, title = "invalid", 422, "Invalid input"


class InvalidContextError(InvalidError):
    """A `UserExecutionContext` with an empty, placeholder, over-long, wrong-typed or tampered field."""

    code, title = "invalid_context", "Invalid context"


class UnknownAgentError(InvalidError):
    """No running worker has an agent of that name."""

    code, title = "unknown_agent", "Unknown agent"


class KeyReusedError(InvalidError):
    """The same Idempotency-Key came with another body."""

    code, title = "idempotency_key_reused", "Idempotency-Key reused"


class QuotaError(LanewiseError):
    """A per-user limit is reached; `retry_after_s` says when to come back."""

    code, status, title = "quota_exceeded", 429, "Too many requests"


class RateLimitedError(QuotaError):
    """Requests come too fast: nothing but the time until `retry_after_s` stands against the next one."""

    code = "rate_limited"


class UnavailableError(LanewiseError):
    """A store that the request needs is away; nothing was accepted."""

    code, status, title = "unavailable", 503, "Temporarily unavailable"


class BusyError(UnavailableError):
    """The store is there, but others hold the rows that this needs: a lock time-out, a deadlock."""


class IllegalTransitionError(LanewiseError):
    """A run was asked to go from one state to another that the table in `shared.states` does not allow."""

    code = "illegal_transition"


class SignatureError(LanewiseError):
    """A message or token whose signature, age or purpose is wrong: it runs nothing."""

    code, status, title = "bad_signature", 401, "Bad signature"


class FrameError(LanewiseError):
    """A frame between runner and sandbox that is too large or not what the protocol allows."""

    code = "bad_frame"


class ConfigurationError(LanewiseError):
    """The process cannot start as configured; the message names the setting."""

    code = "configuration"
