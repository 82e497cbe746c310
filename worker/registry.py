"""`AgentClassRegistry`: the agent and tool classes of a process. Classes only; whatever is per user is made per run."""

from __future__ import annotations

import difflib
import inspect
import math
import re
import threading
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, PydanticUserError

from shared.errors import ConfigurationError, UnknownAgentError
from worker.authoring import Agent, Tool
from worker.mcp.config import McpServer
from worker.places import full_name, unsound, where_defined
from worker.sharedstate import check_state
from worker.workflow import Workflow

_NAME = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9_-]{1,64}")


class AgentClassRegistry:
    """Names to classes; filled at start-up, then frozen. Safe to read from any thread."""

    def __init__(self) -> None:
        self._agents: dict[str, type[Agent]] = {}
        self._lock = threading.Lock()
        self._frozen = False
        self.mcp_servers: Mapping[str, McpServer] = MappingProxyType({})  # set once, at start-up

    def register(self, cls: type[Agent]) -> None:
        """Adds an agent class.

        Raises:
            ConfigurationError: the registry is frozen, the name is taken, or the class is not sound (naming attribute
                and cure).
        """
        check_agent_class(cls)
        with self._lock:
            if self._frozen:
                raise ConfigurationError(f"agent {cls.name!r} comes too late: the registry is frozen after start-up")
            known = self._agents.get(cls.name)
            if known is not None and known is not cls:
                both = " and ".join(f"{full_name(one)}{where_defined(one, 'name')}" for one in (known, cls))
                raise ConfigurationError(f"two agents are called {cls.name!r}: {both}: rename one")
            self._agents[cls.name] = cls

    def leave_out(self, name: str) -> None:
        """Takes an agent back that cannot work here."""
        with self._lock:
            del self._agents[name]

    def freeze(self) -> None:
        """Ends registration for good.

        Raises:
            ConfigurationError: a workflow names an agent that is not there, or leads back to its own agent.
        """
        with self._lock:
            self._frozen = True
            self._agents = MappingProxyType(dict(self._agents))  # type: ignore[assignment]
        for cls in self._agents.values():
            self._check_workflows(cls, (cls.name,))

    def _check_workflows(self, cls: type[Agent], way: tuple[str, ...]) -> None:
        for name in needed_agents(cls):
            if name not in self._agents:
                missing = unknown_agent(name, list(self._agents)).message
                problem = f"has a step for an agent that is not there: {missing}; name its class in LANEWISE_AGENTS too"
                raise unsound(cls, "workflows", problem)
            if name in way:
                raise unsound(cls, "workflows", f"lead in a circle: {' → '.join([*way, name])}")
            self._check_workflows(self._agents[name], (*way, name))

    def get(self, name: str) -> type[Agent]:
        """Returns the class of that name.

        Raises:
            UnknownAgentError: saying what exists and the nearest match.
        """
        try:
            return self._agents[name]
        except KeyError:
            raise unknown_agent(name, list(self._agents)) from None

    def needs_network(self, name: str, granted: Collection[str]) -> bool:
        """Tells whether an agent, a tool that it may call, or an agent that its workflows need, declares `network`.

        What an MCP server offers is used over the network, or may be what the server itself needs it for.
        """
        cls = self.get(name)
        return (
            cls.network
            or any(tool.network and (tool.permission == "open" or tool.name in granted) for tool in cls.tools)
            or any(server.serves(name) for server in self.mcp_servers.values())
            or any(self.needs_network(needed, granted) for needed in needed_agents(cls))
        )

    def names(self) -> list[str]:
        """Returns the names, sorted."""
        return sorted(self._agents)

    def catalogue(self) -> list[dict[str, Any]]:
        """Returns what is published of each agent: the columns of the table `agents`."""
        return [_entry(self._agents[name]) for name in self.names()]


def unknown_agent(name: str, known: list[str]) -> UnknownAgentError:
    """Returns the error for a name that is not there."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    message = f"no agent is called {name!r}{hint}; there are: {', '.join(sorted(known)) or 'none'}"
    return UnknownAgentError(message, errors=[{"field": "agent", "message": message}])


def needed_agents(cls: type[Agent]) -> list[str]:
    """Returns the names of the agents that the steps of an agent's workflows need, sorted."""
    return sorted({step.agent for workflow in cls.workflows for step in workflow.steps()})


