"""What all tests share: an environment without our settings, and properties without a clock."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings as hypothesis_settings

# What starts fleets comes last, and of that first what has fleets of its own: the one that tests share goes on until
# all is over, and takes its part of the machine. Of both the long files come first, so that no process works on one
# alone while the others have nothing.
FOLDERS = ("tests/unit/", "tests/integration/")
LONG = (
    "rolling", "chaos_stream", "chaos", "celery_worker", "kills", "author_path", "up",
    "console", "isolation", "demo", "cancel",
)  # fmt: skip


def pytest_configure() -> None:
    # What the developer's shell or a running fleet has set must not decide what a test sees.
    for name in [name for name in os.environ if name.startswith("LANEWISE_")]:
        del os.environ[name]
    hypothesis_settings.register_profile("lanewise", deadline=None, print_blob=True, derandomize="CI" in os.environ)
    hypothesis_settings.load_profile("lanewise")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> tuple[int, int]:
        folder = next((n for n, name in enumerate(FOLDERS) if item.nodeid.startswith(name)), len(FOLDERS))
        name = item.path.stem.removeprefix("test_")
        return folder, LONG.index(name) if folder == len(FOLDERS) and name in LONG else len(LONG)

    items.sort(key=place)
