"""What a person touches: the command line, the client, and the names that authors of agents import.

The names are loaded when they are first used: the client pulls in nothing of the worker, and `import lanewise` is free.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lanewise.client import Client
    from lanewise.errors import ApiError, GapError, StreamClosedError, UnreachableError
    from lanewise.stream import Stream
    from shared.context import UserExecutionContext
    from shared.errors import StateConflictError
    from worker.authoring import Agent, AgentRun, Retry, Tool, ToolError
    from worker.workflow import Choice, Parallel, Results, Sequence, Step, Workflow

__all__ = [
    "Agent",
    "AgentRun",
    "ApiError",
    "Choice",
    "Client",
    "GapError",
    "Parallel",
    "Results",
    "Retry",
    "Sequence",
    "StateConflictError",
    "Step",
    "Stream",
    "StreamClosedError",
    "Tool",
    "ToolError",
    "UnreachableError",
    "UserExecutionContext",
    "Workflow",
]

_MODULES = {
    "lanewise.client": ("Client",),
    "lanewise.errors": ("ApiError", "GapError", "StreamClosedError", "UnreachableError"),
    "lanewise.stream": ("Stream",),
    "shared.context": ("UserExecutionContext",),
    "shared.errors": ("StateConflictError",),
    "worker.authoring": ("Agent", "AgentRun", "Retry", "Tool", "ToolError"),
    "worker.workflow": ("Choice", "Parallel", "Results", "Sequence", "Step", "Workflow"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module 'lanewise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
