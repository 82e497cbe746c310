"""Breaks a fleet on purpose. With this folder in PYTHONPATH every Python process of the fleet imports it first.

Each break is in force while a file of its name is in the folder that the variable SABOTAGE names.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


def broken(name: str) -> bool:
    return Path(os.environ["SABOTAGE"], name).exists()


def share_the_store(module: Any) -> None:
    right = module.Keys.store
    module.Keys.store = lambda keys, user_id, key: right(keys, "everybody" if broken("store") else user_id, key)


def publish_to_everybody(module: Any) -> None:
    right = module.publish
    users: set[str] = set()

    def publish(client: Any, keys: Any, stored: Any) -> None:
        stored = list(stored)
        users.update(item.event.user_id for item in stored)
        if broken("channel"):
            for user_id in list(users):
                client.publish(keys.events(user_id), json.dumps([item.view() for item in stored]))
        else:
            right(client, keys, stored)

    module.publish = publish


def forget_the_filter(module: Any) -> None:
    right = module._filtered

    def filtered(user_id: str, query: Any) -> Any:
        from sqlalchemy import select  # noqa: PLC0415 - nothing is imported before the fleet does it

        return select(module.models.Run) if broken("filter") else right(user_id, query)

    module._filtered = filtered


def log_what_agents_say(module: Any) -> None:
    right = module.Supervisor._log_trace

    def log_trace(supervisor: Any, frame: dict[str, Any]) -> None:
        if broken("log"):
            module.log.info("an agent raised", message=frame["message"])
        right(supervisor, frame)

    module.Supervisor._log_trace = log_trace


def share_memory(module: Any) -> None:
    """What the zygote maps as shared is the same memory in all sandboxes."""
    shared = mmap.mmap(-1, 1 << 16)

    def leave(places: Any) -> None:
        if broken("memory"):
            at = os.getpid() * 64 % (1 << 16)
            shared[at : at + 40] = places.thinking.encode()

    module.leave = leave


BREAKS: dict[str, Callable[[Any], None]] = {
    "shared.redis": share_the_store,
    "shared.events": publish_to_everybody,
    "api.resources.runs": forget_the_filter,
    "worker.supervise": log_what_agents_say,
    "tests.fleet.agents_acceptance": share_memory,
}


class Saboteur(importlib.abc.MetaPathFinder):
    """Has a module broken as soon as it has been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in BREAKS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            BREAKS[fullname](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Saboteur())
