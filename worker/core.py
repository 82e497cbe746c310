"""`AgentExecutionCore`: the error boundary round one execution of one agent."""

from __future__ import annotations

import asyncio
import inspect
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from shared.context import UserExecutionContext, validate_user_context
from shared.event_types import EventType
from shared.jsonvalue import check_json, clean_json
from shared.states import ExecutionState
from worker.agentthreads import AgentThreads
from worker.authoring import Agent, AgentExecutionContext, Retry
from worker.described import describe_error
from worker.emitter import UserWebSocketEmitter
from worker.factory import AgentInstanceFactory
from worker.interfaces import EventBridge
from worker.tracker import AgentExecutionTracker

MAX_OUTPUT_BYTES = 1024 * 1024
MAX_CAUSES = 5


@dataclass(frozen=True)
class AgentExecutionResult:
    """How one execution of one agent ended.

    Args:
        state: completed, failed or cancelled.
        output: JSON, if completed.
        error: `{"type", "message"}` for the user, if failed.
        trace: where it came from, for the operator's log only.
        retry: what the agent raised, if it failed by asking for another attempt of the run.
        duration_s: seconds it took.
    """

    agent_name: str
    state: ExecutionState
    output: Any = None
    error: Mapping[str, str] | None = None
    trace: str | None = None
    retry: Retry | None = None
    duration_s: float = 0.0


class AgentExecutionCore:
    """Runs agents so that whatever they do comes back as a value.

    Args:
        factory: makes the instances.
        tracker: is told of every transition.
    """

    def __init__(self, factory: AgentInstanceFactory, tracker: AgentExecutionTracker) -> None:
        self._factory = factory
        self._tracker = tracker
        self._threads = AgentThreads()

    async def execute_agent_safely(
        self,
        agent_name: str,
        user_context: UserExecutionContext,
        execution_context: AgentExecutionContext,
        bridge: EventBridge,
    ) -> AgentExecutionResult:
        """Runs one agent in a child context, with its events, and returns how it ended.

        Args:
            agent_name: a registered agent.
            user_context: the caller's; the agent gets a child of it.
            execution_context: what the agent sees as `run`; its `raw_input` is validated here.
            bridge: the way out for `agent_started`, `agent_completed` and `agent_failed`.

        Raises:
            InvalidContextError: the context is not sound: that is the caller's mistake, not the agent's.
        """
        context = validate_user_context(user_context).create_child_context(f"agent:{agent_name}")
        emit = UserWebSocketEmitter(context, bridge, agent_name)
        self._tracker.start(context.request_id, context.run_id, context.correlation_id, agent=agent_name)
        started = time.perf_counter()
        try:
            agent = self._factory.create_agent_instance(agent_name, context)
            self._tracker.transition(context.request_id, ExecutionState.RUNNING)
            emit.emit(EventType.AGENT_STARTED, {})
            execution_context.input = agent.Input.model_validate(execution_context.raw_input)
            output = check_json(
                clean_json(await self._execute(agent, context, execution_context)), "output", MAX_OUTPUT_BYTES
            )
            result = AgentExecutionResult(agent_name, ExecutionState.COMPLETED, output)
        except asyncio.CancelledError:
            result = AgentExecutionResult(agent_name, ExecutionState.CANCELLED)
        except Exception as error:  # noqa: BLE001 - the boundary round foreign code: every failure becomes a value
            result = AgentExecutionResult(
                agent_name,
                ExecutionState.FAILED,
                error=describe_error(error),
                trace=describe_trace(error),
                retry=error if isinstance(error, Retry) else None,
            )
        return self._report(result, context, emit, time.perf_counter() - started)

    async def _execute(self, agent: Agent, context: UserExecutionContext, run: AgentExecutionContext) -> Any:
        if inspect.iscoroutinefunction(agent.execute):
            return await agent.execute(context, run)
        return await self._threads.execute(agent, context, run)

    def _report(
        self, result: AgentExecutionResult, context: UserExecutionContext, emit: UserWebSocketEmitter, duration_s: float
    ) -> AgentExecutionResult:
        if result.state is ExecutionState.COMPLETED:
            emit.emit(EventType.AGENT_COMPLETED, {"duration_s": round(duration_s, 4)})
        else:
            error = result.error or {"type": "cancelled", "message": "the agent was cancelled"}
            emit.emit(EventType.AGENT_FAILED, {"error": dict(error), "duration_s": round(duration_s, 4)})
        self._tracker.transition(context.request_id, result.state, duration_s=duration_s)
        return replace(result, duration_s=duration_s)


def describe_trace(error: BaseException) -> str:
    """Returns where an exception came from, its causes last; without messages, which may quote the user's data."""
    parts: list[str] = []
    found: BaseException | None = error
    while found is not None and len(parts) < MAX_CAUSES:
        frames = traceback.extract_tb(found.__traceback__)
        places = [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        parts.append("\n".join([type(found).__name__, *places]))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return "\n".join(parts)
