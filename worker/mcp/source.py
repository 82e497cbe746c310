"""`McpSource`: the tools of an MCP server as tools of a user's tool system, called `server__tool`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, Literal

from shared.errors import InvalidError
from shared.jsonvalue import check_json
from worker.authoring import Tool, ToolError
from worker.mcp.config import SEPARATOR, TOOL_NAME, McpServer
from worker.mcp.sessions import ListedTool, McpError, McpSessions
from worker.toolscope import ToolScope

MAX_ARGUMENT_BYTES = 256 * 1024
MAX_PROBLEMS = 10


class McpTool(Tool):
    """One tool of an MCP server; each one mounted is an instance of a subclass with its name and description."""

    listed: ClassVar[ListedTool]
    server: ClassVar[str]

    def __init__(self, scope: ToolScope, sessions: McpSessions) -> None:
        super().__init__(scope)
        self._sessions = sessions

    def tool_schema(self) -> dict[str, Any]:
        """Returns what the server says of it."""
        return {"name": self.name, "description": self.listed.description, "parameters": self.listed.schema}

    def check_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the parameters, if the server's schema accepts them.

        Raises:
            InvalidError: naming each bad one.
        """
        arguments: dict[str, Any] = check_json(dict(parameters), "parameters", MAX_ARGUMENT_BYTES)
        problems = [
            f"{'.'.join(map(str, error.absolute_path)) or 'parameters'}: {error.message}"
            for error in self._validator.iter_errors(arguments)
        ]
        if problems:
            raise InvalidError("; ".join(problems[:MAX_PROBLEMS]))
        return arguments

    async def run(self, context: Any, parameters: dict[str, Any]) -> Any:  # noqa: ARG002 - the session is the run's
        """Returns the server's answer: `content` and `structuredContent`."""
        return await asyncio.wrap_future(self._sessions.call(self.server, self.listed.name, parameters))

    @functools.cached_property
    def _validator(self) -> Any:
        return _validator(self.listed.schema)


class McpSource:
    """A server's tools, for one agent of one run. See `ToolSource`.

    Args:
        name: of the server.
        scope: that its tools are made for.
        granted: tools that the user was granted; without one of this server's it is not even asked.
    """

    def __init__(
        self, name: str, server: McpServer, sessions: McpSessions, scope: ToolScope, granted: frozenset[str]
    ) -> None:
        self.prefix = name + SEPARATOR
        self.permission: Literal["open", "granted"] = server.permission
        self.time_limit_s = server.connect_limit_s + 1
        self._name = name
        self._server = server
        self._sessions = sessions
        self._scope = scope
        self._wanted = server.permission == "open" or any(tool.startswith(self.prefix) for tool in granted)

    def tools(self) -> Future[Sequence[Tool]]:
        """Returns the tools that are mounted."""
        made: Future[Sequence[Tool]] = Future()
        made.set_running_or_notify_cancel()  # whoever ceases to wait does not cancel it

        def make(listed: Future[list[ListedTool]]) -> None:
            try:
                made.set_result([self._make(tool) for tool in listed.result() if self._is_mounted(tool)])
            except ToolError as error:
                made.set_exception(error)
            except Exception as error:  # noqa: BLE001 - what a server said is at fault, and whoever waits is told
                problem = f"the MCP server {self._name!r} cannot be used: {str(error)[:1000] or type(error).__name__}"
                made.set_exception(McpError(problem))

        if self._wanted:
            self._sessions.listed(self._name).add_done_callback(make)
        else:
            made.set_result(())
        return made

    def _is_mounted(self, tool: ListedTool) -> bool:
        """Leaves out what is not in the list, and what has no name or no schema that a model could use."""
        if self._server.tools is not None and tool.name not in self._server.tools:
            return False
        return TOOL_NAME.fullmatch(self.prefix + tool.name) is not None and _is_schema(tool.schema)

    def _make(self, tool: ListedTool) -> Tool:
        attributes = {
            "name": self.prefix + tool.name, "permission": self.permission, "time_limit_s": self._server.time_limit_s,
            "listed": tool, "server": self._name, "__doc__": tool.description,
        }  # fmt: skip
        made: Tool = type("McpTool", (McpTool,), attributes)(self._scope, self._sessions)
        return made


def _validator(schema: dict[str, Any]) -> Any:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - only sandboxes that use a server need it
    from jsonschema.validators import validator_for  # noqa: PLC0415
    from referencing import Registry  # noqa: PLC0415

    # An empty registry: what a schema refers to elsewhere is not fetched.
    return validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())


def _is_schema(schema: dict[str, Any]) -> bool:
    try:
        _validator(schema).check_schema(schema)
    except Exception:  # noqa: BLE001 - besides `SchemaError`, whatever the library does not expect, as a `$schema` of [1]
        return False
    return True
