"""Breaks modules of a fleet's processes as soon as they have been imported there, for tests that must notice."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any


class Saboteur(importlib.abc.MetaPathFinder):
    """Goes in front of `sys.meta_path`.

    Args:
        breaks: what is done to a module, by the module's name.
    """

    def __init__(self, breaks: Mapping[str, Callable[[Any], None]]) -> None:
        self._breaks = breaks

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Returns a spec whose module is broken once it is there; None for all other modules."""
        if fullname not in self._breaks:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._breaks[fullname](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
