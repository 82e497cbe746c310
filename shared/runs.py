"""The life of a run in Postgres: every change of state, each one conditional, each one in the caller's transaction.

Whoever changes a run states the attempt that it believes to be the present one. If that is wrong nothing is written and
the function says so by its answer: being superseded is an ordinary outcome, not an error.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, DateTime, Row, and_, func, inspect, null, select, text, update
from sqlalchemy.orm import Session

from shared import audit
from shared.audit import Deed
from shared.database import Executor
from shared.event_types import EventType
from shared.events import TERMINAL, Event, StoredEvent, append, iso, numbered, records, to_json
from shared.messages import RunMessage
from shared.models import Run
from shared.outcomes import Cancelled, Completed, Ended, Failed, Lost, Outcome, TimedOut
from shared.states import ExecutionState, check_transition

_CLAIM = text("SELECT * FROM claim_run(:user_id, :run_id, :attempt, :worker_id, :agents, CAST(:context AS jsonb))")
_END = text("""
    SELECT e.*, record_audit(CASE WHEN e.seq IS NOT NULL THEN CAST(:records AS jsonb) -> CAST(e.n AS text) END)
    FROM end_run(:user_id, :run_id, :attempt, :old, :new, CAST(:output AS jsonb), CAST(:error AS jsonb),
        CAST(:events AS jsonb)) e
