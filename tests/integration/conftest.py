"""Fixtures over real Postgres and Redis; the tests below this folder find them by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from shared.database import Database
from shared.redis import connect
from shared.services import Services
from shared.settings import Settings
from tests.services import OpenServices, Servers, Submit, submit_run, superuser_engine


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The embedded Postgres (with a migrated template database) and Redis of this session."""
    with Servers.start() as running:
        yield running


@pytest.fixture
def database_name(servers: Servers) -> Iterator[str]:
    """A migrated, empty database for this test alone."""
    with servers.new_database() as name:
        yield name


@pytest.fixture
def redis_client(servers: Servers) -> Iterator[redis.Redis]:
    """Redis, emptied after the test in all its databases."""
    with closing(connect(servers.redis.admin_url)) as client:
        yield client
        client.flushall()


@pytest.fixture
def settings(servers: Servers, database_name: str) -> Settings:
    """Settings for this test's database, with Redis keys of its own."""
    return servers.settings(database_name)


@pytest.fixture
def open_services(settings: Settings, redis_client: redis.Redis) -> Iterator[OpenServices]:
    """Opens further services over the same stores with other settings: `open_services(lease_s=1)`."""
    assert redis_client
    with ExitStack() as stack:

        def opener(**changes: Any) -> Services:
            services = Services.open(settings.model_copy(update=changes))
            stack.callback(services.close)
            return services

        yield opener


@pytest.fixture
def services(open_services: OpenServices) -> Services:
    """What a process of the fleet holds."""
    return open_services()


@pytest.fixture
def database(services: Services) -> Database:
    """The service role's way to sessions."""
    return services.database


@pytest.fixture
def run_database(settings: Settings) -> Iterator[Database]:
    """The sandboxes' way to sessions."""
    assert settings.run_database_url is not None
    with closing(Database(settings.run_database_url.get_secret_value(), pool_size=1)) as opened:
        yield opened


@pytest.fixture
def superuser(servers: Servers, database_name: str) -> Iterator[sa.Connection]:
    """A connection that row level security does not bind, to look behind the scenes; each statement commits."""
    with superuser_engine(servers.url(database_name)).connect() as connection:
        yield connection


@pytest.fixture
def submit(services: Services) -> Submit:
    """Stores a parked run: `submit("alice", agent=an_agent(max_attempts=1))`, see `submit_run`."""
    return partial(submit_run, services)
