"""Stores that are away: nothing is accepted that could be lost, and everything is accepted that cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from flask import Flask

from api.app import create_app
from api.state import EXTENSION
from lanewise.ports import free_port
from shared.settings import Settings
from tests.api_process import FakeWorker, Server, close_code
from tests.services import Servers


@contextmanager
def _client(app: Flask, token: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {token}"}
    with (
        closing(app.extensions[EXTENSION]),
        httpx.Client(
            transport=httpx.WSGITransport(app=app), base_url="http://lanewise.test", headers=headers
        ) as client,
    ):
        yield client


@contextmanager
def _closed(servers: Servers, name: str) -> Iterator[None]:
    """Ends all connections to a database and lets nobody in, as if its server were away."""
    servers.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    servers.execute(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608
    )
    yield
    servers.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.fixture
def without_redis(settings: Settings, token: Callable[..., str]) -> Iterator[httpx.Client]:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    changed = Settings.model_validate({**settings.model_dump(), "redis_url": nowhere})
    with _client(create_app(changed), token()) as client:
        yield client


class TestRedisAway:
    def test_submissions_are_accepted_and_wait(
        self, without_redis: httpx.Client, worker: FakeWorker, body: dict[str, Any]
    ) -> None:
        answer = without_redis.post("/v1/runs", json=body)
        assert answer.status_code == 202, answer.text
        assert answer.json()["queue"]["position"] == 1
        run_id = answer.json()["id"]
        assert without_redis.get(f"/v1/runs/{run_id}/wait?timeout_s=0.1").json()["status"] == "queued"
        assert without_redis.get(f"/v1/runs/{run_id}").json()["queue"]["reason"] == "redis_unavailable"
        assert without_redis.post(f"/v1/runs/{run_id}/cancel").json()["status"] == "cancelled"
        assert without_redis.get(f"/v1/runs/{run_id}/wait?timeout_s=5").json()["status"] == "cancelled"
        assert worker

    def test_a_wait_still_ends_with_its_run(
        self, without_redis: httpx.Client, worker: FakeWorker, body: dict[str, Any]
    ) -> None:
        run = worker.start("alice", without_redis.post("/v1/runs", json=body).json()["id"])
        worker.finish(run)
        assert without_redis.get(f"/v1/runs/{run.id}/wait?timeout_s=5").json()["status"] == "completed"

    def test_readiness_is_degraded_and_tickets_wait(self, without_redis: httpx.Client, worker: FakeWorker) -> None:
        ready = without_redis.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert ready.json()["dependencies"]["redis"]["status"] == "away"
        answer = without_redis.post("/v1/tickets")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert without_redis.get("/v1/me").json()["slots_held"] is None
        assert worker


class TestPostgresAway:
    def test_everything_says_so_and_nothing_is_accepted(
        self, servers: Servers, database_name: str, alice: httpx.Client, worker: FakeWorker, body: dict[str, Any]
    ) -> None:
        run_id = alice.post("/v1/runs", json=body).json()["id"]
        key = {"Idempotency-Key": "k"}
        calls: list[tuple[str, str, dict[str, Any]]] = [
            ("POST", "/v1/runs", {"json": body, "headers": key}),
            ("POST", "/v1/threads", {}),
            ("PUT", "/v1/documents/a", {"content": b"x"}),
            ("DELETE", f"/v1/threads/{'0' * 32}", {}),
            ("POST", f"/v1/runs/{run_id}/cancel", {}),
            *(("GET", path, {}) for path in ("/v1/runs", f"/v1/runs/{run_id}", f"/v1/runs/{run_id}/wait", "/v1/me")),
            *(("GET", path, {}) for path in ("/v1/threads", "/v1/documents", "/v1/documents/a")),
        ]
        with _closed(servers, database_name):
            for method, path, rest in calls * 2:
                answer = alice.request(method, path, **rest)
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), (method, path, answer.text)
                assert int(answer.headers["Retry-After"]) >= 1
            ready = alice.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
            assert alice.get("/healthz").status_code == 200
        assert [run["id"] for run in alice.get("/v1/runs").json()["items"]] == [run_id]
        assert alice.get("/v1/documents").json()["items"] == []
        assert alice.post("/v1/runs", json=body, headers=key).status_code == 202
        assert worker

    def test_a_schema_that_is_older_than_the_code_is_not_ready(
        self, alice: httpx.Client, worker: FakeWorker, superuser: sa.Connection
    ) -> None:
        superuser.execute(sa.text("UPDATE lanewise.alembic_version SET version_num = '0000'"))
        ready = alice.get("/readyz")
        assert ready.status_code == 503
        assert "lanewise migrate" in ready.json()["dependencies"]["postgres"]["detail"]
        superuser.execute(sa.text("UPDATE lanewise.alembic_version SET version_num = '9999'"))
        assert alice.get("/readyz").status_code == 200
        assert worker

    def test_a_stream_goes_on_after_it(
        self, servers: Servers, database_name: str, server: Server, worker: FakeWorker
    ) -> None:
        run = worker.start("alice", server.submit("alice"))
        with server.stream("alice") as stream:
            stream.until_live()
            with _closed(servers, database_name):
                stream.send(t="run.submit", ref="1", agent="echo", input={"text": "x"})
                assert stream.answer("1")["problem"]["code"] == "unavailable"
                with server.socket("alice") as other:
                    other.send('{"t":"hello","v":1,"after":0}')
                    assert close_code(other) == 1013
            worker.services.database.close()  # the test's own connections were cut, too
            worker.say(run, "back", publish=False)
            assert stream.until_seq(3, timeout_s=10).numbers == [1, 2, 3]