""")
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
MAX_HISTORY = 20  # lost attempts that a run remembers; those that do not count are not bounded otherwise
MAX_PAST_MESSAGE = 300  # characters of each one's; all of them fit into the event that tells of the failure
_TIMES = tuple(column.key for column in Run.__table__.columns if isinstance(column.type, DateTime))
_COLUMNS = tuple(attribute.key for attribute in inspect(Run).column_attrs)
_ran_now = Run.ran_s + func.extract("epoch", func.clock_timestamp() - Run.claimed_at)


class Claimed(NamedTuple):
    """A run that is a worker's now.

    Args:
        stored: its event.
        granted: tools that its user has a grant for at this moment.
    """

    run: Run
    stored: list[StoredEvent]
    granted: list[str]


def claim(executor: Executor, message: RunMessage, worker_id: str, agents: Sequence[str]) -> Claimed | None:
    """Makes the run this worker's: raises `attempt`, which is the fence from now on.

    Args:
        executor: of the run's user.
        agents: names of those that the worker has; a run of another stays queued until a worker has its agent.

    Returns:
        what was claimed, or None when the message is stale, doubled or not what is stored.
    """
    context = message.context
    parameters = {
        "user_id": context.user_id, "run_id": context.run_id, "attempt": message.attempt, "worker_id": worker_id,
        "agents": list(agents), "context": json.dumps(context.to_dict()),
    }  # fmt: skip
    rows = list(executor.execute(_CLAIM, parameters))
    if not rows:
        return None
    (row,) = rows
    run = _from_json(row.run)
    event = _event(run, EventType.RUN_STARTED, {"attempt": run.attempt})
    stored = [StoredEvent(event, row.seq, row.run_seq, run.thread_id, run.correlation_id, row.at)]
    return Claimed(run, stored, row.granted)


def finish(
    session: Session, run: Run, outcome: Outcome, actor: str, pending: Sequence[Event] = ()
) -> list[StoredEvent] | None:
    """Writes how an attempt ended, in one go: event, state, result, audit.

    Args:
        run: as claimed (or as the leader found it): its user, id, attempt and present status are the condition.
        outcome: an end, or `Lost`: then the run is queued again unless that was its last attempt.
        actor: `worker:<id>`, `leader` or `user:<id>`, for the audit trail.
        pending: events of this attempt that are not stored yet and come before the last one.

    Returns:
        the stored events, or None when the attempt was superseded or the run has ended: nothing is written then.
    """
    if isinstance(outcome, Lost):
        present = _lock(session, run)
        if present is None:
            return None
        if present.cancel_requested_at is not None:
            outcome = Cancelled()
        elif run.lost_attempts + outcome.counted < run.max_attempts:
            return _requeue(session, run, outcome, actor, pending)
        else:
            history = [*run.lost, _lost_attempt(run, outcome)]
            return end(session, run, _last_attempt_lost(run, outcome), actor, pending, history)
    return end(session, run, outcome, actor, pending)


def end(  # noqa: PLR0913, PLR0917 - all that an end is made of
    executor: Executor,
    run: Run,
    outcome: Ended,
    actor: str,
    pending: Sequence[Event] = (),
    history: Sequence[dict[str, Any]] | None = None,
) -> list[StoredEvent] | None:
    """Ends an attempt for good; `finish` without the cases that need a session.

    Args:
        executor: of the run's user.
        history: the lost attempts, if they are more than those that the run remembers.
    """
    check_transition(ExecutionState(run.status), outcome.state)
    error = error_of(run, outcome, run.lost if history is None else history)
    output = outcome.output if isinstance(outcome, Completed) else None
    deed = Deed(run.user_id, actor, "run.end", run.id, str(outcome.state), run.correlation_id)
    last = Event(
        run.user_id,
        run.id,
        run.attempt,
        TERMINAL[outcome.state],
        run.agent,
        {"error": error} if error else {},
        deed=deed,
    )
    events = [*pending, last]
    parameters = {
        "user_id": run.user_id, "run_id": run.id, "attempt": run.attempt, "old": str(run.status),
        "new": str(outcome.state), "output": None if output is None else json.dumps(output),
        "error": None if error is None else json.dumps(error), "events": to_json(events),
        "records": records(executor, events),
    }  # fmt: skip
    return numbered(events, executor.execute(_END, parameters)) or None


def request_cancel(session: Session, user_id: str, run_id: str) -> tuple[Run, list[StoredEvent]] | None:
    """Stores the intent to cancel; a run that is still queued ends at once.

    Returns:
        the run as it is now with what was appended, or None if the user has no such run. An ended run is unchanged.
    """
    run = find(session, user_id, run_id, lock=True)
    if run is None or ExecutionState(run.status).is_end:
        return None if run is None else (run, [])
    stored: list[StoredEvent] = []
    if run.status == ExecutionState.QUEUED:
        stored = end(session, run, Cancelled(), f"user:{user_id}") or []
    elif run.cancel_requested_at is None:
        session.execute(
            update(Run)
            .where(Run.user_id == user_id, Run.id == run_id)
            .values(cancel_requested_at=func.clock_timestamp())
            .execution_options(synchronize_session=False)
        )
        _audit(session, run, f"user:{user_id}", "run.cancel_request")
    session.expire_all()
    return find(session, user_id, run_id) or run, stored


def find(session: Session, user_id: str, run_id: str, *, lock: bool = False) -> Run | None:
    """Returns the user's run; with `lock` its row is held until the end of the transaction."""
    query = select(Run).where(Run.user_id == user_id, Run.id == run_id)
    if lock:  # as it is now, whatever the session has read of it before
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    return session.scalars(query).one_or_none()


