"""Fixtures over whole fleets."""

from __future__ import annotations

from tests.fleet.fleet import fleet, user

__all__ = ["fleet", "user"]
