"""`UserToolSystem`: registry, dispatcher, tools and bridge of one run, all fresh, nothing shared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from shared.context import UserExecutionContext, validate_user_context
from worker.authoring import Tool
from worker.emitter import UserWebSocketEmitter
from worker.interfaces import DatabaseSessionManager, EventBridge, RedisManager
from worker.mcp.config import McpServer
from worker.mcp.sessions import McpSessions
from worker.mcp.source import McpSource
from worker.toolcalls import ToolCalls
from worker.tooling import ToolDispatcher, ToolExecutionResult, ToolRegistry
from worker.toolscope import ToolScope

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

BridgeFactory = Callable[[UserExecutionContext], EventBridge]


class UserToolSystem:
    """The tools of one run and the way to call them.

    Args:
        context: of the run.
        dispatcher: made for this context.
        emit: the run's emitter for tool events.
    """

    def __init__(self, context: UserExecutionContext, dispatcher: ToolDispatcher, emit: UserWebSocketEmitter) -> None:
        self.context = context
        self.dispatcher = dispatcher
        self.emit = emit
        self.correlation_id = context.correlation_id

    @property
    def registry(self) -> ToolRegistry:
        """The run's own registry."""
        return self.dispatcher.registry

    async def dispatch_tool(
        self, tool_name: str, parameters: Mapping[str, Any], context: UserExecutionContext | None = None
    ) -> ToolExecutionResult:
        """Calls a tool; see `ToolDispatcher.dispatch_tool`."""
        return await self.dispatcher.dispatch_tool(tool_name, parameters, context or self.context)

    def call(self, tool_name: str, **parameters: Any) -> Any:
        """Calls a tool and waits for its result; see `ToolDispatcher.call`."""
        return self.dispatcher.call(tool_name, **parameters)

    def close(self) -> None:
        """Lets go of the tools."""
        self.registry.clear()


class UserContextToolFactory:
    """Makes the tool systems of a run.

    Args:
        database: opens the sessions that tools ask for.
        store: the run's small values.
        granted: tools that this user was granted.
        is_cancelled: whether the user asked to cancel the run.
        servers: MCP servers by name, see `worker.mcp`.
    """

    def __init__(
        self,
        database: DatabaseSessionManager,
        store: RedisManager,
        granted: Iterable[str] = (),
        is_cancelled: Callable[[], bool] = lambda: False,
        servers: Mapping[str, McpServer] | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._granted = frozenset(granted)
        self._is_cancelled = is_cancelled
        self._calls = ToolCalls()
        self._servers = servers or {}
        self._sessions = McpSessions(self._servers)

    def create_user_tool_system(
        self,
        context: UserExecutionContext,
        tool_classes: Iterable[type[Tool]],
        bridge_factory: BridgeFactory,
        agent: str = "",
    ) -> UserToolSystem:
        """Returns a tool system in which everything was made for this context.

        Args:
            context: of the run.
            tool_classes: one instance is made of each.
            bridge_factory: gives the bridge for this context.
            agent: the name under which tool events appear.

        Raises:
            InvalidContextError: the context is not sound.
        """
        validate_user_context(context)
        bridge = bridge_factory(context)
        emit = UserWebSocketEmitter(context, bridge, agent)
        scope = ToolScope(
            context,
            bridge,
            agent,
            store=self._store,
            open_session=self._opener(context),
            is_cancelled=self._is_cancelled,
        )
        sources = [
            McpSource(name, server, self._sessions, scope, self._granted)
            for name, server in self._servers.items()
            if server.serves(agent)
        ]
        registry = ToolRegistry(context, sources)
        for tool_class in tool_classes:
            registry.register(tool_class(scope))
        dispatcher = ToolDispatcher.create_request_scoped(context, registry, emit, self._granted, self._calls)
        return UserToolSystem(context, dispatcher, emit)

    def cancel(self) -> None:
        """Interrupts the blocking calls of the run that are under way; see `ToolCalls.cancel`."""
        self._calls.cancel()

    def close(self) -> None:
        """Ends what the tool systems share: threads, connections to MCP servers, and the servers that were started."""
        self._sessions.close()
        self._calls.close()

    def _opener(self, context: UserExecutionContext) -> Callable[[], AbstractContextManager[Session]]:
        return lambda: self._database.session(context)
