"""A bounded slice of the fault suite (`make chaos` runs all of it): the same fleet, nemesis and checker, one seed."""

from __future__ import annotations

import pytest

from tests.chaos.conductor import conduct
from tests.chaos.history import Fault
from tests.chaos.plan import Plan
from tests.chaos.report import describe

SEED = 7
KINDS = (
    "sandbox.kill", "worker.kill", "zygote.kill", "api.worker.kill", "redis.empty", "redis.cut", "postgres.restart",
    "postgres.cut", "commit.lost", "message.double",
)  # fmt: skip


@pytest.mark.timeout(240)  # two cores may be shared with other tests
def test_what_clients_recorded_under_faults_satisfies_every_invariant() -> None:
    told: list[str] = []

    def tell(fault: Fault) -> None:
        told.append(describe(fault))

    plan = Plan(SEED, users=10, runs=90, faults=9, kinds=KINDS, pause_s=(0.3, 1.2), nemesis_s=40, pace_s=1, stuck_s=30)
    verdict = conduct(plan, tell)
    assert verdict.violations == [], "\n".join([f"seed {SEED}, state in {verdict.folder}", *told])
    proven = {fault.kind for fault in verdict.history.faults if fault.proven}
    assert len(proven) >= 8, told
    assert sum(accepted.steps > 0 for accepted in verdict.history.accepted.values()) >= plan.runs
