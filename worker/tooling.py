"""`ToolRegistry` and `ToolDispatcher`: the tools of one run, and the one way to call them."""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from shared.context import UserExecutionContext, validate_user_context
from shared.errors import ConfigurationError, InvalidContextError, InvalidError
from shared.event_types import Denial, EventType
from shared.ids import new_id
from shared.jsonvalue import check_json, clean_json
from worker.authoring import Tool, ToolError
from worker.described import describe_error
from worker.emitter import UserWebSocketEmitter
from worker.toolcalls import ToolCalls, ToolCancelledError

MAX_RESULT_BYTES = 1024 * 1024  # as an agent's output
MAX_TOOL_NAME = 64


@dataclass(frozen=True)
class ToolExecutionResult:
    """What came of one call.

    Args:
        success: whether `value` holds the tool's result.
        error: for the agent and the user, if it did not succeed: `{"type", "message"}`.
        duration_s: seconds it took.
    """

    tool_name: str
    success: bool
    value: Any = None
    error: Mapping[str, str] | None = None
    duration_s: float = 0.0

    def unwrap(self) -> Any:
        """Returns the value.

        Raises:
            ToolError: with the message of the error.
        """
        if self.error is not None:
            raise ToolError(f"{self.tool_name}: {self.error['message']}")
        return self.value


class ToolSource(Protocol):
    """Tools that are known only when somebody asks for them, e.g. those of an MCP server.

    Attributes:
        prefix: the names of all its tools begin so.
        permission: of all its tools.
        time_limit_s: how long listing them may take, seconds.
    """

    prefix: str
    permission: Literal["open", "granted"]
    time_limit_s: float

    def tools(self) -> Future[Sequence[Tool]]:
        """Returns the tools, listed at the first call; the future raises `ToolError` if that failed."""
        ...


class ToolRegistry:
    """The tools of one run, by name.

    Args:
        owner: whose tools these are; part of the registry's id, which no other run's registry has.
        sources: of further tools; each is asked when one of its tools, or the list of all, is wanted.
    """

    def __init__(self, owner: UserExecutionContext, sources: Sequence[ToolSource] = ()) -> None:
        self.registry_id = f"{owner.run_id}:{new_id()}"
        self._tools: dict[str, Tool] = {}
        self._sources = sources

    def register(self, tool: Tool) -> None:
        """Adds an instance.

        Raises:
            ConfigurationError: a class instead of an instance, or the name is taken.
        """
        if not isinstance(tool, Tool):
            raise ConfigurationError(f"{tool!r} is not an instance of Tool")
        if tool.name in self._tools:
            raise ConfigurationError(f"two tools are called {tool.name!r}")
        self._tools[tool.name] = tool

    def get(self, name: str) -> Tool | None:
        """Returns the tool of that name, if it is here already; a source's tools are after `find` or `schemas`."""
        return self._tools.get(name)

    def source_of(self, name: str) -> ToolSource | None:
        """Returns the source that may have a tool of that name."""
        return next((source for source in self._sources if name.startswith(source.prefix)), None)

    async def find(self, name: str, source: ToolSource) -> Tool | None:
        """Returns a source's tool of that name, if it has one; asks the source first if need be.

        Raises:
            ToolError: the source cannot be asked.
        """
        tools: Sequence[Tool] = await asyncio.wrap_future(source.tools())
        self._adopt(tools)
        return self._tools.get(name)

    def names(self) -> list[str]:
        """Returns the names of the tools that are here, sorted."""
        return sorted(self._tools)

    def schemas(self) -> list[dict[str, Any]]:
        """Returns name, description and parameter schema of each tool, as a model needs them.

        Asks all sources, at once, and blocks while they answer, each for its time limit at most; those that cannot
        are left out.
        """
        asked_at = time.monotonic()
        for source, tools in [(source, source.tools()) for source in self._sources]:
            try:
                self._adopt(tools.result(max(asked_at + source.time_limit_s - time.monotonic(), 0)))
            except (ToolError, TimeoutError):  # whoever calls one of its tools is told why
                continue
        return [self._tools[name].tool_schema() for name in self.names()]

    def clear(self) -> None:
        """Lets go of the tools."""
        self._tools.clear()
        self._sources = ()

    def _adopt(self, tools: Iterable[Tool]) -> None:
        for tool in tools:
            self._tools.setdefault(tool.name, tool)


