"""What a server lists cannot fail more than its own tools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from shared.context import UserExecutionContext
from tests.parts import DictStore, RecordingBridge, UnboundDatabase
from tests.services import a_context
from worker.emitter import UserWebSocketEmitter
from worker.mcp.config import McpServer
from worker.mcp.sessions import ListedTool, McpSessions
from worker.mcp.source import McpSource
from worker.tooling import ToolDispatcher, ToolRegistry
from worker.toolscope import ToolScope


class Listing(McpSessions):
    """Lists what the test says; connects to nothing."""

    def __init__(self, listed: Future[list[ListedTool]]) -> None:
        super().__init__({})
        self._listed = listed

    def listed(self, name: str) -> Future[list[ListedTool]]:
        return self._listed


def dispatcher(tell: Callable[[Future[list[ListedTool]]], None]) -> tuple[ToolDispatcher, UserExecutionContext]:
    listed: Future[list[ListedTool]] = Future()
    tell(listed)
    context, bridge = a_context(), RecordingBridge()
    scope = ToolScope(
        context,
        bridge,
        "a",
        store=DictStore(),
        open_session=lambda: UnboundDatabase().session(context),
        is_cancelled=lambda: False,
    )
    source = McpSource("odd", McpServer(command="x", permission="open"), Listing(listed), scope, frozenset())
    registry = ToolRegistry(context, [source])
    return ToolDispatcher(context, registry, UserWebSocketEmitter(context, bridge, "a")), context


@pytest.mark.parametrize("schema", [{"$schema": [1]}, {"$schema": {}}, {"type": "nonsense"}, {"properties": []}])
def test_a_tool_with_a_schema_that_is_none_is_left_out(schema: dict[str, Any]) -> None:
    tools = [ListedTool("wrong", "", schema), ListedTool("right", "", {"type": "object"})]
    calls, context = dispatcher(lambda listed: listed.set_result(tools))
    assert [entry["name"] for entry in calls.registry.schemas()] == ["odd__right"]
    result = asyncio.run(calls.dispatch_tool("odd__wrong", {}, context))
    assert result.error is not None
    assert result.error["type"] == "unknown_tool"


def test_whatever_fails_while_listing_fails_the_servers_tools_only() -> None:
    calls, context = dispatcher(lambda listed: listed.set_exception(KeyError("unexpected")))
    assert calls.registry.schemas() == []
    result = asyncio.run(calls.dispatch_tool("odd__right", {}, context))
    assert result.error == {"type": "mcp_error", "message": "the MCP server 'odd' cannot be used: 'unexpected'"}
