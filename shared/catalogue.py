"""Which agents there are and who runs them: written by workers, read by the api, which so needs no agent code."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.models import Agent, Worker


def announce(session: Session, worker: dict[str, Any], agents: Sequence[dict[str, Any]]) -> None:
    """Stores a worker that starts, and the agents it has.

    Args:
        worker: the columns `id, name, queues, slots` of its row.
        agents: the columns of `agents`, without `updated_at`.
    """
    for agent in agents:
        values = {key: agent[key] for key in agent if key != "name"}
        statement = insert(Agent).values(agent)
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["name"],
                set_={**values, "updated_at": func.now()},
                where=func.row(*(Agent.__table__.c[key] for key in values)).is_distinct_from(
                    func.row(*(statement.excluded[key] for key in values))
                ),
            )
        )
    session.execute(insert(Worker).values(**worker, agents=[agent["name"] for agent in agents]))


def beat(session: Session, worker_id: str) -> bool:
    """Renews a worker's sign of life; False if its row is gone: somebody declared it dead."""
    statement = update(Worker).where(Worker.id == worker_id).values(heartbeat_at=func.clock_timestamp())
    return bool(session.execute(statement.returning(Worker.id)).all())


def running_agents(session: Session, lease_s: float) -> Sequence[Agent]:
    """Returns the agents that a live worker has and serves the queue of, by name.

    Args:
        lease_s: seconds of silence after which a worker is not counted.
    """
    query = select(Agent).where(exists().where(*_serves(lease_s))).order_by(Agent.name)
    return session.scalars(query).all()


def live_workers(session: Session, lease_s: float) -> int:
    """Returns how many workers gave a sign of life within `lease_s` seconds and take new runs."""
    return session.scalar(select(func.count()).select_from(Worker).where(alive(lease_s))) or 0


def _serves(lease_s: float) -> tuple[ColumnElement[bool], ...]:
    return (Agent.name == Worker.agents.any_(), Agent.queue == Worker.queues.any_(), alive(lease_s))


def alive(lease_s: float) -> ColumnElement[bool]:
    """Says of a worker that it gave a sign of life within `lease_s` seconds and takes new runs."""
    fresh = Worker.heartbeat_at > func.clock_timestamp() - timedelta(seconds=lease_s)
    return and_(fresh, Worker.draining.is_(False))
