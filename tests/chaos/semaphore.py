"""The part `semaphore`: the state machine of `tests.lanes` at length, over stores of its own."""

from __future__ import annotations

import time
import traceback
from contextlib import closing

from shared.services import Services
from tests.chaos.part import Options, say
from tests.lanes import run_lanes
from tests.services import Servers, superuser_engine

STEPS = 20_000
STORIES, STEPS_EACH = 50, 60
MINUTES = 15.0


def run(options: Options) -> bool:
    """Makes at least 20,000 steps, in stories that the seed decides; tells whether every promise held."""
    say(f"semaphore: seed {options.seed}, at least {STEPS} steps")
    began, steps, batch = time.monotonic(), 0, 0
    with Servers.start() as servers, servers.new_database() as name:
        settings = servers.settings(name, sweep_s=0.1)
        with closing(Services.open(settings)) as services, superuser_engine(servers.url(name)).connect() as superuser:
            while steps < STEPS and time.monotonic() - began < 60 * (options.minutes or MINUTES):
                try:
                    steps += run_lanes(services, superuser, STORIES, STEPS_EACH, options.seed + batch)
                except Exception:  # noqa: BLE001 - a broken promise, with the shortest story that breaks it
                    say(traceback.format_exc())
                    return False
                batch += 1
    say(f"semaphore: {steps} steps in {time.monotonic() - began:.0f} s, {'enough' if steps >= STEPS else 'TOO FEW'}")
    return steps >= STEPS
