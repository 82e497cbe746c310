"""What a tool call costs beside the tool: checks, child context, two events, the limits. Without a database."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from benchmarks.fleet import Lab
from benchmarks.report import Figure
from shared.context import UserExecutionContext
from worker.authoring import Tool
from worker.bridge import WebSocketBridge
from worker.link import RunnerLink
from worker.managers import SandboxDatabase, SandboxStore
from worker.toolsystem import UserContextToolFactory, UserToolSystem

REPEATS = 9
TARGET = "<= 100"
AT_ONCE = 16
READER = "import os\nwhile os.read(0, 65536): pass"


class _Parameters(BaseModel):
    text: str
    times: int = 1


class _Here(Tool):
    """Does nothing, in the loop."""

    name = "here"
    Parameters = _Parameters

    async def run(self, context: UserExecutionContext, parameters: _Parameters) -> dict[str, Any]:
        """Returns a small result."""
        del context, parameters
        return {"ok": True}


class _Beside(Tool):
    """Does nothing, in a thread."""

    name = "beside"
    Parameters = _Parameters

    def run(self, context: UserExecutionContext, parameters: _Parameters) -> dict[str, Any]:
        """Returns a small result."""
        del context, parameters
        return {"ok": True}


def measure(lab: Lab) -> list[Figure]:
    """Measures in this process, with the parts that a sandbox has; another one reads what it says, as a runner does."""
    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen([sys.executable, "-c", READER], stdin=theirs.fileno()) as reader:
        figures = _measure(RunnerLink(ours), count=300 if lab.quick else 2000)
        ours.shutdown(socket.SHUT_RDWR)
        reader.wait(10)
    return figures


def _measure(link: RunnerLink, count: int) -> list[Figure]:
    root = UserExecutionContext.from_request("alice", "thread-1", "run-1")
    bridge = WebSocketBridge(link, root)
    factory = UserContextToolFactory(SandboxDatabase(None, ""), SandboxStore(link))
    tools = factory.create_user_tool_system(root, (_Here, _Beside), lambda _: bridge, "bench")

    def sample(name: str, action: Callable[[], float], target: str = "") -> Figure:
        action()  # warm
        return Figure(name, [action() * 1e6 for _ in range(REPEATS)], "µs", target)

    def awaited(tool: str, at_once: int = 1) -> Callable[[], float]:
        return lambda: asyncio.run(_dispatch(tools, root, tool, count, at_once))

    return [
        sample("async tool, awaited", awaited("here"), TARGET),
        sample("plain tool, awaited, in a thread", awaited("beside")),
        sample(f"plain tools, {AT_ONCE} at once, for each", awaited("beside", AT_ONCE)),
        sample("async tool, by the blocking twin (a loop each)", lambda: _call(tools, "here", count)),
        sample("plain tool, by the blocking twin (a loop each)", lambda: _call(tools, "beside", count)),
    ]


async def _dispatch(tools: UserToolSystem, context: UserExecutionContext, tool: str, count: int, at_once: int) -> float:
    """Returns seconds for each call."""
    began = time.perf_counter()
    for _ in range(count // at_once):
        if at_once == 1:
            await tools.dispatch_tool(tool, {"text": "a"}, context)
        else:
            await asyncio.gather(*(tools.dispatch_tool(tool, {"text": "a"}, context) for _ in range(at_once)))
    return (time.perf_counter() - began) / (count // at_once * at_once)


def _call(tools: UserToolSystem, tool: str, count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        tools.call(tool, text="a")
    return (time.perf_counter() - began) / count
