"""A bounded slice of the part `interrupts` (`make chaos` has all of it): runs end in the middle of their calls."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.waves import ENDS, Plan, Waves
from tests.fleet.fleet import Fleet

SEED = 7


def test_no_reply_reaches_another_caller_when_runs_end_in_the_middle_of_calls(fleet: Fleet, tmp_path: Path) -> None:
    result = Waves(fleet, tmp_path, Plan(SEED, runs=30, neighbours=2)).run()
    assert result.foreign == []
    assert result.broken == []
    assert all(result.in_the_middle(how) >= 2 for how in ENDS), result.middle
    assert result.middle.total() >= 12
    assert len({kind for _, kind in result.middle}) >= 3
    assert min(result.checked[who] for who in ("ended runs'", "neighbours'", "the api's", "events")) >= 10
