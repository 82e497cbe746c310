"""Agents that do not stop when they are asked to, each in a way of its own; `Wait` is the one that does.

Each says the pids of the processes that it consists of.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import sqlalchemy as sa

from shared.context import UserExecutionContext as Context
from worker.authoring import Agent, AgentRun

IGNORES_TERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
JUST_SLEEPS = "import time; print(flush=True); time.sleep(600)"


class Sleeper(Agent):
    """Blocks its loop."""

    name = "bench_sleeper"

    async def execute(self, context: Context, run: AgentRun) -> None:
        """Calls `time.sleep`."""
        del context
        run.emit.thinking(str(os.getpid()))
        time.sleep(600)  # noqa: ASYNC251 - what it is here for


class Cruncher(Agent):
    """Never comes back from one call, in which Python looks at no signal."""

    name = "bench_cruncher"

    async def execute(self, context: Context, run: AgentRun) -> None:
        """Sums up for some hours."""
        del context
        run.emit.thinking(str(os.getpid()))
        sum(range(10**13))


class Querier(Agent):
    """Waits for its database session."""

    name = "bench_querier"

    def execute(self, context: Context, run: AgentRun) -> None:
        """Has Postgres sleep."""
        del context
        with run.db() as session:
            session.execute(sa.text("SELECT 1"))
            run.emit.thinking(str(os.getpid()))
            session.execute(sa.text("SELECT pg_sleep(600)"))


class Parent(Agent):
    """Has a grandchild that ignores SIGTERM; stops itself when it is asked to."""

    name = "bench_parent"
    program = IGNORES_TERM
    new_session = False

    async def execute(self, context: Context, run: AgentRun) -> None:
        """Starts the process, waits until it runs, and waits."""
        del context
        command = [sys.executable, "-c", self.program]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=self.new_session)  # noqa: ASYNC220
        assert child.stdout is not None
        child.stdout.readline()
        run.emit.thinking(f"{os.getpid()} {child.pid}")
        await asyncio.sleep(600)


class Runaway(Parent):
    """Has a grandchild in a session of its own, which the group's signals do not reach."""

    name = "bench_runaway"
    program = JUST_SLEEPS
    new_session = True