class ToolDispatcher:
    """Calls tools for one user, thread and run: validates, checks permission, runs, reports.

    Args:
        context: whose dispatcher this is; it refuses to work for another.
        registry: used as it is.
        emit: where the tool events go.
        granted: names of tools that need a grant and that this user has one for.
        calls: runs them; the tool systems of one run share it.
    """

    def __init__(
        self,
        context: UserExecutionContext,
        registry: ToolRegistry,
        emit: UserWebSocketEmitter,
        granted: frozenset[str] = frozenset(),
        calls: ToolCalls | None = None,
    ) -> None:
        self._context = validate_user_context(context)
        self.registry = registry
        self._emit = emit
        self._granted = granted
        self._calls = calls or ToolCalls()

    @classmethod
    def create_request_scoped(
        cls,
        context: UserExecutionContext,
        registry: ToolRegistry,
        emit: UserWebSocketEmitter,
        granted: Iterable[str] = (),
        calls: ToolCalls | None = None,
    ) -> Self:
        """Returns a dispatcher for this one run, over the registry that it is given."""
        return cls(context, registry, emit, frozenset(granted), calls)

    async def dispatch_tool(
        self, tool_name: str, parameters: Mapping[str, Any], user_context: UserExecutionContext
    ) -> ToolExecutionResult:
        """Calls a tool and reports how it went, as a value and as events; only cancellation is raised.

        Several may be under way at once, from one event loop or many: 16 in a run, further ones wait for their turn.

        Args:
            tool_name: one of the agent's tools.
            parameters: checked against the tool's `Parameters`.
            user_context: the caller's context; it has to be of this dispatcher's user, thread and run.

        Raises:
            InvalidContextError: a tampered context or another user's.
        """
        context = self._check_context(user_context)
        tool_name = str(tool_name)  # a model may have named it
        tool = self.registry.get(tool_name)
        source = None if tool else self.registry.source_of(tool_name)
        for owner in (tool, source):
            if owner is not None and owner.permission != "open" and tool_name not in self._granted:
                return self._denied(tool_name, Denial.NOT_GRANTED, f"the user has no grant for the tool {tool_name!r}")
        if tool is not None:
            return await self._execute(tool, parameters, context)
        if source is not None:
            return await self._dispatch_from(source, tool_name, parameters, context)
        return self._denied(tool_name, Denial.UNKNOWN_TOOL, self._unknown(tool_name))

    def call(self, tool_name: str, **parameters: Any) -> Any:
        """Calls a tool and waits: the blocking twin of `dispatch_tool`, for plain `execute` and for helpers.

        May be called from several threads at once. Ends early when the run is cancelled.

        Returns:
            the tool's result.

        Raises:
            ToolError: with the reason why there is none.
        """
        result: ToolExecutionResult = self._calls.wait_for(self.dispatch_tool(tool_name, parameters, self._context))
        return result.unwrap()

    async def _dispatch_from(
        self, source: ToolSource, name: str, parameters: Mapping[str, Any], context: UserExecutionContext
    ) -> ToolExecutionResult:
        started = time.perf_counter()
        try:
            tool = await self.registry.find(name, source)
        except ToolError as error:
            self._emit.emit(EventType.TOOL_EXECUTING, {"tool": name[:MAX_TOOL_NAME]})
            return self._failed(name, error, time.perf_counter() - started)
        if tool is None:
            return self._denied(name, Denial.UNKNOWN_TOOL, self._unknown(name))
        return await self._execute(tool, parameters, context)

    async def _execute(
        self, tool: Tool, parameters: Mapping[str, Any], context: UserExecutionContext
    ) -> ToolExecutionResult:
        started = time.perf_counter()
        self._emit.emit(EventType.TOOL_EXECUTING, {"tool": tool.name})
        try:
            checked = tool.check_parameters(parameters)
            value = _result(await self._calls.run(tool, context.create_child_context(f"tool:{tool.name}"), checked))
        except asyncio.CancelledError:
            self._failed(tool.name, ToolCancelledError("the call was cancelled"), time.perf_counter() - started)
            raise
        except Exception as error:  # noqa: BLE001 - the boundary round foreign code: every failure becomes a value
            return self._failed(tool.name, error, time.perf_counter() - started)
        duration = time.perf_counter() - started
        self._emit.emit(EventType.TOOL_COMPLETED, {"tool": tool.name, "duration_s": round(duration, 4)})
        return ToolExecutionResult(tool.name, True, value, duration_s=duration)

    def _check_context(self, context: UserExecutionContext) -> UserExecutionContext:
        validate_user_context(context)
        own = self._context
        for name in ("user_id", "thread_id", "run_id"):
            if getattr(context, name) != getattr(own, name):
                raise InvalidContextError(
                    f"{name} is not that of this run", errors=[{"field": name, "message": "is not that of this run"}]
                )
        return context

    def _unknown(self, name: str) -> str:
        name = name[:MAX_TOOL_NAME]
        near = difflib.get_close_matches(name, self.registry.names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"no tool is called {name!r}{hint}; there are: {', '.join(self.registry.names()) or 'none'}"

    def _denied(self, name: str, kind: Denial, message: str) -> ToolExecutionResult:
        self._emit.emit(EventType.TOOL_DENIED, {"tool": name[:MAX_TOOL_NAME], "reason": kind, "message": message[:500]})
        return ToolExecutionResult(name, False, error={"type": kind, "message": message})

    def _failed(self, name: str, error: Exception, duration_s: float) -> ToolExecutionResult:
        described = describe_error(error)
        data = {"tool": name[:MAX_TOOL_NAME], "error": described, "duration_s": round(duration_s, 4)}
        self._emit.emit(EventType.TOOL_FAILED, data)
        return ToolExecutionResult(name, False, error=described, duration_s=duration_s)


def _result(value: Any) -> Any:
    try:
        return check_json(clean_json(value), "the result", MAX_RESULT_BYTES)
    except RecursionError:
        raise InvalidError("the result is nested too deeply for JSON") from None
