"""Bounded slices of the parts `storm` and `stream` (`make chaos` has all of them), over one fleet with two gateways."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.audience import Size
from tests.chaos.gateways import Gateways
from tests.chaos.report import describe
from tests.chaos.storm import StormPlan, rage
from tests.chaos.story import Plot, Teller

SEED = 7
pytestmark = pytest.mark.timeout(150)  # two cores may be shared with other tests


@pytest.fixture(scope="module")
def gateways() -> Iterator[Gateways]:
    with Gateways.start(workers=2, slots=8) as running:
        yield running


def test_a_storm_of_reconnects_loses_doubles_and_mixes_nothing(gateways: Gateways) -> None:
    plan = StormPlan(
        SEED,
        users=10,
        sockets=6,
        cuts=3,
        least_cuts=3,
        runs=4,
        events=60,
        pause_s=0.6,
        over_s=6,
        faults=5,
        least_committed=2_400,
        least_delivered=12_000,
    )
    assert rage(gateways, plan).violations == []


def test_followers_have_the_log_whatever_lies_between(gateways: Gateways) -> None:
    plot = Plot(
        f"bounded {SEED}",
        users=2,
        size=Size(over_s=3),
        faults=9,
        pause_s=(0, 0.2),
        silences=("unpublished", "subscriptions killed", "gap"),
    )
    story = Teller(gateways, plot).run()
    assert story.violations == []
    proven = {fault.kind for fault in story.faults if fault.proven}
    assert len(proven) >= 7, [describe(fault) for fault in story.faults]
