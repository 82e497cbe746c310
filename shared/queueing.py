"""Where a queued run stands and why it waits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared.models import Run
from shared.states import ExecutionState


def queue_views(
    session: Session, user_id: str, runs: Sequence[Run], agents: Collection[str], *, redis_away: bool = False
) -> dict[str, dict[str, Any]]:
    """Returns the `queue` of each of the runs that is queued, by run id; one query however many they are.

    Args:
        runs: all of the user; those that are not queued are left out.
        agents: the names that live workers have.
        redis_away: whether admission is known to wait for Redis.
    """
    queued = [run for run in runs if run.status == ExecutionState.QUEUED]
    parked = [run.id for run in queued if run.granted_at is None]
    places = _places(session, user_id, parked) if parked else {}
    return {run.id: queue_view(places.get(run.id, 0), _reason(run, run.agent in agents, redis_away)) for run in queued}


def queue_view(position: int, reason: str) -> dict[str, Any]:
    """Returns the public form.

    Args:
        position: among the user's parked runs, 1 is next; 0: a slot is granted.
        reason: what it waits for.
    """
    return {"position": position, "reason": reason, "eta_s": None}


def _places(session: Session, user_id: str, run_ids: Sequence[str]) -> dict[str, int]:
    order = func.row_number().over(order_by=(Run.created_at, Run.id)).label("place")
    parked = select(Run.id, order).where(
        Run.user_id == user_id, Run.status == ExecutionState.QUEUED, Run.granted_at.is_(None)
    )
    inner = parked.subquery()
    rows = session.execute(select(inner.c.id, inner.c.place).where(inner.c.id.in_(run_ids)))
    return {row.id: row.place for row in rows}


def _reason(run: Run, has_worker: bool, redis_away: bool) -> str:  # noqa: FBT001 - two facts about one run
    if not has_worker:
        return "no_worker"
    if run.attempt > 0:
        return "recovering"
    if run.granted_at is not None:
        return "fleet_busy"
    return "redis_unavailable" if redis_away else "user_limit"
