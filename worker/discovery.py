"""Finds the agents: installed entry points of the group `lanewise.agents`, and what `LANEWISE_AGENTS` names."""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from shared.errors import ConfigurationError
from worker import linux
from worker.authoring import Agent
from worker.registry import AgentClassRegistry

GROUP = "lanewise.agents"
OURS = "lanewise"
THREAD_END_S = 0.5


def load_agents(names: Iterable[str]) -> tuple[AgentClassRegistry, list[str]]:
    """Imports and registers every agent of this process.

    Args:
        names: `package.module` (every agent defined there) or `package.module:Class`.

    Returns:
        the frozen registry, and notes on built-in agents left out because their extra is not installed.

    Raises:
        ConfigurationError: an agent that cannot be imported, is not sound, or leaves a thread running; with file, line
            and cure.
    """
    registry = AgentClassRegistry()
    notes: list[str] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            classes = _load(entry.value)
        except _MissingModuleError as error:
            if not _is_ours(entry):
                raise ConfigurationError(str(error)) from None
            notes.append(f"agent {entry.name!r} is left out: install lanewise[{entry.name}] for it ({error})")
            continue
        for cls in classes:
            registry.register(cls)
    for name in names:
        for cls in _load(name):
            registry.register(cls)
    registry.freeze()
    return registry, notes


class _MissingModuleError(ConfigurationError):
    """A module that an agent imports is not installed."""


def _load(name: str) -> list[type[Agent]]:
    module_name, _, attribute = name.partition(":")
    module = _import(module_name)
    if attribute:
        if not hasattr(module, attribute):
            raise ConfigurationError(f"{name}: {module.__file__} defines no {attribute!r}")
        return [getattr(module, attribute)]
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Agent) and value.__module__ == module.__name__
    ]
    if not found:
        raise ConfigurationError(f"{name}: {module.__file__} defines no subclass of lanewise.Agent")
    return found


def _import(name: str) -> ModuleType:
    threads = linux.threads()
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) or isinstance(error.__cause__, ModuleNotFoundError):
            raise _MissingModuleError(f"cannot import {name}: {_where(error)}") from error
        raise ConfigurationError(f"cannot import {name}: {_where(error)}") from error
    if not _fall_to(threads):
        raise ConfigurationError(
            f"importing {name} left a thread running, which a forked sandbox would not have: start it in execute() "
            f"instead (for numpy and its kind set OPENBLAS_NUM_THREADS=1)"
        )
    return module


def _fall_to(threads: int) -> bool:
    """Waits a moment for threads that are just ending: a joined one is still counted by the kernel for some time."""
    deadline = time.monotonic() + THREAD_END_S
    while linux.threads() > threads:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _where(error: BaseException) -> str:
    place = ""
    if isinstance(error, SyntaxError):
        place = f" ({error.filename}, line {error.lineno})"
    elif frames := [item for item in traceback.extract_tb(error.__traceback__) if "importlib" not in item.filename]:
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})"
    return f"{type(error).__name__}: {error}{place}"


def _is_ours(entry: EntryPoint) -> bool:
    return entry.dist is not None and entry.dist.name == OURS
