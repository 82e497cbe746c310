"""Accepting a submission: everything that a run begins with, stored at once, or the reason why not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import text

from shared import audit
from shared.audit import Deed
from shared.context import UserExecutionContext
from shared.database import Executor
from shared.event_types import EventType
from shared.events import Event, StoredEvent
from shared.models import Agent, Run
from shared.states import ExecutionState

_ACCEPT = text("""
    SELECT a.*, record_audit(CASE WHEN a.refused IS NULL THEN CAST(:record AS jsonb) END)
    FROM accept_run(CAST(:run AS jsonb), :new_thread, :key, :fingerprint, :quota) a
""")


@dataclass(frozen=True)
class Accepted:
    """The run is stored, parked.

    Args:
        run: as stored.
        stored: its first event, to be published after the commit.
        parked: how many runs of the user were parked before it.
        slots: how many runs the user may have in progress.
        run_s: how long the user's recent runs took, seconds; None if there were none.
    """

    run: Run
    stored: list[StoredEvent]
    parked: int
    slots: int
    run_s: float | None


@dataclass(frozen=True)
class Refused:
    """Nothing was written.

    Args:
        reason: `earlier`: the key made a run before, `run_id`; `other_body`: with another body; `in_flight`: a request
            with the key is being handled; `quota`: `queued` runs, and the limit is `quota`; `no_thread`: the user has
            no such thread.
    """

    reason: Literal["earlier", "other_body", "in_flight", "quota", "no_thread"]
    run_id: str | None
    queued: int | None
    quota: int | None


@dataclass(frozen=True)
class IdempotencyKey:
    """A key with the fingerprint of the body that came with it."""

    value: str
    fingerprint: str


def accept(  # noqa: PLR0913 - what a run is made of
    executor: Executor,
    context: UserExecutionContext,
    agent: Agent,
    run_input: Any,
    *,
    metadata: dict[str, Any],
    time_limit_s: float,
    new_thread: bool,
    quota: int,
    slots: int,
    key: IdempotencyKey | None = None,
) -> Accepted | Refused:
    """Stores a run, parked, with its key, thread, first event and audit record, in one round trip.

    Args:
        executor: of the context's user.
        run_input: already checked against the agent's schema.
        new_thread: whether the context's thread is to be made with it.
        quota: how many queued runs a user may have who has no limit of their own.
        slots: how many in progress, likewise.
        key: the same key again is the same run.
    """
    values = {
        "user_id": context.user_id, "id": context.run_id, "thread_id": context.thread_id, "agent": agent.name,
        "queue": agent.queue, "input": run_input, "metadata": metadata, "context": context.to_dict(),
        "correlation_id": context.correlation_id, "max_attempts": agent.max_attempts, "time_limit_s": time_limit_s,
        "slots": slots,
    }  # fmt: skip
    user_id, correlation_id = context.user_id, context.correlation_id
    deed = Deed(user_id, f"user:{user_id}", "run.submit", context.run_id, correlation_id=correlation_id)
    parameters = {
        "run": json.dumps(values), "new_thread": new_thread, "quota": quota, "record": audit.to_json(executor, deed),
        "key": None if key is None else key.value, "fingerprint": None if key is None else key.fingerprint,
    }  # fmt: skip
    (row,) = executor.execute(_ACCEPT, parameters)
    if row.refused is not None:
        return Refused(row.refused, row.earlier, row.queued, row.quota)
    values["meta"] = values.pop("metadata")
    del values["slots"]
    run = Run(
        **values, status=ExecutionState.QUEUED, attempt=0, lost_attempts=0, ran_s=0.0, progress=0.0, progress_note="",
        last_run_seq=row.run_seq, usage={}, sends=0, emitted=0, lost=[], created_at=row.created_at,
    )  # fmt: skip
    event = Event(run.user_id, run.id, 0, EventType.RUN_QUEUED, run.agent)
    stored = StoredEvent(event, row.seq, row.run_seq, run.thread_id, run.correlation_id, row.at)
    return Accepted(run, [stored], row.parked, row.slots, row.run_s)
