"""What one run of a fleet under faults consists of, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.checker import Violation
from tests.chaos.faults import FAULTS
from tests.chaos.history import History
from tests.chaos.stores import Stores


@dataclass(frozen=True)
class Plan:
    """One run of the part.

    Args:
        seed: of everything that chance decides.
        users: how many.
        runs: with steps, of all users together, at least; others come besides.
        faults: proven ones.
        kinds: of faults.
        pause_s: between two faults, at least and at most.
        nemesis_s: after this no new fault is made.
        pace_s: between the submissions of one user, on average.
        stuck_s: without any progress for so long the suite gives up.
        slots: of each worker.
        env: settings besides those of every run.
        prepare: what is done to the stores before users come.
    """

    seed: int
    users: int = 20
    runs: int = 2_000
    faults: int = 100
    kinds: Sequence[str] = tuple(FAULTS)
    pause_s: tuple[float, float] = (2.0, 5.0)
    nemesis_s: float = 1_200.0
    pace_s: float = 4.0
    stuck_s: float = 60.0
    slots: int = 2  # so few that messages wait in the broker
    env: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[Stores], None] = lambda _: None


@dataclass(frozen=True)
class Verdict:
    """How it went.

    Args:
        folder: where the history, the stores' state and the logs are; None: nothing was wrong.
    """

    plan: Plan
    history: History
    violations: list[Violation]
    took_s: float
    folder: Path | None
