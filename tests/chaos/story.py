"""A random schedule of what is published and what goes wrong on the way, over a few users and all who follow them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from lanewise.process import wait_until
from shared.retention import Retention
from tests.chaos.audience import Audience, Size
from tests.chaos.gateway_faults import GATEWAY_FAULTS, make_fault
from tests.chaos.gateways import Gateways
from tests.chaos.history import Fault
from tests.chaos.nemesis import schedule
from tests.chaos.script import WAYS, Script
from tests.chaos.silences import SILENCES
from tests.chaos.watch import Watch, judge

CALM_S = 40.0  # until every fault is over and everybody has caught up
SWEEP_S = 5.0  # within which the last event before a silence must be there: a sweep of 2 s, and time to read
TALK = {"events": 30, "burst": 3, "pause_s": 0.1}
AGE = """
    UPDATE lanewise.runs SET finished_at = now() - interval '400 days'
    WHERE user_id = :user AND status NOT IN ('queued', 'running')
"""


@dataclass(frozen=True)
class Plot:
    """What happens in one story.

    Args:
        kinds: of faults, each once in a round.
        faults: how many.
        silences: kinds of last events before a silence, one after the other.
        trims: whether old runs are removed in the middle, so that who comes later must be told.
        talks: whether real runs talk meanwhile.
    """

    seed: str
    users: int = 3
    size: Size = field(default_factory=Size)
    kinds: Sequence[str] = tuple(GATEWAY_FAULTS)
    faults: int = 9
    silences: Sequence[str] = tuple(SILENCES)
    pause_s: tuple[float, float] = (0.1, 0.8)
    trims: bool = True
    talks: bool = True


@dataclass
class Story:
    """What came of one."""

    faults: list[Fault] = field(default_factory=list)
    silences: list[str] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    violations: list[tuple[str, str]] = field(default_factory=list)
    committed: int = 0


class Teller:
    """Tells one story."""

    def __init__(self, gateways: Gateways, plot: Plot, tell: Callable[[Fault], None] = lambda _: None) -> None:
        self._gateways = gateways
        self._plot = plot
        self._tell = tell
        self._chance = random.Random(plot.seed)
        self._story = Story()
        self._people = [gateways.person(f"{plot.seed}-{n}".replace(" ", "-"), self._chance) for n in range(plot.users)]
        self._scripts = [Script(gateways.scene.fleet.services, person) for person in self._people]

    def run(self) -> Story:
        """Returns what was seen and what is wrong with it; the followers are gone then."""
        story, plot = self._story, self._plot
        audiences: list[Audience] = []
        with ExitStack() as stack:
            audiences.append(stack.enter_context(self._audience("first")))
            for number, kind in zip(range(1, plot.faults + 1), schedule(plot.seed, plot.kinds), strict=False):
                self._publish()
                story.faults.append(make_fault(self._gateways, plot.seed, number, kind))
                self._tell(story.faults[-1])
                time.sleep(self._chance.uniform(*plot.pause_s))
            self._settle(audiences, CALM_S, "calm")
            if plot.trims:
                self._trim()
                audiences.append(stack.enter_context(self._audience("second")))
                self._settle(audiences, CALM_S, "calm after trimming")
            for silence in plot.silences:
                SILENCES[silence](self._gateways, self._scripts)
                story.silences.append(silence)
                self._settle(audiences, SWEEP_S, silence)
        self._judge(audiences)
        return story

    def _audience(self, name: str) -> Audience:
        return Audience(self._gateways, self._people, self._plot.size, f"{self._plot.seed} {name}")

    def _publish(self) -> None:
        for script in self._scripts:
            script.play(self._chance.choice(WAYS), self._chance)
        if self._plot.talks:
            self._gateways.submit(self._chance.choice(self._people), **TALK)

    def _settle(self, audiences: list[Audience], within_s: float, what: str) -> None:
        """Waits for all talking runs to end and for all followers to have everything."""
        gateways, names = self._gateways, [person.name for person in self._people]
        if not wait_until(lambda: not gateways.talking(names), CALM_S):
            self._story.violations.append(("stuck", f"{what}: runs do not end"))
        heads = gateways.heads(names)
        if not wait_until(lambda: all(audience.are_at(heads) for audience in audiences), within_s):
            self._story.violations.append(("late", f"{what}: not everybody has everything within {within_s:g} s"))

    def _trim(self) -> None:
        """Removes the first script's run and all that has ended of its user, as after a long time.

        What old age removes no gateway has in memory any more, so they begin anew.
        """
        person, services = self._people[0], self._gateways.scene.fleet.services
        self._scripts[0].end()
        self._scripts[0] = Script(services, person)
        self._gateways.scene.stores.rows(f"{AGE} RETURNING id", user=person.name)
        assert Retention(services.database, 365).remove_old().events
        for gateway in self._gateways.scene.fleet.processes()["api.worker"]:
            gateway.kill()
            gateway.wait(CALM_S)

    def _judge(self, audiences: list[Audience]) -> None:
        story, logs = self._story, self._gateways.logs()
        canaries = {person.name: person.canary for person in self._people}
        story.watches = [watch for audience in audiences for watch in audience.watches]
        for watch in story.watches:
            story.violations += judge(watch, logs[watch.user], canaries[watch.user])
        story.committed = sum(logs[person.name].head for person in self._people)
        seen = sum(len(watch.seqs) for watch in story.watches)
        if seen < story.committed:
            story.violations.append(("enough", f"{seen} of {story.committed} events were seen"))
        if "flood" in story.silences and not any(watch.cuts["closed 4408"] for watch in story.watches):
            story.violations.append(("enough", "the flood was too slow for nobody"))
        if self._plot.trims and not any(watch.told for watch in audiences[1].watches):
            story.violations.append(("told", "nobody was told that the log is trimmed"))
