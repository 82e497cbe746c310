"""A slice of `make chaos PART=fuzz`: the same makers and checks, one seed. That of REST is `test_openapi.py`."""

from __future__ import annotations

import pytest

from tests.chaos.fuzz import Amounts, conduct, too_little
from tests.services import Servers

SEED = 7
SLICE = Amounts(codec=1200, frames=900, messages=500, runs=25, sockets=120, http=60, rest=0)


@pytest.mark.timeout(240)  # two cores may be shared with other tests
def test_odd_inputs_end_as_documented(servers: Servers) -> None:
    tally = conduct(servers, SEED, SLICE)
    assert tally.findings == [], f"seed {SEED}\n{tally.report()}"
    assert too_little(tally) == [], tally.report()
