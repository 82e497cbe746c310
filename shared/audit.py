"""The audit trail: one row per deed, written in the transaction of the deed itself."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

_INSERT = text("""
    INSERT INTO audit_log (user_id, actor, action, object, outcome, correlation_id, detail)
    VALUES (:user_id, :actor, :action, :object, :outcome, :correlation_id, CAST(:detail AS jsonb))
""")


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
              "correlation_id": correlation_id, "detail": json.dumps(detail or {})}  # fmt: skip
    session.execute(_INSERT, values)
