"""The api under test: in this process over WSGI, or as a real gunicorn process where greenlets and sockets matter.

Most tests share one of each and have users of their own; what changes the world for everybody happens `apart`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
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
from shared.catalogue import beat
from shared.ids import new_id
from shared.services import Services
from shared.settings import Settings
from shared.tokens import make_token
from tests.api_process import FakeWorker, Server, run_server
from tests.services import Servers, superuser_engine


class UserClient(httpx.Client):
    """An HTTP client of one user's."""

    user_id: str


@dataclass(frozen=True)
class Home:
    """A database, what stands in for a worker, and an app in this process."""

    database: str
    settings: Settings
    services: Services
    superuser: sa.Connection
    worker: FakeWorker
    app: Flask

    def token(self, user_id: str, **options: Any) -> str:
        """Returns a bearer token, see `make_token`."""
        return make_token(self.settings.jwt_keys[0], user_id, **options)

    @contextmanager
    def client(self, user_id: str | None, **options: Any) -> Iterator[UserClient]:
        """Opens a client of a user's, not signed in if there is none."""
        headers = {} if user_id is None else {"Authorization": f"Bearer {self.token(user_id, **options)}"}
        transport = httpx.WSGITransport(app=self.app)
        with UserClient(transport=transport, base_url="http://lanewise.test", headers=headers) as client:
            client.user_id = user_id or ""
            yield client


@contextmanager
def make_home(servers: Servers, **changes: Any) -> Iterator[Home]:
    """Makes one, with other settings for the app if they are given."""
    with ExitStack() as stack:
        name = stack.enter_context(servers.new_database())
        settings = servers.settings(name, lease_s=300)
        services = stack.enter_context(closing(Services.open(settings)))
        superuser = stack.enter_context(superuser_engine(servers.url(name)).connect())
        app = create_app(servers.settings(name, "api", lease_s=300, **changes))
        stack.enter_context(closing(app.extensions[EXTENSION]))
        yield Home(name, settings, services, superuser, FakeWorker(services), app)


@pytest.fixture(scope="session")
def home(servers: Servers) -> Iterator[Home]:
    """Shared by the tests of this folder."""
    with make_home(servers) as made:
        yield made


@pytest.fixture
def apart(servers: Servers) -> Iterator[Home]:
    """For this test alone."""
    with make_home(servers) as made:
        yield made


@pytest.fixture
def app(home: Home) -> Flask:
    return home.app


@pytest.fixture
def superuser(home: Home) -> sa.Connection:
    return home.superuser


@pytest.fixture
def worker(home: Home) -> FakeWorker:
    with home.services.database.system_session() as session:
        assert beat(session, home.worker.id)
    return home.worker


@pytest.fixture
def anonymous(home: Home) -> Iterator[UserClient]:
    with home.client(None) as client:
        yield client


@pytest.fixture
def sign_in(home: Home) -> Iterator[Callable[..., UserClient]]:
    """Makes clients: `sign_in("carol", scopes=("admin",))`."""
    with ExitStack() as stack:
        yield lambda user_id, **options: stack.enter_context(home.client(user_id, **options))


@pytest.fixture
def alice(sign_in: Callable[..., UserClient]) -> UserClient:
    return sign_in(f"alice-{new_id()}")


@pytest.fixture
def bob(sign_in: Callable[..., UserClient]) -> UserClient:
    return sign_in(f"bob-{new_id()}")


@dataclass(frozen=True)
class Fleet:
    """A real api process, its stores and what stands in for a worker."""

    server: Server
    database: str
    settings: Settings
    services: Services
    superuser: sa.Connection
    worker: FakeWorker


@contextmanager
def make_fleet(
    servers: Servers, log: Path, env: dict[str, str] | None = None, app: str | None = None, **changes: Any
) -> Iterator[Fleet]:
    """Makes one, with other settings if they are given, `env` or `app` for the api only. Its log must hold no error."""
    with ExitStack() as stack:
        name = stack.enter_context(servers.new_database())
        settings = servers.settings(name, lease_s=300, **changes)
        services = stack.enter_context(closing(Services.open(settings)))
        superuser = stack.enter_context(superuser_engine(servers.url(name)).connect())
        worker = FakeWorker(services)
        server = stack.enter_context(
            run_server(
                servers.settings(name, "api", lease_s=300, **changes),
                partial(make_token, settings.jwt_keys[0]),
                log,
                app=app,
                **(env or {}),
            )
        )
        yield Fleet(server, name, settings, services, superuser, worker)
    assert errors_in(log) == []


def errors_in(log: Path) -> list[str]:
    """Returns the lines of an api's log that tell of an error, or that are not its own."""
    lines = log.read_text(errors="replace").splitlines()
    return [line for line in lines if '"level": "error"' in line or not line.startswith("{")]


@pytest.fixture(scope="session")
def shared_fleet(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with make_fleet(servers, tmp_path_factory.mktemp("api") / "api.log") as made:
        yield made


@pytest.fixture
def fleet(shared_fleet: Fleet) -> Fleet:
    """Shared by the tests of this folder."""
    with shared_fleet.services.database.system_session() as session:
        assert beat(session, shared_fleet.worker.id)
    return shared_fleet


@pytest.fixture
def fleet_apart(servers: Servers, tmp_path: Path) -> Iterator[Fleet]:
    """For this test alone."""
    with make_fleet(servers, tmp_path / "api.log") as made:
        yield made


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
