"""The api under test: in this process over WSGI, or as a real gunicorn process where greenlets and sockets matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from flask import Flask

from api.app import create_app
from api.state import EXTENSION
from shared.ids import new_id
from shared.services import Services
from shared.settings import Settings
from shared.tokens import make_token
from tests.api_process import FakeWorker, Server, run_server
from tests.services import Servers, superuser_engine


@pytest.fixture
def worker(services: Services) -> FakeWorker:
    return FakeWorker(services)


@pytest.fixture
def token(settings: Settings) -> Callable[..., str]:
    """Makes tokens: `token("alice", scopes=("admin",))`."""
    return lambda user_id="alice", **options: make_token(settings.jwt_keys[0], user_id, **options)


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    created = create_app(settings)
    yield created
    created.extensions[EXTENSION].close()


@pytest.fixture
def anonymous(app: Flask) -> Iterator[httpx.Client]:
    """A client in this process, not signed in."""
    with httpx.Client(transport=httpx.WSGITransport(app=app), base_url="http://lanewise.test") as client:
        yield client


@pytest.fixture
def sign_in(app: Flask, token: Callable[..., str]) -> Iterator[Callable[..., httpx.Client]]:
    """Makes clients in this process: `sign_in("bob")`."""
    with ExitStack() as stack:

        def make(user_id: str = "alice", **options: Any) -> httpx.Client:
            client = httpx.Client(
                transport=httpx.WSGITransport(app=app),
                base_url="http://lanewise.test",
                headers={"Authorization": f"Bearer {token(user_id, **options)}"},
            )
            return stack.enter_context(client)

        yield make


@pytest.fixture
def alice(sign_in: Callable[..., httpx.Client]) -> httpx.Client:
    return sign_in("alice")


@pytest.fixture
def bob(sign_in: Callable[..., httpx.Client]) -> httpx.Client:
    return sign_in("bob")


@pytest.fixture
def server(settings: Settings, token: Callable[..., str], tmp_path: Path, redis_client: object) -> Iterator[Server]:
    """A real api process over this test's stores. Its log must hold no error at the end."""
    assert redis_client
    log = tmp_path / "api.log"
    with run_server(settings, token, log) as running:
        yield running
    assert '"level": "error"' not in log.read_text(), log.read_text()


@dataclass(frozen=True)
class Fleet:
    """A real api process, its stores and what stands in for a worker; tests that share it have users of their own."""

    server: Server
    services: Services
    worker: FakeWorker
    superuser: sa.Connection


@pytest.fixture(scope="module")
def fleet(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One api process for all tests of a module. Its log must hold no error at the end."""
    log = tmp_path_factory.mktemp("api") / "api.log"
    with ExitStack() as stack:
        name = stack.enter_context(servers.new_database())
        settings = servers.settings(name, lease_s=300)
        services = stack.enter_context(closing(Services.open(settings)))
        superuser = stack.enter_context(superuser_engine(servers.url(name)).connect())
        make = partial(make_token, settings.jwt_keys[0])
        server = stack.enter_context(run_server(settings, make, log))
        yield Fleet(server, services, FakeWorker(services), superuser)
    assert '"level": "error"' not in log.read_text(), log.read_text()


@pytest.fixture
def user() -> str:
    """A user whom no other test knows."""
    return f"user-{new_id()}"


@pytest.fixture
def remote(fleet: Fleet, user: str) -> Iterator[httpx.Client]:
    """A client of that user's, over the network."""
    with fleet.server.client(user) as client:
        yield client


@pytest.fixture
def body() -> dict[str, Any]:
    """What a sound submission says."""
    return {"agent": "echo", "input": {"text": new_id()}}
