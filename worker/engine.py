"""`ExecutionEngineFactory` and `UserExecutionEngine`: a run's factory, core, tools and managers, put together once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.context import UserExecutionContext
from shared.errors import ConfigurationError
from worker.artifacts import Artifacts
from worker.authoring import AgentExecutionContext
from worker.core import AgentExecutionCore, AgentExecutionResult
from worker.emitter import UserWebSocketEmitter
from worker.factory import AgentInstanceFactory
from worker.interfaces import DatabaseSessionManager, EventBridge, RedisManager, RunRecords
from worker.orchestrator import WorkflowOrchestrator
from worker.registry import AgentClassRegistry
from worker.state import Records, StateManager
from worker.toolsystem import UserContextToolFactory
from worker.tracker import AgentExecutionTracker

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Infrastructure:
    """What is injected into every engine of a process; checked once, when the process is configured.

    Args:
        registry: the agent classes.
        database: opens request-scoped sessions.
        store: the run's small values.
        records: keeps what the run and its thread remember.
        bridge: the way out for events.

    Raises:
        ConfigurationError: naming the part that is missing or has not the interface.
    """

    registry: AgentClassRegistry
    database: DatabaseSessionManager
    store: RedisManager
    records: RunRecords
    bridge: EventBridge

    def __post_init__(self) -> None:
        interfaces = {
            "registry": AgentClassRegistry, "database": DatabaseSessionManager, "store": RedisManager,
            "records": RunRecords, "bridge": EventBridge,
        }  # fmt: skip
        for name, interface in interfaces.items():
            part = getattr(self, name)
            if not isinstance(part, interface):
                raise ConfigurationError(f"an engine needs a {name}: {interface.__name__}, not {type(part).__name__}")


class UserExecutionEngine:
    """Executes agents for one user's run. Made by `ExecutionEngineFactory`, used once.

    Args:
        context: the run's root context.
        parts: the injected infrastructure.
        granted: tools that the user was granted.
        recorded: names of the steps that earlier attempts of the run recorded.
        is_cancelled: whether the user asked to cancel.
        is_last: whether no other attempt would follow this one.
    """

    def __init__(  # noqa: PLR0913 - what a run's sandbox is told
        self,
        context: UserExecutionContext,
        parts: Infrastructure,
        granted: Iterable[str],
        recorded: Iterable[str],
        is_cancelled: Callable[[], bool],
        *,
        is_last: bool,
    ) -> None:
        self.context = context
        self.tracker = AgentExecutionTracker()
        self.factory = AgentInstanceFactory(parts.registry)
        self._parts = parts
        self._tools = UserContextToolFactory(
            parts.database, parts.store, granted, is_cancelled, parts.registry.mcp_servers
        )
        self._core = AgentExecutionCore(self.factory, self.tracker)
        self._is_cancelled = is_cancelled
        self._is_last = is_last
        self._records = Records(parts.records, recorded, is_cancelled, self._open_session)

    async def execute(self, agent_name: str, raw_input: Any) -> AgentExecutionResult:
        """Runs an agent on an input inside a scope of its own, which is clean again when this returns.

        Raises:
            UnknownAgentError: no such agent.
        """
        parts = self._parts
        with self.factory.user_execution_scope(self.context) as context:
            self.factory.add_cleanup(context, parts.database.close)
            self.factory.add_cleanup(context, self._tools.close)
            state = StateManager(self._records, agent_name)
            return await self._run_agent(agent_name, context, raw_input, state, parts.bridge)

    def cancel(self) -> None:
        """Interrupts the tools that plain agents wait for; async agents are cancelled with the task that runs them."""
        self._tools.cancel()

    async def _run_agent(
        self, agent_name: str, context: UserExecutionContext, raw_input: Any, state: StateManager, bridge: EventBridge
    ) -> AgentExecutionResult:
        """Runs the run's agent, or that of a step of its workflow, with tools and an emitter of its own."""
        parts, agent_class = self._parts, self._parts.registry.get(agent_name)
        tools = self._tools.create_user_tool_system(context, agent_class.tools, lambda _: bridge, agent_name)
        emit = UserWebSocketEmitter(context, bridge, agent_name)
        run = AgentExecutionContext(
            raw_input=raw_input,
            emit=emit,
            tools=tools,
            store=parts.store,
            state=state,
            artifacts=Artifacts(self._records.save_artifact, emit),
            workflows=WorkflowOrchestrator(
                agent_class.workflows, self._run_agent, state, bridge, is_last=self._is_last
            ),
            add_usage=self._records.add_usage,
            open_session=self._open_session,
            is_cancelled=self._is_cancelled,
        )
        try:
            return await self._core.execute_agent_safely(agent_name, context, run, bridge)
        finally:
            tools.close()

    def _open_session(self) -> AbstractContextManager[Session]:
        return self._parts.database.session(self.context)


class ExecutionEngineFactory:
    """Makes engines from one infrastructure."""

    def __init__(self, parts: Infrastructure) -> None:
        self._parts = parts

    def create_engine(
        self,
        context: UserExecutionContext,
        granted: Iterable[str] = (),
        recorded: Iterable[str] = (),
        is_cancelled: Callable[[], bool] = lambda: False,
        *,
        is_last: bool = False,
    ) -> UserExecutionEngine:
        """Returns a new engine for one run; the arguments are those of `UserExecutionEngine`."""
        return UserExecutionEngine(context, self._parts, granted, recorded, is_cancelled, is_last=is_last)
