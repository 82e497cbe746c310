"""Agents for tests that call the tools they are told to."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel

from shared import linux
from shared.context import UserExecutionContext
from worker.authoring import Agent, AgentRun, Tool, ToolError
from worker.tools.fetch import FetchParameters, FetchTool

before_the_fork: set[str] = set()
os.register_at_fork(after_in_child=lambda: before_the_fork.update(sys.modules))


def library() -> str:
    """Tells when what a sandbox needs for an MCP server was imported."""
    names = {"mcp", "mcp.client.streamable_http", "httpx2", "jsonschema", "referencing"}
    if names <= before_the_fork:
        return "before the fork"
    return "after the fork" if names & sys.modules.keys() else "no"


class Calls(BaseModel):
    calls: list[tuple[str, dict[str, Any]]] = []
    at_once: bool = False
    schemas: bool = False
    hold: bool = False


class Own(Tool):
    """A tool of the agent's own, with a name as of a server's."""

    name = "honest__fail"

    async def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        return "the agent's own"


class Endless(Tool):
    """Waits for ever."""

    name = "endless"

    async def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        self.scope.emit.token("begun")
        await asyncio.sleep(600)


class Pay(Tool):
    """Needs a grant."""

    name = "pay"
    permission = "granted"

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        return "paid"


class Surfer(Agent):
    """Fetches a page."""

    name = "surfer"
    Input = FetchParameters
    tools = (FetchTool,)

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        result = await run.tools.dispatch_tool("fetch", run.input.model_dump(), context)
        return result.value if result.success else result.error


class Caller(Agent):
    """Calls tools and returns what came of each."""

    name = "caller"
    Input = Calls
    tools = (Own, Endless, Pay)

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        schemas = run.tools.registry.schemas() if run.input.schemas else []
        calls = [run.tools.dispatch_tool(name, parameters, context) for name, parameters in run.input.calls]
        results = await asyncio.gather(*calls) if run.input.at_once else [await call for call in calls]
        if run.input.hold:
            run.emit.token("begun")
            await asyncio.sleep(600)
        return {
            "results": [result.value if result.success else result.error for result in results],
            "schemas": schemas, "pid": os.getpid(), "mcp": library(),
        }  # fmt: skip


class PlainCaller(Agent):
    """Calls tools from threads of its own."""

    name = "plain_caller"
    Input = Calls
    tools = (Own, Endless, Pay)

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        def call(item: tuple[str, dict[str, Any]]) -> Any:
            try:
                return run.tools.call(item[0], **item[1])
            except ToolError as error:
                return {"type": error.code, "message": error.message}

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(call, run.input.calls)) if run.input.at_once else list(map(call, run.input.calls))
        run.emit.token(f"threads {sorted(thread.name for thread in threading.enumerate())}")
        return {"results": results, "cancelled": run.cancelled, "mcp": library()}


class Stranger(Agent):
    """Is given no server."""

    name = "stranger"
    Input = Calls

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        results = [await run.tools.dispatch_tool(name, given, context) for name, given in run.input.calls]
        return {
            "results": [result.error for result in results],
            "below": list(linux.children()),
        }
