"""Agents whose every effect can be counted afterwards."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.orm import Session

from lanewise import Agent, AgentRun, UserExecutionContext

MAX_ATTEMPTS = 10  # so many losses of one run that only a flaw explains them
TIME_LIMIT_S = 600.0
# What docs/authoring.md tells authors to do for a table of their own.
TABLE = """
    CREATE SCHEMA chaos;
    GRANT USAGE ON SCHEMA chaos TO lanewise_run;
    CREATE TABLE chaos.effect (
        user_id text NOT NULL DEFAULT lanewise.run_user(), id bigint GENERATED ALWAYS AS IDENTITY,
        run_id text NOT NULL, step text NOT NULL, note text NOT NULL, PRIMARY KEY (user_id, id));
    ALTER TABLE chaos.effect ENABLE ROW LEVEL SECURITY;
    ALTER TABLE chaos.effect FORCE ROW LEVEL SECURITY;
    CREATE POLICY run ON chaos.effect USING (user_id = (SELECT lanewise.run_user()));
    GRANT SELECT, INSERT ON chaos.effect TO lanewise_run;
"""
BOOK = sa.text("INSERT INTO chaos.effect (run_id, step, note) VALUES (:run_id, :step, :note)")


class Task(BaseModel):
    canary: str
    steps: int = 0  # with an effect in the database
    pause_s: float = 0.0  # after each


class Chaotic(Agent):
    """What these agents have in common."""

    Input: ClassVar[type[BaseModel]] = Task
    max_attempts: ClassVar[int] = MAX_ATTEMPTS
    time_limit_s: ClassVar[float] = TIME_LIMIT_S


def work(context: UserExecutionContext, run: AgentRun) -> None:
    """Does the steps of a task, and tells each one."""
    task = run.input
    for number in range(task.steps):
        name = f"book {number}"

        def book(session: Session, name: str = name) -> str:
            session.execute(BOOK, {"run_id": context.run_id, "step": name, "note": task.canary})
            return str(task.canary)

        assert run.state.db_step(name, book) == task.canary
        run.emit.progress((number + 1) / task.steps, task.canary)
        time.sleep(task.pause_s)


class Work(Chaotic):
    """Does steps in the database."""

    name: ClassVar[str] = "work"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        work(context, run)
        return {"canary": run.input.canary}


class Nap(Chaotic):
    """Waits without blocking, and can be cancelled at once."""

    name: ClassVar[str] = "nap"

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        run.emit.thinking(run.input.canary)
        await asyncio.sleep(run.input.pause_s)
        run.emit.token(run.input.canary)
        return {"canary": run.input.canary}


class Block(Chaotic):
    """Blocks, and never asks whether it was cancelled."""

    name: ClassVar[str] = "block"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        run.emit.thinking(run.input.canary)
        time.sleep(run.input.pause_s)
        return {"canary": run.input.canary}


class Doomed(Exception):  # noqa: N818 - its name is what a user reads
    pass


class Fail(Chaotic):
    """Works, and fails by itself."""

    name: ClassVar[str] = "fail"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        work(context, run)
        raise Doomed(run.input.canary)


class Speech(BaseModel):
    canary: str
    events: int
    burst: int = 10
    pause_s: float = 0.0  # after each burst


class Talk(Chaotic):
    """Says a lot."""

    name: ClassVar[str] = "talk"
    Input: ClassVar[type[BaseModel]] = Speech

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        for number in range(run.input.events):
            run.emit.thinking(f"{run.input.canary} {number}")
            if number % run.input.burst == 0:
                time.sleep(run.input.pause_s)
        return {"canary": run.input.canary}
