"""`ExecutionEngineFactory` and `UserExecutionEngine`: a run's factory, core, tools and managers, put together once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from shared.context import UserExecutionContext
from shared.errors import ConfigurationError
from worker.authoring import AgentExecutionContext
from worker.core import AgentExecutionCore, AgentExecutionResult
from worker.emitter import UserWebSocketEmitter
from worker.factory import AgentInstanceFactory
from worker.interfaces import DatabaseSessionManager, EventBridge, RedisManager
from worker.registry import AgentClassRegistry
from worker.toolsystem import UserContextToolFactory
from worker.tracker import AgentExecutionTracker


@dataclass(frozen=True)
class Infrastructure:
    """What is injected into every engine of a process; checked once, when the process is configured.

    Args:
        registry: the agent classes.
        database: opens request-scoped sessions.
        store: the run's small values.
        bridge: the way out for events.

    Raises:
        ConfigurationError: naming the part that is missing or has not the interface.
    """

    registry: AgentClassRegistry
    database: DatabaseSessionManager
    store: RedisManager
    bridge: EventBridge

    def __post_init__(self) -> None:
        interfaces = {
            "registry": AgentClassRegistry, "database": DatabaseSessionManager, "store": RedisManager,
            "bridge": EventBridge,
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
        is_cancelled: whether the user asked to cancel.
    """

    def __init__(
        self,
        context: UserExecutionContext,
        parts: Infrastructure,
        granted: Iterable[str],
        is_cancelled: Callable[[], bool],
    ) -> None:
        self.context = context
        self.tracker = AgentExecutionTracker()
        self.factory = AgentInstanceFactory(parts.registry)
        self._parts = parts
        self._tools = UserContextToolFactory(parts.database, parts.store, granted)
        self._core = AgentExecutionCore(self.factory, self.tracker)
        self._is_cancelled = is_cancelled

    async def execute(self, agent_name: str, raw_input: Any) -> AgentExecutionResult:
        """Runs an agent on an input inside a scope of its own, which is clean again when this returns.

        Raises:
            UnknownAgentError: no such agent.
        """
        parts = self._parts
        tool_classes = parts.registry.get(agent_name).tools
        with self.factory.user_execution_scope(self.context) as context:
            tools = self._tools.create_user_tool_system(context, tool_classes, lambda _: parts.bridge, agent_name)
            self.factory.add_cleanup(context, parts.database.close)
            self.factory.add_cleanup(context, tools.close)
            run = AgentExecutionContext(
                raw_input=raw_input,
                emit=UserWebSocketEmitter(context, parts.bridge, agent_name),
                tools=tools,
                store=parts.store,
                open_session=lambda: parts.database.session(context),
                is_cancelled=self._is_cancelled,
            )
            return await self._core.execute_agent_safely(agent_name, context, run, parts.bridge)


class ExecutionEngineFactory:
    """Makes engines from one infrastructure."""

    def __init__(self, parts: Infrastructure) -> None:
        self._parts = parts

    def create_engine(
        self,
        context: UserExecutionContext,
        granted: Iterable[str] = (),
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> UserExecutionEngine:
        """Returns a new engine for one run; the arguments are those of `UserExecutionEngine`."""
        return UserExecutionEngine(context, self._parts, granted, is_cancelled)
