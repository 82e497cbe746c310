"""The part `lanes`: a fleet of two apis and three workers, twenty users and more, and a nemesis; then the checker."""

from __future__ import annotations

from tests.chaos.conductor import conduct
from tests.chaos.part import Options, say
from tests.chaos.plan import Plan
from tests.chaos.report import describe, report


def run(options: Options) -> bool:
    """Makes one run of the part and reports; tells whether all invariants held and enough faults were proven."""
    plan = Plan(
        options.seed,
        runs=options.runs or Plan.runs,
        faults=options.faults or Plan.faults,
        nemesis_s=60 * options.minutes if options.minutes else Plan.nemesis_s,
    )
    say(
        f"lanes: seed {plan.seed}, {plan.users} users, {plan.runs} runs with steps or more, {plan.faults} proven faults"
    )
    return report(conduct(plan, lambda fault: say(describe(fault))))
