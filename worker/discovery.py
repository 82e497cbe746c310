"""Finds the agents: installed entry points of the group `lanewise.agents`, and what `LANEWISE_AGENTS` names."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
import threading
import time
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import NamedTuple

from shared import linux
from shared.errors import ConfigurationError
from worker.authoring import Agent
from worker.places import full_name, where_raised
from worker.registry import AgentClassRegistry, needed_agents

GROUP = "lanewise.agents"
OURS = "lanewise"
THREAD_END_S = 0.5
CLOSE = 0.7  # how alike what is suggested has to be, from 0 to 1


class Loaded(NamedTuple):
    """The agents of a process.

    Args:
        registry: frozen.
        notes: on built-in agents left out because their extra is not installed.
        named: for each of the given names the agents that it stands for, each with the name of its class.
    """

    registry: AgentClassRegistry
    notes: list[str]
    named: dict[str, dict[str, str]]


def load_agents(names: Iterable[str]) -> Loaded:
    """Imports and registers every agent of this process.

    Args:
        names: `package.module` (every agent defined there) or `package.module:Class`.

    Raises:
        ConfigurationError: an agent that cannot be imported, is not sound, or leaves a thread running; with file, line
            and cure.
    """
    registry = AgentClassRegistry()
    notes: list[str] = []
    left_out: set[str] = set()
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            _register(registry, entry.value)
        except _MissingModuleError as error:
            if not _is_ours(entry):
                raise ConfigurationError(f"{error} (entry point {entry.name!r} of {_dist(entry)})") from None
            left_out.add(entry.name)
            extra = _extra(entry, error.module)
            notes.append(f"agent {entry.name!r} is left out: install lanewise[{extra}] for it ({error})")
        except ConfigurationError as error:
            raise ConfigurationError(f"{error} (entry point {entry.name!r} of {_dist(entry)})") from None
    _leave_out_who_needs(left_out, registry, notes)
    named = {name: _register(registry, name) for name in map(str.strip, names)}
    registry.freeze()
    return Loaded(registry, notes, named)


class _MissingModuleError(ConfigurationError):
    """A module that an agent imports is not installed."""

    def __init__(self, message: str, module: str) -> None:
        super().__init__(message)
        self.module = module


def _leave_out_who_needs(left_out: set[str], registry: AgentClassRegistry, notes: list[str]) -> None:
    """Takes back our own agents whose workflows need one that was left out; an author's would be refused."""
    for name in registry.names():
        missing = left_out & set(needed_agents(registry.get(name)))
        if missing and registry.get(name).__module__.startswith(f"{__package__}."):
            registry.leave_out(name)
            notes.append(f"agent {name!r} is left out: its workflow needs {', '.join(sorted(missing))}")


def _register(registry: AgentClassRegistry, name: str) -> dict[str, str]:
    classes = _load(name)
    for cls in classes:
        registry.register(cls)
    return {cls.name: cls.__name__ for cls in classes}


def _load(name: str) -> list[type[Agent]]:
    module_name, _, attribute = name.partition(":")
    module = _import(module_name)
    found = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Agent) and value.__module__ == module.__name__
    }
    if attribute:
        if not hasattr(module, attribute):
            raise ConfigurationError(f"{name}: {module.__file__} defines no {attribute!r}{_nearest(attribute, found)}")
        cls = getattr(module, attribute)
        if not (isinstance(cls, type) and issubclass(cls, Agent)):
            kind = full_name(cls) if isinstance(cls, type) else f"a {type(cls).__name__}"
            raise ConfigurationError(f"{name}: {kind} in {module.__file__} is not a subclass of Agent")
        return [cls]
    classes = [cls for cls in dict.fromkeys(found.values()) if not _is_base(cls, found.values())]
    if not classes:
        raise ConfigurationError(f"{name}: {module.__file__} defines no subclass of lanewise.Agent")
    return classes


def _is_base(cls: type[Agent], among: Iterable[type[Agent]]) -> bool:
    """Tells a class that only others are made of: it has no name, and they derive from it."""
    return not hasattr(cls, "name") and any(other is not cls and issubclass(other, cls) for other in among)


def _import(name: str) -> ModuleType:
    threads, known = linux.threads(), set(threading.enumerate())
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = next((one for one in (error, error.__cause__) if isinstance(one, ModuleNotFoundError)), None)
        if missing is not None:
            message = f"cannot import {name}: {_what(error)}{_cure(name, error)}"
            raise _MissingModuleError(message, missing.name or "") from error
        raise ConfigurationError(f"cannot import {name}: {_what(error)}") from error
    if not _fall_to(threads):
        left = ", ".join(thread.name for thread in threading.enumerate() if thread not in known)
        raise ConfigurationError(
            f"importing {name} left a thread running{f': {left}' if left else ''} ({module.__file__}); a forked "
            f"sandbox would not have it: start it in execute() instead "
            f"(for numpy and its kind set OPENBLAS_NUM_THREADS=1)"
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


def _what(error: BaseException) -> str:
    said = error.msg if isinstance(error, SyntaxError) else str(error)  # without its place, which follows
    first, *_ = said.strip().splitlines() or [""]
    return f"{type(error).__name__}: {first}{where_raised(error)}"


def _cure(name: str, error: BaseException) -> str:
    """Says what to do when the module itself, not one that it imports, is not there."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is None or not f"{name}.".startswith(f"{missing}."):
        return ""
    above, _, last = missing.rpartition(".")
    folders = getattr(importlib.import_module(above), "__path__", []) if above else None
    if folders == []:
        return f"; a class in a module is named as {above}:{last}"
    names = (module.name for module in pkgutil.iter_modules(folders))
    near = _nearest(missing, (f"{above}.{known}" if above else known for known in names))
    return near or ": install its package, start in its folder, or put that on PYTHONPATH"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=CLOSE)
    return f"; did you mean {near[0]!r}?" if near else ""


def _is_ours(entry: EntryPoint) -> bool:
    return entry.dist is not None and entry.dist.name == OURS


def _extra(entry: EntryPoint, module: str) -> str:
    """Returns which of our extras brings a module, as far as its package is called like it; else the agent's name."""
    requires = entry.dist.requires if entry.dist else None
    wanted = re.compile(rf"{re.escape(module.partition('.')[0])}\b.*extra == [\"'](\w+)[\"']", re.IGNORECASE)
    return next((found[1] for line in requires or () if (found := wanted.match(line))), entry.name)


def _dist(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name!r}" if entry.dist else "a package"
