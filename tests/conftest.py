"""What all tests share: an environment without our settings, properties without a clock, and who runs what."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings as hypothesis_settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.fleet.fleet import fleet, user

__all__ = ["fleet", "user"]

OWN_FLEETS = {
    "author_path",
    "celery_worker",
    "chaos",
    "chaos_stream",
    "kills",
    "queues",
    "rolling",
    "up",
    "user_deletion",
}
SHARED_FLEET = {"browser/test_console", "browser/test_javascript"}
ORDER = ("fleet/", "browser/", "integration/", "unit/")


def pytest_configure() -> None:
    # What the developer's shell or a running fleet has set must not decide what a test sees.
    for name in [name for name in os.environ if name.startswith("LANEWISE_")]:
        del os.environ[name]
    hypothesis_settings.register_profile("lanewise", deadline=None, print_blob=True, derandomize="CI" in os.environ)
    hypothesis_settings.load_profile("lanewise")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Unit tests come last: their files are short, so that no process works on alone at the end.
    items.sort(key=lambda item: next((n for n, folder in enumerate(ORDER) if _file(item.nodeid).startswith(folder)), 0))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return Scheduling(config, log)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist is published without types
    """One process takes all tests of the shared fleet, another those with fleets of their own: each is many processes.

    All others take the rest file by file, so that fixtures of a module are made once.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = _file(nodeid)
        if file.removeprefix("fleet/test_") in OWN_FLEETS:
            return "fleets of their own"
        return "the shared fleet" if file.startswith("fleet/") or file in SHARED_FLEET else file


def _file(nodeid: str) -> str:
    return nodeid.partition(".py::")[0].removeprefix("tests/")
