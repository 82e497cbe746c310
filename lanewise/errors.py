"""What can go wrong between a client and the service."""

from __future__ import annotations

import json
from typing import Any

from shared.errors import LanewiseError


class ApiError(LanewiseError):
    """The service answered with a problem (RFC 9457).

    Attributes:
        status: the HTTP status.
        code: the problem's stable code, e.g. `not_found`.
        detail: what went wrong and what to do, for people.
        errors: one entry per offending field, `{"field": ..., "message": ...}`.
        retry_after_s: seconds after which another try makes sense, or None.
    """

    def __init__(self, status: int, problem: dict[str, Any], retry_after_s: float | None = None) -> None:
        self.detail = str(problem.get("detail") or problem.get("title") or f"the service answered {status}")
        errors = [item for item in problem.get("errors") or [] if isinstance(item, dict)]
        super().__init__(self.detail, errors=errors, retry_after_s=retry_after_s)
        # Elsewhere these belong to the class; here each answer has its own.
        self.status = status  # type: ignore[misc]
        self.code = str(problem.get("code") or "unknown")  # type: ignore[misc]

    @classmethod
    def from_body(cls, status: int, body: bytes | bytearray, retry_after: str | None) -> ApiError:
        """Returns the error for an answer, whatever is in its body (a proxy in between may answer HTML)."""
        try:
            problem = json.loads(body)
        except ValueError:
            problem = None
        return cls(status, problem if isinstance(problem, dict) else {}, _seconds(retry_after))


class UnreachableError(LanewiseError):
    """No answer from the service, or none in time, also after several tries."""

    code, status, title = "unreachable", 503, "Not reachable"


class StreamClosedError(LanewiseError):
    """The service ended the stream with a close code that means: do not reconnect.

    Attributes:
        close_code: 4400 bad message, 4403 forbidden, 4409 replaced by a newer connection, 1009 too big.
    """

    code, status, title = "stream_closed", 409, "Stream closed"

    def __init__(self, close_code: int, message: str) -> None:
        super().__init__(message)
        self.close_code = close_code


class GapError(LanewiseError):
    """Events between the cursor and now cannot be had any more; the snapshot stands in for them.

    Attributes:
        reason: `trimmed` (older than the service keeps events) or `ahead` (the cursor is of another database).
        head: the stream goes on after this `seq`.
        snapshot: the user's live and recent runs as of `head`.
    """

    code, status, title = "gap", 410, "Events are gone"

    def __init__(self, reason: str, head: int, snapshot: Any) -> None:
        super().__init__(f"events before {head} cannot be replayed ({reason}): use the snapshot")
        self.reason = reason
        self.head = head
        self.snapshot = snapshot


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        return None
