"""What all tests share: an environment without our settings, properties without a clock, and who runs what."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings as hypothesis_settings

from tests.fleet.fleet import fleet, user

__all__ = ["fleet", "user"]
SHARED, OWN = "shared-fleet", "own-fleets"
FIRST = (OWN, SHARED, "integration/", "browser/")


def pytest_configure() -> None:
    # What the developer's shell or a running fleet has set must not decide what a test sees.
    for name in [name for name in os.environ if name.startswith("LANEWISE_")]:
        del os.environ[name]
    hypothesis_settings.register_profile("lanewise", deadline=None, print_blob=True, derandomize="CI" in os.environ)
    hypothesis_settings.load_profile("lanewise")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has one process take all tests of the shared fleet and another those with fleets of their own.

    A fleet is many processes, so no more than two are up at once; all others take the rest, file by file, the files of
    `tests/unit/` last: they are short, so that nobody works on alone at the end.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: next((n for n, name in enumerate(FIRST) if _group(item).startswith(name)), len(FIRST)))


def _group(item: pytest.Item) -> str:
    if "fleet" in getattr(item, "fixturenames", ()):
        return SHARED
    path = item.nodeid.partition(".py::")[0].removeprefix("tests/")
    return OWN if path.startswith("fleet/") else path
