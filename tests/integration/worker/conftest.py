"""Sandboxes of a real zygote, and attempts in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from shared.services import Services
from tests.nodes import Node
from tests.sandboxes import Attempt, a_zygote, worker_environment
from tests.services import OpenServices, Servers
from worker.zygote_client import ZygoteClient


class Begin(Protocol):
    """Begins an attempt: `begin("chatty", {"events": 3}, grace_s=1)`; see `Attempt`."""

    def __call__(self, agent: str, run_input: dict[str, Any] | None = None, **options: Any) -> Attempt: ...


@pytest.fixture(scope="session")
def zygote() -> Iterator[ZygoteClient]:
    """One zygote for all tests that leave it alive."""
    with a_zygote() as running:
        yield running


@pytest.fixture
def own_zygote() -> Iterator[ZygoteClient]:
    """A zygote for a test that does not; it can be started again."""
    with worker_environment(), a_zygote() as running:
        yield running


@pytest.fixture
def begin(zygote: ZygoteClient) -> Iterator[Begin]:
    """Attempts in sandboxes of the common zygote; what still runs after the test is ended."""
    begun: list[Attempt] = []

    def begin(agent: str, run_input: dict[str, Any] | None = None, **options: Any) -> Attempt:
        attempt = Attempt(options.pop("zygote", zygote), agent, run_input or {}, **options)
        begun.append(attempt)
        return attempt

    yield begin
    for attempt in begun:
        attempt.end()


@pytest.fixture
def quick(servers: Servers, database_name: str, open_services: OpenServices) -> Services:
    """A worker's stores, with short sweeps and graces. The lease is long: tests set clocks back instead of waiting."""
    stores = servers.settings(database_name, "worker")
    return open_services(redis_url=stores.redis_url, broker_url=stores.broker_url, sweep_s=0.1, cancel_grace_s=0.3)


@pytest.fixture
def node(quick: Services, zygote: ZygoteClient) -> Iterator[Node]:
    """A worker over these stores; none of its loops runs."""
    with Node.start(quick, zygote) as running:
        yield running