def check_agent_class(cls: Any) -> None:
    """Refuses a class that could not run, or that could carry something from one user to the next.

    Raises:
        ConfigurationError: naming class, attribute and cure.
    """
    if not (inspect.isclass(cls) and issubclass(cls, Agent)):
        raise ConfigurationError(f"{cls!r} is not a subclass of Agent")
    _check_name(cls)
    _check_model(cls, "Input")
    if cls.execute is Agent.execute:
        raise unsound(cls, "", "has no execute(self, context, run)")
    _check_arguments(cls, "execute", "self, context, run")
    _check_time_limit(cls)
    _check_network(cls)
    if not (isinstance(cls.max_attempts, int) and cls.max_attempts > 0):
        raise unsound(cls, "max_attempts", "must be a whole number above 0")
    if not (isinstance(cls.queue, str) and _NAME.fullmatch(cls.queue)):
        raise unsound(cls, "queue", "must be 1 to 64 letters, digits, '-' or '_'")
    if not isinstance(cls.tools, tuple):
        raise unsound(cls, "tools", "must be a tuple of Tool classes")
    _check_workflow_names(cls)
    check_state(cls, Agent)
    for tool in cls.tools:
        if not (inspect.isclass(tool) and issubclass(tool, Tool)):
            raise unsound(cls, "tools", f"has {tool!r}, which is not a subclass of Tool")
        check_tool_class(tool)
    names = [tool.name for tool in cls.tools]
    if len(set(names)) != len(names):
        raise unsound(cls, "tools", f"has two tools of one name: {', '.join(sorted(names))}")


def check_tool_class(cls: Any) -> None:
    """Refuses an unsound tool class, as `check_agent_class` does an agent's.

    Raises:
        ConfigurationError: naming class, attribute and cure.
    """
    if not (inspect.isclass(cls) and issubclass(cls, Tool)):
        raise ConfigurationError(f"{cls!r} is not a subclass of Tool")
    _check_name(cls)
    _check_model(cls, "Parameters")
    if cls.run is Tool.run:
        raise unsound(cls, "", "has no run(self, context, parameters)")
    _check_arguments(cls, "run", "self, context, parameters")
    if cls.permission not in ("open", "granted"):
        raise unsound(cls, "permission", "must be 'open' or 'granted'")
    _check_time_limit(cls)
    _check_network(cls)
    check_state(cls, Tool)


def _check_name(cls: type[Agent | Tool]) -> None:
    name = getattr(cls, "name", None)
    if not hasattr(cls, "name"):
        raise unsound(cls, "", "has no name: give it one, as in name = 'count'")
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise unsound(cls, "name", "must be 1 to 64 letters, digits, '-' or '_'")
    if not cls.__doc__:  # of its own: an inherited one describes something else
        raise unsound(cls, "", "has no docstring: it is the description that users read")


def _check_workflow_names(cls: type[Agent]) -> None:
    if not (isinstance(cls.workflows, tuple) and all(isinstance(one, Workflow) for one in cls.workflows)):
        raise unsound(cls, "workflows", "must be a tuple of Workflow")
    if len({one.name for one in cls.workflows}) != len(cls.workflows):
        raise unsound(cls, "workflows", "has two workflows of one name")


def _check_time_limit(cls: type[Agent | Tool]) -> None:
    limit = cls.time_limit_s
    if isinstance(limit, bool) or not (isinstance(limit, int | float) and 0 < limit < math.inf):
        raise unsound(cls, "time_limit_s", "must be a number of seconds above 0")


def _check_network(cls: type[Agent | Tool]) -> None:
    if not isinstance(cls.network, bool):
        raise unsound(cls, "network", "must be True or False")


def _check_arguments(cls: type[Any], method: str, arguments: str) -> None:
    try:
        inspect.signature(getattr(cls, method)).bind(*arguments.split(", "))
    except TypeError:
        raise unsound(cls, method, f"must take ({arguments})") from None


def _check_model(cls: type[Any], attribute: str) -> None:
    model = getattr(cls, attribute)
    if not (inspect.isclass(model) and issubclass(model, BaseModel)):
        raise unsound(cls, attribute, "must be a pydantic model")
    try:
        model.model_json_schema()
    except PydanticUserError as error:
        raise unsound(cls, attribute, f"has no JSON Schema: {error.message}") from None


def _entry(cls: type[Agent]) -> dict[str, Any]:
    return {
        "name": cls.name,
        "description": inspect.getdoc(cls) or "",
        "input_schema": cls.Input.model_json_schema(),
        "queue": cls.queue,
        "time_limit_s": float(cls.time_limit_s),
        "max_attempts": cls.max_attempts,
    }
