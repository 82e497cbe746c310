"""The agents that the benchmarks run: as little as possible, so that what is measured is Lanewise."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from sqlalchemy import text

from shared.context import UserExecutionContext as Context
from shared.event_types import EventType
from worker.authoring import Agent, AgentRun, Tool
from worker.workflow import Sequence, Step, Workflow


class Nothing(Tool):
    """Does nothing."""

    name = "nothing"

    def run(self, context: Context, parameters: Any) -> None:
        """Returns None."""
        del context, parameters


class Noop(Agent):
    """Returns at once: five events, a small result."""

    name = "bench_noop"
    tools = (Nothing,)

    async def execute(self, context: Context, run: AgentRun) -> dict[str, Any]:
        """Returns a small result."""
        del context, run
        return {"ok": True}


class Query(Agent):
    """Opens a session and asks for what row level security lets it see."""

    name = "bench_query"

    def execute(self, context: Context, run: AgentRun) -> int:
        """Returns how many documents the user has."""
        del context
        with run.db() as session:
            return int(session.scalars(text("SELECT count(*) FROM documents")).one())


class TenSteps(Agent):
    """Has the no-op agent run ten times, one after the other, each time as a step of a workflow."""

    name = "bench_workflow"
    workflows = (Workflow("ten", Sequence(*(Step(f"step-{n}", "bench_noop", lambda _: {}) for n in range(10)))),)

    async def execute(self, context: Context, run: AgentRun) -> int:
        """Returns how many steps there were."""
        results = await run.workflows.orchestrate_workflow("ten", context, run)
        return len(results.outputs)


class Wait(Agent):
    """Says its pid, and waits: what most agents do most of the time."""

    name = "bench_wait"

    async def execute(self, context: Context, run: AgentRun) -> None:
        """Waits until it is ended from outside."""
        del context
        run.emit.thinking(str(os.getpid()))
        await asyncio.sleep(590)  # its time limit is 600


class NapInput(BaseModel):
    """How long, in seconds."""

    seconds: float


class Nap(Agent):
    """Waits for a given time, as for the answer of some service."""

    name = "bench_nap"
    Input = NapInput

    async def execute(self, context: Context, run: AgentRun) -> None:
        """Sleeps."""
        del context
        await asyncio.sleep(run.input.seconds)


class TurnInput(BaseModel):
    """The file that is waited for."""

    turn: Path


class Turn(Agent):
    """Waits for a file and takes it away, so that whoever makes the file ends one run."""

    name = "bench_turn"
    Input = TurnInput

    def execute(self, context: Context, run: AgentRun) -> None:
        """Looks for the file every 5 ms."""
        del context
        while not run.input.turn.exists():
            time.sleep(0.005)
        run.input.turn.unlink()


class ChattyInput(BaseModel):
    """How many events of which kind, and how many a second; 0: as fast as they are taken."""

    events: int
    kind: EventType
    per_s: float


class Chatty(Agent):
    """Streams texts; each says when it was emitted, on the clock that all processes of the machine share."""

    name = "bench_chatty"
    Input = ChattyInput

    async def execute(self, context: Context, run: AgentRun) -> None:
        """Emits the events that were asked for."""
        del context
        began = time.perf_counter()
        for number in range(run.input.events):
            if run.input.per_s:
                await asyncio.sleep(began + number / run.input.per_s - time.perf_counter())
            run.emit.emit(run.input.kind, {"text": f"{time.perf_counter():.6f} "})
