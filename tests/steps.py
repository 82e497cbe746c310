"""Single steps of a run's life in their own transactions, and what stands in the database after them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from shared import events, lanes, runs
from shared.database import Database
from shared.events import Event, StoredEvent
from shared.messages import RunMessage
from shared.models import AuditEntry, Run
from shared.outcomes import Cancelled, Completed, Ended, Failed, Lost, Outcome, TimedOut
from tests.services import next_slot

LOST = Lost("sandbox_died", "the sandbox was killed")
DRAINED = Lost("drained", "the worker was stopped", counted=False)
ENDINGS: list[Ended] = [Completed({"n": 1}), Failed("ValueError", "bad input"), Cancelled(), TimedOut(2.5)]


def stored(database: Database, run: Run) -> Run:
    with database.user_session(run.user_id) as session:
        found = runs.find(session, run.user_id, run.id)
    assert found is not None
    return found


def row(database: Database, run: Run) -> dict[str, Any]:
    """Returns every column of the run, and its log and audit trail: what "nothing is written" is about."""
    with database.user_session(run.user_id) as session:
        found = session.execute(sa.select(Run.__table__).where(Run.__table__.c.id == run.id)).one()
        audit = session.scalars(sa.select(AuditEntry.id).where(AuditEntry.object == run.id)).all()
        log = events.read_run(session, run.user_id, run.id, 0, 1000)
        return {**found._asdict(), "audit": list(audit), "log": log, "head": events.head(session, run.user_id)}


def event_types(database: Database, run: Run) -> list[str]:
    with database.user_session(run.user_id) as session:
        return [event["type"] for event in events.read_run(session, run.user_id, run.id, 0, 1000)]


def finish(database: Database, run: Run, outcome: Outcome, *pending: Event) -> list[StoredEvent] | None:
    with database.user_session(run.user_id) as session:
        return runs.finish(session, run, outcome, "worker:w", pending)


def claim(database: Database, message: RunMessage, *agents: str) -> Run | None:
    with database.user_session(message.context.user_id) as session:
        claimed = runs.claim(session, message, "worker-1", agents or ("echo",))
    return None if claimed is None else claimed[0]


def grant(database: Database, run: Run) -> RunMessage:
    with database.user_session(run.user_id) as session:
        ((message, _queue),) = lanes.grant(session, run.user_id, [next_slot(session, run)])
    return message


def cancel(database: Database, run: Run, user_id: str | None = None) -> tuple[Run, list[StoredEvent]] | None:
    with database.user_session(user_id or run.user_id) as session:
        return runs.request_cancel(session, user_id or run.user_id, run.id)
