"""`McpSessions`: the connections of one run to MCP servers, made when first used, in a thread with a loop of its own.

A session belongs to the event loop that opened it; agents call tools from several. A server with a `command` is a child
of this sandbox: no other run, and so no other user, shares its process, and it dies with the sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import LanewiseError
from shared.jsonvalue import check_json
from worker.authoring import ToolError
from worker.mcp.config import McpServer, resolve

if TYPE_CHECKING:
    from mcp import Client

MAX_TOOLS = 200
MAX_PAGES = 20
MAX_SCHEMA_BYTES = 64 * 1024
MAX_DESCRIPTION = 4000
CLOSE_S = 1.0
STREAM_S = 300.0


def preload() -> None:
    """Imports what sandboxes use of libraries; once before the fork rather than for half a second in each of them."""
    import httpx2  # noqa: F401, PLC0415 - a worker without servers does without
    import jsonschema.validators  # noqa: F401, PLC0415
    import mcp.client.streamable_http  # noqa: F401, PLC0415
    import referencing  # noqa: F401, PLC0415


class McpError(ToolError):
    """An MCP server could not be reached, or did not do what it was asked."""

    code = "mcp_error"


@dataclass(frozen=True)
class ListedTool:
    """A tool as its server describes it: text of somebody else's.

    Args:
        schema: JSON Schema of the parameters.
    """

    name: str
    description: str
    schema: dict[str, Any]


class McpSessions:
    """Lists and calls tools of servers. Safe to use from any thread.

    Args:
        servers: by name.
    """

    def __init__(self, servers: Mapping[str, McpServer]) -> None:
        self._servers = servers
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._sessions: dict[str, _Session] = {}

    def listed(self, name: str) -> Future[list[ListedTool]]:
        """Returns the tools of a server as they were at its first use in this run; connects to it then.

        The future raises `McpError` if the server did not answer within its limit; it is not asked again then.
        """
        return self._session(name).listed

    def call(self, name: str, tool: str, arguments: dict[str, Any]) -> Future[Any]:
        """Returns what a tool answers: `{"content": […], "structuredContent": …}`, as the protocol has it.

        Cancelling the future tells the server. It raises `McpError` for a tool that fails, and for a server that does.
        """
        session = self._session(name)
        return asyncio.run_coroutine_threadsafe(session.call(tool, arguments), self._running())

    def close(self) -> None:
        """Ends all sessions: a second for servers to end by themselves; what is left ends with the sandbox."""
        with self._lock:
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is None or thread is None:
            return
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._end(), loop).result(2 * CLOSE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(CLOSE_S)

    async def _end(self) -> None:
        tasks = [session.task for session in self._sessions.values()]
        for session in self._sessions.values():
            session.closing.set()
        await asyncio.wait(tasks, timeout=CLOSE_S)

    def _session(self, name: str) -> _Session:
        loop = self._running()
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = _Session(name, self._servers[name], loop)
            return self._sessions[name]

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name="lanewise-mcp", daemon=True)
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


class _Session:
    """One connection: opened and closed by one task, as the library demands, used by others of its loop."""

    def __init__(self, name: str, server: McpServer, loop: asyncio.AbstractEventLoop) -> None:
        self._name = name
        self._server = server
        self._client: Client | None = None
        self.listed: Future[list[ListedTool]] = Future()
        self.closing = asyncio.Event()
        self.task: asyncio.Task[None]
        loop.call_soon_threadsafe(self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self.task = loop.create_task(self._hold())
        loop.call_later(self._server.connect_limit_s, self._give_up)

    def _give_up(self) -> None:
        if not self.listed.done():
            self._fail(f"it did not answer within {self._server.connect_limit_s:g} s")
            self.task.cancel()

    def _fail(self, problem: str) -> None:
        if not self.listed.done():
            self.listed.set_exception(McpError(f"the MCP server {self._name!r} cannot be used: {problem}"))

    async def _hold(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                self._client = await _connect(self._server, stack)
                self.listed.set_result(await _list_tools(self._client))
                await self.closing.wait()
        except Exception as error:  # noqa: BLE001 - the boundary round foreign code and its server
            self._fail(_describe(error))
        finally:
            self._client = None
            self._fail("the run is over")

    async def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        if self._client is None:
            raise McpError(f"the MCP server {self._name!r} is not connected")
        try:
            result = await self._client.call_tool(tool, arguments)
        except Exception as error:  # noqa: BLE001 - the same
            raise McpError(f"the MCP server {self._name!r}: {_describe(error)}") from None
        if result.is_error:
            texts = [block.text for block in result.content if block.type == "text"]
            raise McpError("\n".join(texts) or "the tool failed and does not say why")
        fields = {"content", "structured_content"}
        return result.model_dump(mode="json", by_alias=True, exclude_none=True, include=fields)


async def _connect(server: McpServer, stack: AsyncExitStack) -> Client:
    import httpx2  # noqa: PLC0415 - see `preload`
    from mcp import Client, StdioServerParameters, stdio_client  # noqa: PLC0415
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415

    environ = os.environ
    if server.command is not None:
        arguments = [resolve(text, environ) for text in server.args]
        env = {name: resolve(text, environ) for name, text in server.env.items()}
        # What a server says of itself may quote the user's data: it goes where what agents print goes.
        nowhere = stack.enter_context(Path(os.devnull).open("w"))  # noqa: ASYNC230, SIM115 - never read
        parameters = StdioServerParameters(command=server.command, args=arguments, env=env)
        return await stack.enter_async_context(Client(stdio_client(parameters, errlog=nowhere)))
    headers = {name: resolve(text, environ) for name, text in server.headers.items()}
    # Whatever a call may take; a stream on which nothing comes for longer is dead.
    timeout = httpx2.Timeout(server.connect_limit_s, read=max(server.time_limit_s, STREAM_S))
    http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=timeout))
    transport = streamable_http_client(resolve(server.url or "", environ), http_client=http)
    return await stack.enter_async_context(Client(transport))


async def _list_tools(client: Client) -> list[ListedTool]:
    found: list[ListedTool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            try:
                schema = check_json(tool.input_schema, "the schema", MAX_SCHEMA_BYTES)
            except LanewiseError:  # too large, or nested too deep: the tool is left out, not the server
                continue
            found.append(ListedTool(tool.name, (tool.description or "")[:MAX_DESCRIPTION], schema))
        cursor = page.next_cursor
        if cursor is None or len(found) >= MAX_TOOLS:
            break
    return found[:MAX_TOOLS]


def _describe(error: BaseException) -> str:
    """Says what went wrong; of a group of errors, the first one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.filename is not None:
        return f"its command cannot be started: {error.strerror}"  # where it should lie is the operator's business
    if str(error) == "Connection closed":
        return "it closed the connection; its operator sees why by starting its command by hand"
    return (str(error) or type(error).__name__)[:1000]
