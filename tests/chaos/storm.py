"""The part `storm`: a thousand sockets over two gateways, all of them cut again and again while runs talk."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from lanewise.process import wait_until
from tests.chaos.audience import Audience, Size
from tests.chaos.gateway_faults import make_fault
from tests.chaos.gateways import Gateways, Person
from tests.chaos.history import Fault
from tests.chaos.nemesis import schedule
from tests.chaos.part import Options, say
from tests.chaos.report import describe
from tests.chaos.watch import Log, Watch, judge

PROCESSES = 2
KINDS = ("gateway.cut", "gateway.cut", "gateway.cut", "gateway.drain", "gateway.kill")
ENDED_S, CAUGHT_UP_S = 120.0, 40.0
WORKERS, SLOTS = 2, 14
INVARIANTS = ("lost", "doubled", "order", "changed", "foreign", "told")
SHOWN = 20  # complaints


@dataclass(frozen=True)
class StormPlan:
    """One storm.

    Args:
        sockets: of each user, half of them in each client process.
        cuts: of each socket, by its own client.
        least_cuts: so many each socket must have had, whoever made them.
        runs: of each user, one after the other.
        events: that each of them says.
        burst: how many of them at once.
        pause_s: after each burst.
        over_s: the time within which clients cut and faults are made.
        faults: that are made meanwhile.
        least_committed: so many events there must be.
        least_delivered: so many must have come to all sockets together.
    """

    seed: int
    users: int = 50
    sockets: int = 20
    cuts: int = 10
    least_cuts: int = 10
    runs: int = 4
    events: int = 270
    burst: int = 10
    pause_s: float = 0.7
    over_s: float = 165.0
    faults: int = 20
    least_committed: int = 50_000
    least_delivered: int = 1_000_000


@dataclass
class Storm:
    """What came of it."""

    plan: StormPlan
    watches: list[Watch] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    violations: list[tuple[str, str]] = field(default_factory=list)
    committed: int = 0
    took_s: float = 0.0

    @property
    def delivered(self) -> int:
        """How many events all sockets accepted."""
        return sum(len(watch.seqs) for watch in self.watches)


def run(options: Options) -> bool:
    """Makes one storm and reports."""
    plan = StormPlan(options.seed)
    say(f"storm: seed {plan.seed}, {plan.users} users with {plan.sockets} sockets each")
    with Gateways.start(workers=WORKERS, slots=SLOTS, env={"LANEWISE_USER_CONCURRENT_RUNS": "1"}) as gateways:
        storm = rage(gateways, plan, lambda fault: say(describe(fault)))
    return report(storm)


def rage(gateways: Gateways, plan: StormPlan, tell: Callable[[Fault], None] = lambda _: None) -> Storm:
    """Makes a storm over a fleet of which nothing else is asked meanwhile."""
    storm, chance = Storm(plan), random.Random(f"storm {plan.seed}")
    people = [gateways.person(f"storm-{plan.seed}-{number}", chance) for number in range(plan.users)]
    names = [person.name for person in people]
    size = Size(PROCESSES, plan.sockets // PROCESSES, plan.cuts, plan.over_s, readers=0)
    audience = Audience(gateways, people, size, f"storm {plan.seed}")
    _submit(gateways, plan, people)  # first: the thousand that come keep the gateways busy
    began = time.monotonic()
    with audience:
        for number, kind in zip(range(1, plan.faults + 1), schedule(plan.seed, KINDS), strict=False):
            time.sleep(max(0.0, began + number * plan.over_s / (plan.faults + 1) - time.monotonic()))
            storm.faults.append(make_fault(gateways, plan.seed, number, kind))
            tell(storm.faults[-1])
        if not wait_until(lambda: not gateways.talking(names), ENDED_S):
            storm.violations.append(("enough", "runs do not end"))
        heads = gateways.heads(names)
        wait_until(lambda: audience.are_at(heads), CAUGHT_UP_S)
    storm.watches = audience.watches
    _judge(storm, gateways.logs(), people)
    storm.took_s = time.monotonic() - began
    return storm


def _submit(gateways: Gateways, plan: StormPlan, people: list[Person]) -> None:
    for _ in range(plan.runs):
        for person in people:
            gateways.submit(person, events=plan.events, burst=plan.burst, pause_s=plan.pause_s)


def _judge(storm: Storm, logs: dict[str, Log], people: list[Person]) -> None:
    plan = storm.plan
    canaries = {person.name: person.canary for person in people}
    for watch in storm.watches:
        storm.violations += judge(watch, logs[watch.user], canaries[watch.user])
        if sum(watch.cuts.values()) < plan.least_cuts or canaries[watch.user] not in watch.canaries:
            storm.violations.append(("enough", f"{watch.user}, {watch.name}: {watch.cuts}, {len(watch.canaries)} seen"))
    storm.committed = sum(len(logs[person.name].digests) for person in people)
    proven = Counter(fault.kind for fault in storm.faults if fault.proven)
    sockets = len(storm.watches)
    least = {
        f"{storm.committed} events committed": storm.committed >= plan.least_committed,
        f"{storm.delivered} events delivered": storm.delivered >= plan.least_delivered,
        f"{sockets} sockets": sockets == plan.users * plan.sockets,
        f"faults proven: {dict(proven)}": set(proven) == set(KINDS),
        "cuts within a replay": sum(watch.in_replay for watch in storm.watches) >= sockets // 4,
        "moves to the other gateway": sum(watch.moves for watch in storm.watches) >= sockets,
    }
    storm.violations += [("enough", f"too few: {what}") for what, well in least.items() if not well]


def report(storm: Storm) -> bool:
    """Prints the figures; tells whether all was well."""
    cuts: Counter[str] = sum((watch.cuts for watch in storm.watches), Counter())
    each = [sum(watch.cuts.values()) for watch in storm.watches]
    say(f"sockets:         {len(storm.watches)} of {storm.plan.users} users in {PROCESSES} client processes")
    say(f"events:          {storm.committed} committed, {storm.delivered} delivered")
    say(f"cuts:            {sum(each)}, {min(each)} to {max(each)} of each socket, "
        f"{sum(watch.in_replay for watch in storm.watches)} within a replay")  # fmt: skip
    say(f"                 {', '.join(f'{name}: {n}' for name, n in sorted(cuts.items()))}")
    say(f"moves:           {sum(watch.moves for watch in storm.watches)} to the other gateway")
    broken = Counter(name for name, _ in storm.violations)
    say("                 " + ", ".join(f"{name} {broken[name]}" for name in INVARIANTS))
    for name, detail in storm.violations[:SHOWN]:
        say(f"VIOLATED {name}: {detail}")
    say(f"seed {storm.plan.seed}: {storm.took_s:.0f} s")
    return not storm.violations
