"""Takes the walls of sandboxes away, so that a benchmark tells what they cost. With this folder in PYTHONPATH only.

What is left is what a run needs to be one at all: a folder, an environment of its own, the limit of memory.
"""

# ruff: noqa: SLF001 - it stands in for the class's own methods
from __future__ import annotations

import os
import resource
from typing import Any

from worker.walls import Walls


def _enter(walls: Any) -> None:
    folder = walls._own_folder()
    os.mkdir(folder, mode=0o700)  # noqa: PTH102 - as in what it replaces
    os.chdir(folder)
    os.environ["HOME"] = os.environ["TMPDIR"] = folder
    resource.setrlimit(resource.RLIMIT_AS, (walls._address_space, walls._address_space))


INSTEAD = {"enclose": lambda _: None, "enter": _enter, "close": lambda _, **__: None}
for name, method in INSTEAD.items():
    setattr(Walls, name, method)
