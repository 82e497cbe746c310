"""The rehearsal: what every sandbox does first is done in the zygote already, with an agent of our own.

The interpreter adapts bytecode and fills caches when code runs the first few times. What is adapted before the fork is
shared by all sandboxes; what is not, each of them has to write again, and so to copy: a sixth of its processor time.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from shared.context import UserExecutionContext
from shared.frames import encode_frame
from worker.authoring import Agent, AgentRun, Tool
from worker.link import RunnerLink
from worker.registry import AgentClassRegistry
from worker.sandbox import perform, prepare

TIMES = 10  # CPython 3.11 adapts a function at its eighth call


class _RehearsedTool(Tool):
    """Does nothing."""

    name = "rehearsed"

    async def run(self, context: UserExecutionContext, parameters: Any) -> None:
        """Returns None."""


class _Rehearsed(Agent):
    """Does a little of what agents do."""

    name = "rehearsed"
    tools = (_RehearsedTool,)

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> dict[str, bool]:
        """Returns a small result."""
        run.emit.thinking("rehearsing")
        run.emit.progress(0.5, "half way")
        await run.tools.dispatch_tool("rehearsed", {}, context)
        await asyncio.sleep(0)
        return {"ok": True}


def rehearse() -> None:
    """Runs the agent as sandboxes run theirs, in this process; no thread, socket or task is left of it."""
    registry = AgentClassRegistry()
    registry.register(_Rehearsed)
    registry.freeze()
    context = UserExecutionContext.from_request("rehearsal", "rehearsal", "rehearsal").to_dict()
    start = {"t": "start", "context": context, "agent": "rehearsed", "input": {}, "database_url": None,
             "database_token": ""}  # fmt: skip
    for _ in range(TIMES):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(encode_frame(start))
            link = RunnerLink(ours)
            started = link.receive_start()
            asyncio.run(perform(link, started, prepare(link, started, registry)))
