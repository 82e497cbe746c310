"""Takes walls down, for the controls of the escapes. With this folder in PYTHONPATH the zygote imports it first.

A wall is down in a sandbox that begins while a file of its name is in the folder that the variable WALLS_DOWN names.
What stands round the zygote otherwise is raised by each sandbox here, so that it can be down for one of them. That the
zygote adopts orphans is of the zygote itself: its file has to be there when it starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.sabotage import Saboteur

down: set[str] = set()


def look() -> None:
    down.update(path.name for path in Path(os.environ["WALLS_DOWN"]).iterdir())


def unless_down(wall: str, raise_it: Callable[..., None]) -> Callable[..., None]:
    def raise_unless_down(*args: Any, **options: Any) -> None:
        if wall not in down:
            raise_it(*args, **options)

    return raise_unless_down


def of_linux(module: Any) -> None:
    module.give_up_privileges = unless_down("privileges", module.give_up_privileges)
    module.keep_capabilities = unless_down("capabilities", module.keep_capabilities)
    module.become_subreaper = unless_down("subreaper", module.become_subreaper)


def of_landlock(module: Any) -> None:
    module.Ruleset.enforce = unless_down("landlock", module.Ruleset.enforce)


def of_seccomp(module: Any) -> None:
    module.Filter.enforce = unless_down("filter", module.Filter.enforce)


def of_account(module: Any) -> None:
    module.take = unless_down("account", module.take)


def of_walls(module: Any) -> None:
    module._lower = unless_down("limits", module._lower)
    enclose, enter = module.Walls.enclose, module.Walls.enter

    def enclose_and_enter(walls: Any) -> None:
        look()  # now: behind a wall it could not be read any more
        enclose(walls)
        enter(walls)

    module.Walls.enclose = lambda _: None
    module.Walls.enter = enclose_and_enter


if "WALLS_DOWN" in os.environ:
    look()
    sys.meta_path.insert(
        0,
        Saboteur(
            {
                "shared.linux": of_linux, "worker.walls.landlock": of_landlock, "worker.walls.seccomp": of_seccomp,
                "worker.walls.account": of_account, "worker.walls": of_walls,
            }
        ),
    )  # fmt: skip
