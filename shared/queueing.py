"""Where a queued run stands and why it waits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from shared.database import Executor, load_sql
from shared.models import Run
from shared.states import ExecutionState

_PLACES = load_sql("queue_places")


def queue_views(
    executor: Executor, user_id: str, runs: Sequence[Run], agents: Collection[str], *, redis_away: bool = False
) -> dict[str, dict[str, Any]]:
    """Returns the `queue` of each of the runs that is queued, by run id; one query however many they are.

    Args:
        executor: of the user.
        runs: all of the user; those that are not queued are left out.
        agents: the names that live workers have.
        redis_away: whether admission is known to wait for Redis.
    """
    queued = [run for run in runs if run.status == ExecutionState.QUEUED]
    parked = [run.id for run in queued if run.granted_at is None]
    rows = executor.execute(_PLACES, {"user_id": user_id, "run_ids": parked}) if parked else ()
    places = {row.id: row.place for row in rows}
    return {run.id: queue_view(places.get(run.id, 0), _reason(run, run.agent in agents, redis_away)) for run in queued}


def queue_view(position: int, reason: str) -> dict[str, Any]:
    """Returns the public form.

    Args:
        position: among the user's parked runs, 1 is next; 0: a slot is granted.
        reason: what it waits for.
    """
    return {"position": position, "reason": reason, "eta_s": None}


def _reason(run: Run, has_worker: bool, redis_away: bool) -> str:  # noqa: FBT001 - two facts about one run
    if not has_worker:
        return "no_worker"
    if run.attempt > 0:
        return "recovering"
    if run.granted_at is not None:
        return "fleet_busy"
    return "redis_unavailable" if redis_away else "user_limit"
