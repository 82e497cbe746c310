"""The audit trail: one row per deed, written in the transaction of the deed itself."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from shared.models import AuditEntry


def record(  # noqa: PLR0913 - the columns of a row, all named at each call
    session: Session,
    *,
    user_id: str,
    actor: str,
    action: str,
    target: str,
    outcome: str = "ok",
    correlation_id: str | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Adds a row.

    Args:
        user_id: whose data was touched.
        actor: who did it: `user:<id>`, `worker:<id>` or `leader`.
        action: a verb with its noun, e.g. `run.submit`.
        target: what it was done to, e.g. a run id.
        outcome: `ok`, or why not.
        detail: further JSON; no input, no secret.
    """
    values = {"user_id": user_id, "actor": actor, "action": action, "object": target, "outcome": outcome,
              "correlation_id": correlation_id, "detail": detail or {}}  # fmt: skip
    session.execute(insert(AuditEntry).inline(), values)
