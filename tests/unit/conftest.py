"""What tests of the client share: a scripted service, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lanewise import Client
from tests.scripted import Service, serving


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, "a-token", timeout_s=5, retry_s=5) as made:
        yield made
