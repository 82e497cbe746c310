"""Where a queued run stands, why it waits, and for how long probably. The database knows all but if Redis is up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from shared.database import Executor
from shared.models import Run
from shared.states import ExecutionState

_PLACES = text("SELECT * FROM queue_places(:user_id, :run_ids, :slots)")


def queue_views(
    executor: Executor, user_id: str, runs: Sequence[Run], slots: int, *, redis_away: bool = False
) -> dict[str, dict[str, Any]]:
    """Returns the `queue` of each of the runs that is queued, by run id; one query however many they are.

    Args:
        executor: of the user.
        runs: all of the user; those that are not queued are left out.
        slots: how many runs a user may have in progress who has no limit of their own.
        redis_away: whether admission is known to wait for Redis.
    """
    queued = [run.id for run in runs if run.status == ExecutionState.QUEUED]
    if not queued:
        return {}
    rows = executor.execute(_PLACES, {"user_id": user_id, "run_ids": queued, "slots": slots})
    return {
        row.id: queue_view(
            row.place,
            "redis_unavailable"
            if redis_away and row.reason in {"user_limit", "recovering"} and row.place
            else row.reason,
            row.eta_s,
        )
        for row in rows
    }


def queue_view(position: int, reason: str, eta_s: float | None) -> dict[str, Any]:
    """Returns the public form.

    Args:
        position: among the user's parked runs, 1 is next; 0: a slot is granted.
        reason: what it waits for.
        eta_s: seconds until it starts, if runs take as long as the user's last ones did.
    """
    return {"position": position, "reason": reason, "eta_s": eta_s}
