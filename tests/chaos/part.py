"""What a part of the suite is asked to do, and what it answers."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Of the command line; None: the part's own.

    Args:
        seed: decides what users ask for and which faults come in which order.
        runs: how many at least.
        faults: how many proven ones.
        minutes: after these no new fault is made.
    """

    seed: int
    runs: int | None = None
    faults: int | None = None
    minutes: float | None = None


def say(text: str = "") -> None:
    """Prints a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
