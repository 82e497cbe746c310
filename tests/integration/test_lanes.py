"""A bounded share of what `make chaos` does at length: see `tests.lanes`."""

from __future__ import annotations

import sqlalchemy as sa

from shared.services import Services
from tests.lanes import run_lanes


def test_limits_hold_slots_are_used_and_every_run_ends_once(services: Services, superuser: sa.Connection) -> None:
    assert run_lanes(services, superuser, examples=12, steps=40) > 300
