"""What it costs to make everything fresh for a run: context, engine, agent, tool system."""

from __future__ import annotations

import socket
import timeit
from collections.abc import Callable
from typing import Any

from benchmarks.agents import Noop, Nothing
from benchmarks.fleet import Lab
from benchmarks.report import Figure
from shared.context import UserExecutionContext
from worker.bridge import WebSocketBridge
from worker.engine import ExecutionEngineFactory, Infrastructure
from worker.factory import AgentInstanceFactory
from worker.link import RunnerLink
from worker.managers import SandboxDatabase, SandboxRecords, SandboxStore
from worker.registry import AgentClassRegistry
from worker.toolsystem import UserContextToolFactory

REPEATS = 9
TARGET = "<= 200"


def measure(lab: Lab) -> list[Figure]:
    """Measures in this process, with the parts that a sandbox has."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        return _measure(RunnerLink(ours), number=500 if lab.quick else 2000)


def _measure(link: RunnerLink, number: int) -> list[Figure]:
    root = UserExecutionContext.from_request("alice", "thread-1", "run-1")
    wire = root.to_dict()
    registry = AgentClassRegistry()
    registry.register(Noop)
    registry.freeze()
    parts = Infrastructure(
        registry, SandboxDatabase(None, ""), SandboxStore(link), SandboxRecords(link), WebSocketBridge(link, root)
    )
    engines = ExecutionEngineFactory(parts)
    factory = AgentInstanceFactory(registry)
    tool_systems = UserContextToolFactory(parts.database, parts.store)

    def make_tools(context: UserExecutionContext) -> Any:
        return tool_systems.create_user_tool_system(context, (Nothing,), lambda _: parts.bridge, "bench_noop")

    def everything() -> None:
        context = UserExecutionContext.from_dict(wire)
        engine = engines.create_engine(context)
        with engine.factory.user_execution_scope(context):
            tools = make_tools(context)
            engine.factory.add_cleanup(context, tools.close)
            engine.factory.create_agent_instance("bench_noop", context.create_child_context("agent:bench_noop"))

    def sample(name: str, action: Callable[[], Any], target: str = "") -> Figure:
        seconds = timeit.repeat(action, number=number, repeat=REPEATS)
        return Figure(name, [value / number * 1e6 for value in seconds], "µs", target)

    return [
        sample("context, from the start frame", lambda: UserExecutionContext.from_dict(wire)),
        sample("child context", lambda: root.create_child_context("agent:bench_noop")),
        sample("agent instance", lambda: factory.create_agent_instance("bench_noop", root)),
        sample("tool system with one tool", lambda: make_tools(root)),
        sample("all of it, in a scope, cleaned up", everything, TARGET),
    ]
