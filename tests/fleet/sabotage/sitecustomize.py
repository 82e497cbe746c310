"""Breaks a fleet on purpose. With this folder in PYTHONPATH every Python process of the fleet imports it first.

Each break is in force while a file of its name is in the folder that the variable SABOTAGE names.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.sabotage import Saboteur

FILTER = re.compile(r"\b(\w+\.)*user_id = %\(\w+\)s")
WRITING = re.compile(r"\b(INSERT|UPDATE|DELETE)\b")


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


def forget_filters(_module: Any) -> None:
    """No query of the api says any more whose rows it wants."""
    from sqlalchemy import event  # noqa: PLC0415 - nothing is imported before the fleet does it
    from sqlalchemy.engine import Engine  # noqa: PLC0415

    @event.listens_for(Engine, "before_cursor_execute", retval=True)
    def forget(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        if broken("filter") and not WRITING.search(statement):
            statement = FILTER.sub("true", statement)
        return statement, parameters


def log_what_agents_say(module: Any) -> None:
    right = module.describe_trace
    module.describe_trace = lambda error: str(error) if broken("log") else right(error)


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
    "api.wsgi": forget_filters,
    "worker.core": log_what_agents_say,
    "tests.fleet.agents_acceptance": share_memory,
}


sys.meta_path.insert(0, Saboteur(BREAKS))
