"""`ToolRegistry` and `ToolDispatcher`: the tools of one run, and the one way to call them."""

from __future__ import annotations

import asyncio
import difflib
import inspect
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import ValidationError

from shared.context import UserExecutionContext, validate_user_context
from shared.errors import ConfigurationError, InvalidContextError, LanewiseError
from shared.event_types import EventType
from shared.ids import new_id
from worker.authoring import Tool, ToolError, ToolScope
from worker.emitter import UserWebSocketEmitter


class ToolCancelledError(ToolError):
    """The agent was cancelled while it waited for a tool."""

    code = "cancelled"


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


class ToolRegistry:
    """The tools of one run, by name.

    Args:
        owner: whose tools these are; part of the registry's id, which no other run's registry has.
    """

    def __init__(self, owner: UserExecutionContext) -> None:
        self.registry_id = f"{owner.run_id}:{new_id()}"
        self._tools: dict[str, Tool] = {}

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
        """Returns the tool of that name, if there is one."""
        return self._tools.get(name)

    def names(self) -> list[str]:
        """Returns the names, sorted."""
        return sorted(self._tools)

    def schemas(self) -> list[dict[str, Any]]:
        """Returns name, description and parameter schema of each tool, as a model needs them."""
        return [
            {
                "name": name,
                "description": inspect.getdoc(self._tools[name]) or "",
                "parameters": self._tools[name].Parameters.model_json_schema(),
            }
            for name in self.names()
        ]

    def clear(self) -> None:
        """Lets go of the tools."""
        self._tools.clear()


class ToolDispatcher:
    """Calls tools for one user, thread and run: validates, checks permission, runs, reports.

    Args:
        context: whose dispatcher this is; it refuses to work for another.
        registry: used as it is.
        emit: where the tool events go.
        granted: names of tools that need a grant and that this user has one for.
    """

    def __init__(
        self,
        context: UserExecutionContext,
        registry: ToolRegistry,
        emit: UserWebSocketEmitter,
        granted: frozenset[str] = frozenset(),
    ) -> None:
        self._context = validate_user_context(context)
        self.registry = registry
        self._emit = emit
        self._granted = granted

    @classmethod
    def create_request_scoped(
        cls,
        context: UserExecutionContext,
        registry: ToolRegistry,
        emit: UserWebSocketEmitter,
        granted: Iterable[str] = (),
    ) -> Self:
        """Returns a dispatcher for this one run, over the registry that it is given."""
        return cls(context, registry, emit, frozenset(granted))

    async def dispatch_tool(
        self, tool_name: str, parameters: Mapping[str, Any], user_context: UserExecutionContext
    ) -> ToolExecutionResult:
        """Calls a tool and reports how it went, as a value and as events; only cancellation is raised.

        Args:
            tool_name: one of the agent's tools.
            parameters: checked against the tool's `Parameters`.
            user_context: the caller's context; it has to be of this dispatcher's user, thread and run.

        Raises:
            InvalidContextError: a tampered context or another user's.
        """
        context = self._check_context(user_context)
        tool_name = str(tool_name)  # a model may have named it
        started = time.perf_counter()
        tool = self.registry.get(tool_name)
        if tool is None:
            return self._denied(tool_name, "unknown_tool", self._unknown(tool_name))
        if tool.permission != "open" and tool_name not in self._granted:
            return self._denied(tool_name, "not_granted", f"the user has no grant for the tool {tool_name!r}")
        self._emit.emit(EventType.TOOL_EXECUTING, {"tool": tool_name})
        try:
            checked = tool.Parameters.model_validate(dict(parameters))
            value = await _run(tool, context.create_child_context(f"tool:{tool_name}"), checked)
        except asyncio.CancelledError:
            self._failed(tool_name, ToolCancelledError("the call was cancelled"), time.perf_counter() - started)
            raise
        except Exception as error:  # noqa: BLE001 - the boundary round foreign code: every failure becomes a value
            return self._failed(tool_name, error, time.perf_counter() - started)
        duration = time.perf_counter() - started
        self._emit.emit(EventType.TOOL_COMPLETED, {"tool": tool_name, "duration_s": round(duration, 4)})
        return ToolExecutionResult(tool_name, True, value, duration_s=duration)

    def call(self, tool_name: str, **parameters: Any) -> Any:
        """Calls a tool and waits: the blocking twin of `dispatch_tool`, for plain `execute` and for helpers.

        Returns:
            the tool's result.

        Raises:
            ToolError: with the reason why there is none.
        """
        return _wait(self.dispatch_tool(tool_name, parameters, self._context)).unwrap()

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
        near = difflib.get_close_matches(name, self.registry.names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"no tool is called {name!r}{hint}; there are: {', '.join(self.registry.names()) or 'none'}"

    def _denied(self, name: str, kind: str, message: str) -> ToolExecutionResult:
        self._emit.emit(EventType.TOOL_DENIED, {"tool": name[:64], "reason": kind, "message": message[:500]})
        return ToolExecutionResult(name, False, error={"type": kind, "message": message})

    def _failed(self, name: str, error: Exception, duration_s: float) -> ToolExecutionResult:
        described = describe_error(error)
        data = {"tool": name, "error": described, "duration_s": round(duration_s, 4)}
        self._emit.emit(EventType.TOOL_FAILED, data)
        return ToolExecutionResult(name, False, error=described, duration_s=duration_s)


def describe_error(error: BaseException) -> dict[str, str]:
    """Returns type and message of an exception as users may see them: no traceback, at most 2,000 characters."""
    if isinstance(error, ValidationError):
        fields = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:10])
        return {"type": "invalid", "message": fields[:2000]}
    kind = error.code if isinstance(error, LanewiseError) else type(error).__name__
    if isinstance(error, MemoryError):
        return {"type": kind, "message": f"the run reached the memory limit of its sandbox {str(error)[:500]}".rstrip()}
    return {"type": kind, "message": (str(error) or type(error).__name__)[:2000]}


async def _run(tool: Tool, context: UserExecutionContext, parameters: Any) -> Any:
    if inspect.iscoroutinefunction(tool.run):
        return await tool.run(context, parameters)
    return await asyncio.to_thread(tool.run, context, parameters)


def _wait(call: Any) -> Any:
    """Runs a coroutine to its end: here, or in a thread of its own if this thread has a loop that is busy with us."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(call)
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.extend((True, asyncio.run(call)))
        except BaseException as error:  # noqa: BLE001 - carried over to the calling thread
            outcome.extend((False, error))

    thread = threading.Thread(target=work, name="lanewise-tool-call")
    thread.start()
    thread.join()
    if not outcome[0]:
        raise outcome[1]
    return outcome[1]


__all__ = ["ToolDispatcher", "ToolExecutionResult", "ToolRegistry", "ToolScope", "describe_error"]
