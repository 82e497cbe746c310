"""What all tests share: an environment without our settings, and properties without a clock."""

from __future__ import annotations

import os

from hypothesis import settings as hypothesis_settings


def pytest_configure() -> None:
    # What the developer's shell or a running fleet has set must not decide what a test sees.
    for name in [name for name in os.environ if name.startswith("LANEWISE_")]:
        del os.environ[name]
    hypothesis_settings.register_profile("lanewise", deadline=None, print_blob=True, derandomize="CI" in os.environ)
    hypothesis_settings.load_profile("lanewise")