def run_view(run: Run, queue: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns the public form of a run.

    Args:
        queue: where a queued run stands and why, see `shared.queueing`.
    """
    return {
        "id": run.id,
        "agent": run.agent,
        "status": str(run.status),
        "thread_id": run.thread_id,
        "input": run.input,
        "output": run.output,
        "error": run.error,
        "attempt": run.attempt,
        "last_run_seq": run.last_run_seq,
        "progress": {"fraction": run.progress, "note": run.progress_note},
        "usage": run.usage or None,
        "retry_of": run.retry_of,
        "queue": queue,
        "metadata": run.meta,
        "correlation_id": run.correlation_id,
        "created_at": iso(run.created_at),
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
    }


def _lock(session: Session, run: Run) -> Row[datetime | None] | None:
    """Holds the run until the end of the transaction; None if it has gone on without this attempt."""
    query = select(Run.cancel_requested_at).where(*_is(run.user_id, run.id, run.attempt, run.status))
    return session.execute(query.with_for_update()).one_or_none()


def _requeue(session: Session, run: Run, lost: Lost, actor: str, pending: Sequence[Event]) -> list[StoredEvent]:
    check_transition(ExecutionState(run.status), ExecutionState.QUEUED)
    lost_attempts = run.lost_attempts + lost.counted
    after_s = _pause_s(lost, lost_attempts)
    data = {"reason": lost.type, "message": lost.message, "attempt": run.attempt, "after_s": round(after_s, 3)}
    stored, _ = append(session, [*pending, _event(run, EventType.RUN_RECOVERING, data)])
    not_before = func.clock_timestamp() + timedelta(seconds=after_s) if after_s else null()
    _change(
        session,
        run,
        {
            "status": ExecutionState.QUEUED, "granted_at": null(), "sent_at": null(), "worker_id": null(),
            "lost_attempts": lost_attempts, "ran_s": _ran_now, "not_before": not_before,
            "lost": [*run.lost, _lost_attempt(run, lost)][-MAX_HISTORY:],
        },
    )  # fmt: skip
    _audit(session, run, actor, "run.recover", lost.type)
    return stored


def _pause_s(lost: Lost, lost_attempts: int) -> float:
    """Returns how long the next attempt waits: as the agent said; else not after the first loss, then ever longer."""
    if lost.after_s is not None:
        return lost.after_s
    if not lost.counted or lost_attempts <= 1:
        return 0
    longest = min(FIRST_PAUSE_S * 2 ** (lost_attempts - 2), LONGEST_PAUSE_S)
    return random.uniform(longest / 2, longest)  # noqa: S311 - so that runs lost together do not come back together


def _lost_attempt(run: Run, lost: Lost) -> dict[str, Any]:
    message = lost.message[:MAX_PAST_MESSAGE]
    return {"attempt": run.attempt, "reason": lost.type, "message": message, "at": iso(datetime.now(UTC))}


def _from_json(values: dict[str, Any]) -> Run:
    """Returns a run from `to_jsonb` of its row, which may have columns of a newer schema than this code's."""
    values["meta"] = values.pop("metadata")
    for name in _TIMES:
        values[name] = datetime.fromisoformat(values[name]) if values[name] else None
    return Run(**{name: values[name] for name in _COLUMNS})


def _last_attempt_lost(run: Run, lost: Lost) -> Failed:
    attempts = "its only attempt" if run.max_attempts == 1 else f"all {run.max_attempts} attempts"
    return Failed(lost.type, f"{lost.message}; the run has used {attempts}", retryable=True)


def error_of(run: Run, outcome: Ended, history: Sequence[dict[str, Any]] = ()) -> dict[str, Any] | None:
    """Returns an end as the `error` of a run, None if it completed; with `attempts`, if earlier ones were lost."""
    if isinstance(outcome, Failed):
        kind, message, retryable = outcome.type, outcome.message, outcome.retryable
    elif isinstance(outcome, TimedOut):
        kind, message, retryable = "timed_out", f"the run reached its time limit of {outcome.limit_s:g} s", False
    elif isinstance(outcome, Cancelled):
        kind, message, retryable = "cancelled", "the run was cancelled", False
    else:
        return None
    error = {"type": kind, "message": message, "attempt": run.attempt, "retryable": retryable}
    return error | {"attempts": list(history)} if history and run.attempt > 1 else error


def _is(user_id: str, run_id: str, attempt: int, status: str) -> tuple[ColumnElement[bool], ...]:
    return (and_(Run.user_id == user_id, Run.id == run_id, Run.attempt == attempt, Run.status == status),)


def _change(session: Session, run: Run, values: dict[str, Any]) -> None:
    statement = update(Run).where(*_is(run.user_id, run.id, run.attempt, run.status)).values(values)
    session.execute(statement.execution_options(synchronize_session=False))


def _event(run: Run, kind: EventType, data: dict[str, Any]) -> Event:
    return Event(run.user_id, run.id, run.attempt, kind, run.agent, data)


def _audit(session: Session, run: Run, actor: str, action: str, outcome: str = "ok") -> None:
    audit.record(
        session,
        user_id=run.user_id,
        actor=actor,
        action=action,
        target=run.id,
        outcome=outcome,
        correlation_id=run.correlation_id,
    )
