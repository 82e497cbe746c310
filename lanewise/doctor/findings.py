"""What a check came to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from shared.errors import LanewiseError

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        check: its name.
        status: a warning is no reason to call the fleet ill.
        detail: what was found; no secret.
        cure: what to do about it.
    """

    check: str
    status: Status
    detail: str
    cure: str = ""


def ok(check: str, detail: str) -> Finding:
    """Returns that all is well."""
    return Finding(check, "ok", detail)


def warning(check: str, detail: str, cure: str = "") -> Finding:
    """Returns what somebody should know."""
    return Finding(check, "warning", detail, cure)


def failed(check: str, detail: str, cure: str) -> Finding:
    """Returns what keeps the fleet from its work, or its promises."""
    return Finding(check, "failed", detail, cure)


def guarded(check: str, look: Callable[[], Iterator[Finding]], cure: str) -> Iterator[Finding]:
    """Yields what a check finds; what it cannot get to is a finding too.

    Args:
        look: the check.
        cure: for a store that does not answer.
    """
    try:
        yield from look()
    except (LanewiseError, RedisError, SQLAlchemyError, OSError) as error:
        cause = error.__cause__ or error
        orig = getattr(cause, "orig", None) or cause  # the driver's own words: SQLAlchemy adds the statement
        reason = " ".join(str(orig).split())[:300] or type(orig).__name__
        yield failed(check, reason, cure)
