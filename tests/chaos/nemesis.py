"""The nemesis: makes faults in an order that the seed decides, until enough of them are proven."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence

from lanewise.process import wait_until
from tests.chaos.faults import FAULTS, PASSING, Scene
from tests.chaos.history import Fault

IN_FLIGHT_S = 20.0
TRIES = 1.6  # a fault that cannot be proven is made again later; so many times as many at the most


def schedule(seed: object, kinds: Sequence[str]) -> Iterator[str]:
    """Yields kinds for ever: each comes once in each round, the rounds shuffled by the seed."""
    chance = random.Random(f"faults {seed}")
    while True:
        yield from chance.sample(kinds, len(kinds))


class Nemesis:
    """Makes faults, one after the other; belongs to the thread that has started the servers.

    Args:
        wanted: how many have to be proven.
        pause_s: between two, at least and at most.
        until: the moment (monotonic) at which it stops in any case.
        tell: is told of each fault.
    """

    def __init__(  # noqa: PLR0913 - what decides a run
        self,
        scene: Scene,
        seed: int,
        kinds: Sequence[str],
        *,
        wanted: int,
        pause_s: tuple[float, float],
        until: float,
        tell: Callable[[Fault], None],
    ) -> None:
        self._scene = scene
        self._seed = seed
        self._kinds = kinds
        self._wanted = wanted
        self._pause_s = pause_s
        self._until = until
        self._tell = tell

    def run(self) -> None:
        """Stops when enough faults are proven, or at the given moment."""
        faults = self._scene.history.faults
        for number, kind in enumerate(schedule(self._seed, self._kinds), 1):
            if sum(fault.proven for fault in faults) >= self._wanted or number > TRIES * self._wanted:
                return
            if time.monotonic() >= self._until:
                return
            # A chance of its own for each: what one fault draws must not move the next.
            chance = random.Random(f"{self._seed} {number} {kind}")
            faults.append(self._make(number, kind, chance))
            self._tell(faults[-1])
            time.sleep(chance.uniform(*self._pause_s))

    def _make(self, number: int, kind: str, chance: random.Random) -> Fault:
        wait_until(lambda: self._scene.running() > 0, IN_FLIGHT_S)
        running, at, began = self._scene.running(), time.time(), time.monotonic()
        try:
            proof = FAULTS[kind](self._scene, chance)
        except PASSING as error:
            proof = {}
            self._scene.history.refusals[f"fault {kind}: {type(error).__name__}"] += 1
        return Fault(number, kind, at, round(time.monotonic() - began, 2), running, proof)
