"""What the agents of a run keep in Postgres: steps, memory, artifacts, use of models. Fenced by the run's attempt."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.database import Executor
from shared.errors import QuotaError, StateConflictError, SupersededError
from shared.models import Artifact, Run, RunStep
from shared.states import ExecutionState

MAX_STEPS = 1000  # this and the next are held by record_step.sql
MAX_STEPS_BYTES = 64 * 1024 * 1024
FULL = f"the steps of a run are at most {MAX_STEPS:,}, with results of {MAX_STEPS_BYTES} bytes together"
MAX_ARTIFACTS = 32
MAX_ARTIFACTS_BYTES = 16 * 1024 * 1024
_RECORD = text("SELECT record_step(:user_id, :run_id, :attempt, :name, CAST(:result AS json)) AS answer")
_STEP = text("SELECT result FROM run_steps WHERE user_id = :user_id AND run_id = :run_id AND name = :name")
_LOAD = text("""
    SELECT version, value FROM agent_state
    WHERE user_id = :user_id AND thread_id = :thread_id AND agent = :agent AND run_id = :scope
""")
_SAVE = text(
    "SELECT save_state(:user_id, :run_id, :attempt, :agent, :of_run, :expected, CAST(:value AS json), :token) "
    "AS version"
)
_ADD_USAGE = text("""
    UPDATE runs SET usage = jsonb_build_object(
        'model', CAST(:model AS text),
        'requests', coalesce((usage ->> 'requests')::bigint, 0) + 1,
        'input_tokens', coalesce((usage ->> 'input_tokens')::bigint, 0) + :input_tokens,
        'output_tokens', coalesce((usage ->> 'output_tokens')::bigint, 0) + :output_tokens)
    WHERE user_id = :user_id AND id = :run_id AND attempt = :attempt AND status = 'running'
    RETURNING id
""")


def step_names(session: Session, run: Run) -> list[str]:
    """Returns the names of the steps that earlier attempts of a run have recorded."""
    query = select(RunStep.name).where(RunStep.user_id == run.user_id, RunStep.run_id == run.id)
    return list(session.scalars(query))


def load_step(executor: Executor, run: Run, name: str) -> list[Any]:
    """Returns the recorded result of a step in a list, which is empty if there is none."""
    rows = executor.execute(_STEP, {"user_id": run.user_id, "run_id": run.id, "name": name})
    return [row.result for row in rows]


def record_step(executor: Executor, run: Run, name: str, result: Any) -> bool:
    """Records the result of a step.

    Returns:
        False if one of that name was there already; it stays.

    Raises:
        SupersededError: this is not the run's attempt any more; nothing was written.
        QuotaError: the run has 1,000 steps, or would have more than 64 MiB of results.
    """
    values = {"user_id": run.user_id, "run_id": run.id, "attempt": run.attempt, "name": name,
              "result": json.dumps(result, ensure_ascii=False)}  # fmt: skip
    (row,) = executor.execute(_RECORD, values)
    if row.answer == "superseded":
        raise SupersededError("this attempt of the run is over: the step is not recorded")
    if row.answer == "full":
        raise QuotaError(FULL)
    return bool(row.answer == "recorded")


def load_state(executor: Executor, run: Run, agent: str, scope: str) -> tuple[int, Any]:
    """Returns what an agent saved, with its version; 0 and None if there is nothing.

    Args:
        scope: `thread` or `run`.
    """
    values = {"user_id": run.user_id, "thread_id": run.thread_id, "agent": agent,
              "scope": run.id if scope == "run" else ""}  # fmt: skip
    for row in executor.execute(_LOAD, values):
        return row.version, row.value
    return 0, None


def save_state(executor: Executor, run: Run, agent: str, scope: str, *, expected: int, value: Any, token: str) -> int:  # noqa: PLR0913 - all that a save is made of
    """Saves what an agent remembers, if it is still at the version that was loaded; returns the new version.

    Args:
        token: of this save: repeated with it, because the answer was lost, it is answered like the first time.

    Raises:
        StateConflictError: it is not.
        SupersededError: this is not the run's attempt any more.
    """
    values = {"user_id": run.user_id, "run_id": run.id, "attempt": run.attempt, "agent": agent,
              "of_run": scope == "run", "expected": expected, "token": token,
              "value": json.dumps(value, ensure_ascii=False)}  # fmt: skip
    (row,) = executor.execute(_SAVE, values)
    if row.version is None:
        raise StateConflictError(f"the {scope} state of {agent!r} is not at version {expected} any more: load it again")
    if row.version < 0:
        raise SupersededError("this attempt of the run is over: the state is not saved")
    return int(row.version)


def save_artifact(session: Session, run: Run, name: str, content_type: str, content: bytes) -> None:
    """Saves a file for the user of the run; one of the same name is replaced.

    Raises:
        QuotaError: more than 32 files or 16 MiB in one run.
        SupersededError: this is not the run's attempt any more.
    """
    # Whoever ends the attempt has to wait, and two artifacts of the run cannot pass the limits together; a step that is
    # being recorded, for as long as its sandbox likes, passes.
    held = select(Run.id).where(
        Run.user_id == run.user_id, Run.id == run.id, Run.attempt == run.attempt, Run.status == ExecutionState.RUNNING
    )
    if session.execute(held.with_for_update(key_share=True)).first() is None:
        raise SupersededError("this attempt of the run is over: the artifact is not saved")
    others = select(func.count(), func.coalesce(func.sum(Artifact.size), 0)).where(
        Artifact.user_id == run.user_id, Artifact.run_id == run.id, Artifact.name != name
    )
    count, size = session.execute(others).one()
    if count >= MAX_ARTIFACTS:
        raise QuotaError(f"the run has {count} artifacts, which is the limit")
    if size + len(content) > MAX_ARTIFACTS_BYTES:
        raise QuotaError(
            f"the artifacts of the run would have {size + len(content)} bytes; the limit is {MAX_ARTIFACTS_BYTES}"
        )
    values = {"content_type": content_type, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(),
              "content": content}  # fmt: skip
    statement = insert(Artifact).values(user_id=run.user_id, run_id=run.id, name=name, **values)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["user_id", "run_id", "name"], set_=values | {"created_at": func.now()}
        )
    )


def add_usage(executor: Executor, run: Run, model: str, input_tokens: int, output_tokens: int) -> None:
    """Adds one request to a model to what the run has used.

    Raises:
        SupersededError: this is not the run's attempt any more.
    """
    values = {"user_id": run.user_id, "run_id": run.id, "attempt": run.attempt, "model": model,
              "input_tokens": input_tokens, "output_tokens": output_tokens}  # fmt: skip
    if not list(executor.execute(_ADD_USAGE, values)):
        raise SupersededError("this attempt of the run is over: its use of the model is not recorded")
