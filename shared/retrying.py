"""Accepting a retry: a new run in place of one that did not complete, which goes on after its recorded steps."""

from __future__ import annotations

from sqlalchemy.orm import Session

from shared import audit, runs
from shared.acceptance import Accepted, IdempotencyKey, Refused, accept
from shared.context import UserExecutionContext
from shared.database import load_sql
from shared.errors import NotFoundError, NotRetryableError
from shared.models import Agent, Run
from shared.states import ExecutionState

_CARRY_OVER = load_sql("carry_over")


def check_retryable(run: Run) -> None:
    """Refuses a run that there is nothing to retry of.

    Raises:
        NotRetryableError: it has not ended, or it completed.
    """
    status = ExecutionState(run.status)
    if status == ExecutionState.COMPLETED or not status.is_end:
        wait = "" if status.is_end else " yet"
        raise NotRetryableError(
            f"the run cannot be retried{wait}, it is {status}: only what failed, timed out or was cancelled can be"
        )


def accept_retry(  # noqa: PLR0913 - what a run is made of
    session: Session,
    old: Run,
    context: UserExecutionContext,
    agent: Agent,
    *,
    time_limit_s: float,
    quota: int,
    slots: int,
    key: IdempotencyKey | None = None,
) -> Accepted | Refused:
    """Stores a run as `accept` does, with input, metadata, thread, steps and state of an ended one.

    Args:
        session: of the run's user; nothing may be committed if this raises.
        old: has passed `check_retryable`; its input has been checked against the agent's schema of today.
        context: of the new run, in the thread of the old one.
        time_limit_s: of the new run.
        quota: how many queued runs a user may have who has no limit of their own.
        slots: how many in progress, likewise.
        key: the same key again is the same run.

    Raises:
        NotFoundError: the old run was removed a moment ago, and its steps with it.
    """
    # Held until the commit, before anything of the new run is, as all locks are taken: whoever removes it has to wait.
    if runs.find(session, old.user_id, old.id, lock=True) is None:
        raise NotFoundError("no such run")
    answer = accept(session, context, agent, old.input, metadata=old.meta, time_limit_s=time_limit_s, new_thread=False,
                    quota=quota, slots=slots, key=key)  # fmt: skip
    if isinstance(answer, Refused):
        return answer
    new = answer.run
    session.execute(_CARRY_OVER, {"user_id": new.user_id, "old": old.id, "new": new.id})
    new.retry_of = old.id
    audit.record(session, user_id=new.user_id, actor=f"user:{new.user_id}", action="run.retry", target=new.id,
                 correlation_id=new.correlation_id, detail={"retry_of": old.id})  # fmt: skip
    return answer
