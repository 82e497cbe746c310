"""Stores that are away: nothing is accepted that could be lost, and everything is accepted that cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lanewise.ports import free_port
from tests.api_process import close_code
from tests.integration.api.conftest import Fleet, Home, UserClient, make_home
from tests.services import Servers


@contextmanager
def _closed(servers: Servers, name: str) -> Iterator[None]:
    """Ends all connections to a database and lets nobody in, as if its server were away."""
    servers.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    servers.execute(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608
    )
    yield
    servers.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.fixture(scope="module")
def lonely(servers: Servers) -> Iterator[Home]:
    """A home whose app finds no Redis."""
    with make_home(servers, redis_url=f"redis://127.0.0.1:{free_port()}/0") as made:
        yield made


@pytest.fixture
def alone(lonely: Home, user: str) -> Iterator[UserClient]:
    with lonely.client(user) as client:
        yield client


class TestRedisAway:
    def test_submissions_are_accepted_and_wait(self, alone: UserClient, body: dict[str, Any]) -> None:
        answer = alone.post("/v1/runs", json=body)
        assert answer.status_code == 202, answer.text
        assert answer.json()["queue"]["position"] == 1
        run_id = answer.json()["id"]
        assert alone.get(f"/v1/runs/{run_id}/wait?timeout_s=0.1").json()["status"] == "queued"
        assert alone.get(f"/v1/runs/{run_id}").json()["queue"]["reason"] == "redis_unavailable"
        assert alone.post(f"/v1/runs/{run_id}/cancel").json()["status"] == "cancelled"
        assert alone.get(f"/v1/runs/{run_id}/wait?timeout_s=5").json()["status"] == "cancelled"

    def test_a_wait_still_ends_with_its_run(self, lonely: Home, alone: UserClient, body: dict[str, Any]) -> None:
        run = lonely.worker.start(alone.user_id, alone.post("/v1/runs", json=body).json()["id"])
        lonely.worker.finish(run)
        assert alone.get(f"/v1/runs/{run.id}/wait?timeout_s=5").json()["status"] == "completed"

    def test_readiness_is_degraded_and_tickets_wait(self, alone: UserClient) -> None:
        ready = alone.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert ready.json()["dependencies"]["redis"]["status"] == "away"
        answer = alone.post("/v1/tickets")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert alone.get("/v1/me").json()["slots_held"] is None


class TestPostgresAway:
    def test_everything_says_so_and_nothing_is_accepted(
        self, servers: Servers, apart: Home, body: dict[str, Any]
    ) -> None:
        with apart.client("alice") as alice:
            self._check(servers, apart, alice, body)

    def _check(self, servers: Servers, apart: Home, alice: UserClient, body: dict[str, Any]) -> None:
        run_id = alice.post("/v1/runs", json=body).json()["id"]
        key = {"Idempotency-Key": "k"}
        calls: list[tuple[str, str, dict[str, Any]]] = [
            ("POST", "/v1/runs", {"json": body, "headers": key}),
            ("POST", "/v1/threads", {}),
            ("PUT", "/v1/documents/a", {"content": b"x"}),
            ("DELETE", f"/v1/threads/{'0' * 32}", {}),
            *(("POST", f"/v1/runs/{run_id}/{verb}", {}) for verb in ("cancel", "retry")),
            *(("GET", path, {}) for path in ("/v1/runs", f"/v1/runs/{run_id}", f"/v1/runs/{run_id}/wait", "/v1/me")),
            *(("GET", path, {}) for path in ("/v1/threads", "/v1/documents", "/v1/documents/a")),
        ]
        with _closed(servers, apart.database):
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

    def test_a_stream_goes_on_after_it(self, servers: Servers, fleet_apart: Fleet) -> None:
        server, worker = fleet_apart.server, fleet_apart.worker
        run = worker.start("alice", server.submit("alice"))
        with server.stream("alice") as stream:
            stream.until_live()
            with _closed(servers, fleet_apart.database):
                stream.send(t="run.submit", ref="1", agent="echo", input={"text": "x"})
                assert stream.answer("1")["problem"]["code"] == "unavailable"
                with server.stream("alice") as other:  # what others have just seen is at hand
                    assert other.until_live().numbers == [1, 2]
                with server.socket("alice") as other:
                    other.send('{"t":"hello","v":1,"after":null}')
                    assert close_code(other) == 1013
            worker.services.database.close()  # the test's own connections were cut, too
            worker.say(run, "back", publish=False)
            assert stream.until_seq(3, timeout_s=10).numbers == [1, 2, 3]
