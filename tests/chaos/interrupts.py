"""The part `interrupts`: runs are ended in the middle of their calls, and no reply reaches another caller."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.chaos.callers import CALLS
from tests.chaos.interrupt_sabotage import CONTROLS
from tests.chaos.part import Options, say
from tests.chaos.sabotage import sabotaged
from tests.chaos.waves import ENDS, Plan, Result, Waves
from tests.fleet.fleet import Fleet, marks

SHOWN = 10
BROKEN_RUNS = 80


def run(options: Options) -> bool:
    """Makes the long run and reports; tells whether enough happened and nobody got what is another's."""
    plan = Plan(options.seed, runs=options.runs or Plan.runs)
    say(f"interrupts: seed {plan.seed}, {plan.runs} runs are ended")
    return report(interrupt(plan))


def interrupt(plan: Plan) -> Result:
    """Makes one run of the part; everything is ended when it returns."""
    slots = plan.at_once + plan.neighbours  # of each worker: ended runs hold theirs for a moment
    env = {
        "LANEWISE_AGENTS": "tests.chaos.callers", "LANEWISE_CANCEL_GRACE_S": "0.1",
        "LANEWISE_USER_CONCURRENT_RUNS": "8", **plan.env,
    }  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="lanewise-marks-", dir=marks()) as folder,
        Fleet.start("--workers", "2", "--slots", str(slots), "--no-flower", env=env) as fleet,
    ):
        return Waves(fleet, Path(folder), plan).run()


def report(result: Result) -> bool:
    """Prints the figures; tells whether enough happened and nobody got what is another's."""
    say("call under way        " + "".join(f"{how:>10}" for how in ENDS))
    for kind in CALLS:
        say(f"{kind:22}" + "".join(f"{result.middle[how, kind]:10}" for how in ENDS))
    say(f"{'none':22}" + "".join(f"{result.ended[how] - result.in_the_middle(how):10}" for how in ENDS))
    say(f"answers checked:      {', '.join(f'{count} {who}' for who, count in sorted(result.checked.items()))}")
    say(f"requests hung up:     {result.hung_up}")
    for name, found in (("FOREIGN", result.foreign), ("BROKEN", result.broken)):
        for text in found[:SHOWN]:
            say(f"{name} {text}")
    enough = result.is_enough()
    say(
        f"seed {result.plan.seed}: {result.took_s:.0f} s, {result.ended.total()} runs ended, "
        f"{result.middle.total()} of them in the middle of a call, {len(result.foreign)} foreign answers: "
        f"{'enough' if enough else 'TOO FEW'}"
    )
    return enough and not result.foreign and not result.broken


def is_found(name: str, seed: int) -> bool:
    """Makes a short run with something broken; tells whether a foreign answer was seen; with a control, none."""
    say(f"break {name}: {'nothing' if name in CONTROLS else 'foreign'} must fail")
    with sabotaged("tests.chaos.interrupt_sabotage", name) as env:
        result = interrupt(Plan(seed, runs=BROKEN_RUNS, env=env))
    report(result)
    return not result.foreign and not result.broken if name in CONTROLS else bool(result.foreign)
