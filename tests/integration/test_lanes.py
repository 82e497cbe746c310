"""A bounded share of what `make chaos` does at length: see `tests.lanes`."""

from __future__ import annotations

import os

import sqlalchemy as sa

from shared.services import Services
from tests.lanes import run_lanes


def test_limits_hold_slots_are_used_and_every_run_ends_once(services: Services, superuser: sa.Connection) -> None:
    run_lanes(services, superuser, examples=int(os.environ.get("EX", "15")), steps=40)
