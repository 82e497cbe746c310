"""What users ask for, decided by the seed before anything starts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Order:
    """One submission, and what its client does besides.

    Args:
        steps: with an effect in the database.
        pause_s: after each step, or altogether.
        cancel_after_s: None: it is left alone.
        again: whether the same request is sent once more after it was accepted.
        wait: whether its client waits for the end by a call.
    """

    agent: str
    steps: int
    pause_s: float
    cancel_after_s: float | None = None
    again: bool = False
    wait: bool = False

    def input(self, canary: str) -> dict[str, Any]:
        """Returns the input of the run."""
        return {"canary": canary, "steps": self.steps, "pause_s": self.pause_s}


def make_order(chance: random.Random) -> Order:
    """Returns the next one: mostly short, some long, some cancelled, some that block, some that fail by themselves."""
    again, wait = chance.random() < 0.1, chance.random() < 0.1
    draw = chance.random()
    if draw < 0.55:
        return Order("work", chance.randint(1, 3), chance.uniform(0, 0.1), again=again, wait=wait)
    if draw < 0.68:
        return Order("work", chance.randint(4, 8), chance.uniform(0.1, 0.6), again=again, wait=wait)
    if draw < 0.78:
        return Order("nap", 0, chance.uniform(0.2, 3), again=again, wait=wait)
    if draw < 0.86:
        return Order("block", 0, chance.uniform(0.2, 3), again=again, wait=wait)
    if draw < 0.91:
        return Order("fail", chance.randint(1, 2), 0.02, again=again)
    agent = chance.choice(("work", "nap", "block"))
    return Order(agent, 6 if agent == "work" else 0, chance.uniform(0.3, 1.5), chance.uniform(0, 1.5), again=again)
