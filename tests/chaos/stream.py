"""The part `stream`: one story after the other over one fleet with two gateways."""

from __future__ import annotations

import time
from collections import Counter

from tests.chaos.gateway_faults import GATEWAY_FAULTS
from tests.chaos.gateways import Gateways
from tests.chaos.part import Options, say
from tests.chaos.report import describe
from tests.chaos.story import Plot, Story, Teller

MINUTES = 3.5
LEAST = 50  # proven faults
WORKERS, SLOTS = 2, 6


def run(options: Options) -> bool:
    """Tells stories until there are enough proven faults of each kind; tells whether all were well."""
    began, least = time.monotonic(), options.faults or LEAST
    say(f"stream: seed {options.seed}, at least {least} proven faults")
    stories: list[Story] = []
    with Gateways.start(workers=WORKERS, slots=SLOTS) as gateways:
        while _proven(stories).total() < least and time.monotonic() - began < 60 * (options.minutes or MINUTES):
            plot = Plot(f"story {options.seed} {len(stories)}")
            stories.append(Teller(gateways, plot, lambda fault: say(describe(fault))).run())
            for name, detail in stories[-1].violations:
                say(f"VIOLATED {name}: {detail}")
    return report(stories, least, time.monotonic() - began)


def report(stories: list[Story], least: int, took_s: float) -> bool:
    """Prints the figures; tells whether all was well."""
    proven, made = _proven(stories), Counter(fault.kind for story in stories for fault in story.faults)
    say("fault                made  proven")
    for kind in GATEWAY_FAULTS:
        say(f"{kind:20} {made[kind]:4} {proven[kind]:7}")
    silences = Counter(silence for story in stories for silence in story.silences)
    watches = [watch for story in stories for watch in story.watches]
    say(f"silences after:  {', '.join(f'{name} {count}' for name, count in silences.items())}")
    say(f"events:          {sum(story.committed for story in stories)} committed, "
        f"{sum(len(watch.seqs) for watch in watches)} seen by {len(watches)} followers")  # fmt: skip
    say(f"cuts:            {sum(watch.cuts.total() for watch in watches)} of plain clients, "
        f"{sum(bool(watch.told) for watch in watches)} followers told of a trimmed log")  # fmt: skip
    broken = Counter(name for story in stories for name, _ in story.violations)
    enough = proven.total() >= least and set(proven) == set(GATEWAY_FAULTS)
    say(
        f"{len(stories)} stories in {took_s:.0f} s, {proven.total()} proven faults: {'enough' if enough else 'TOO FEW'}"
    )
    say("all invariants held" if not broken else f"VIOLATED: {dict(broken)}")
    return enough and not broken


def _proven(stories: list[Story]) -> Counter[str]:
    return Counter(fault.kind for story in stories for fault in story.faults if fault.proven)
