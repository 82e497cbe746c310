"""The sandbox: one process, forked from the zygote, that runs one agent for one run and exits."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from shared.context import UserExecutionContext
from shared.states import ExecutionState
from worker.bridge import WebSocketBridge
from worker.core import AgentExecutionResult, describe_trace
from worker.described import describe_error
from worker.engine import ExecutionEngineFactory, Infrastructure, UserExecutionEngine
from worker.link import RunnerLink, exit_at_once
from worker.managers import SandboxDatabase, SandboxRecords, SandboxStore
from worker.registry import AgentClassRegistry
from worker.walls import Walls


def detach() -> None:
    """Makes this freshly forked process a session and process group of its own."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def run(sock: socket.socket, registry: AgentClassRegistry, walls: Walls) -> None:
    """Runs the one run that the first frame describes, and sends its result.

    Args:
        sock: to the runner.
        registry: the agents, as the zygote imported them.
        walls: raised before the agent is.
    """
    link = RunnerLink(sock)
    start = link.receive_start()
    ports = None if registry.needs_network(start["agent"], start["granted"]) else start["database_ports"]
    is_local = start["database_url"] is not None and not start["database_ports"]
    walls.close(time_left_s=start["time_left_s"], tcp_ports=ports, local=is_local)
    # What agents print goes nowhere: the fleet's log must not hold users' data. They have `run.emit`.
    os.dup2(1, 2)
    asyncio.run(_execute(link, start, registry))


async def _execute(link: RunnerLink, start: dict[str, Any], registry: AgentClassRegistry) -> None:
    await serve(link, start, registry, exit_at_once)
    # Not by way of the loop's and the interpreter's end: a thread that the agent left behind could hold that up.
    os._exit(0)


async def serve(
    link: RunnerLink, start: dict[str, Any], registry: AgentClassRegistry, on_gone: Callable[[], None]
) -> None:
    """Runs what the start frame asks for, and listens meanwhile to what the runner says.

    Args:
        on_gone: called, in the thread that listens, when the runner has closed the connection.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    plain = not inspect.iscoroutinefunction(registry.get(start["agent"]).execute)

    def cancel() -> None:
        # A plain agent looks at `run.cancelled`; if it does not look, the runner's grace ends and it is killed.
        if task is not None and not plain:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the agent was faster
                loop.call_soon_threadsafe(task.cancel)

    engine = prepare(link, start, registry)
    link.listen(cancel, on_gone)
    await perform(link, start, engine)


def prepare(link: RunnerLink, start: dict[str, Any], registry: AgentClassRegistry) -> UserExecutionEngine:
    """Returns the engine for the run that the start frame describes; before `link.listen`, so it hears each cancel."""
    context = UserExecutionContext.from_dict(start["context"])
    infrastructure = Infrastructure(
        registry,
        SandboxDatabase(start["database_url"], start["database_token"]),
        SandboxStore(link),
        SandboxRecords(link),
        WebSocketBridge(link, context),
    )
    engine = ExecutionEngineFactory(infrastructure).create_engine(
        context,
        start.get("granted", ()),
        start.get("steps", ()),
        link.cancelled.is_set,
        is_last=start.get("is_last", False),
    )
    link.interrupts.append(engine.cancel)
    return engine


async def perform(link: RunnerLink, start: dict[str, Any], engine: UserExecutionEngine) -> None:
    """Runs what the start frame asks for and sends how it ended."""
    try:
        ending = _ending(await engine.execute(start["agent"], start["input"]), cancelled=link.cancelled.is_set())
    except asyncio.CancelledError:
        ending = {"t": "cancelled"}
    except Exception as error:  # noqa: BLE001 - ours, not the agent's; the runner logs the trace
        ending = {"t": "error", **describe_error(error), "trace": describe_trace(error)}
    link.send(ending)


def _ending(result: AgentExecutionResult, *, cancelled: bool) -> dict[str, Any]:
    if cancelled or result.state is ExecutionState.CANCELLED:
        return {"t": "cancelled"}
    if result.retry is not None:
        message = describe_error(result.retry)["message"]
        return {"t": "retry", "message": message, "after_s": result.retry.after_s, "trace": result.trace}
    if result.error is not None:
        return {"t": "error", **result.error, "trace": result.trace}
    return {"t": "result", "output": result.output}
