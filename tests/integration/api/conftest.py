"""The api under test: in this process over WSGI, or as a real gunicorn process where greenlets and sockets matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask

from api.app import create_app
from api.state import EXTENSION
from shared.ids import new_id
from shared.services import Services
from shared.settings import Settings
from shared.tokens import make_token
from tests.api_process import FakeWorker, Server, run_server


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


@pytest.fixture
def body() -> dict[str, Any]:
    """What a sound submission says."""
    return {"agent": "echo", "input": {"text": new_id()}}
