"""How fast a user may submit: the same over REST and the WebSocket, over all processes, and without Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from api.rate import MAX_USERS, SubmissionRate
from api.state import EXTENSION
from lanewise.ports import free_port
from lanewise.process import wait_until
from shared.errors import RateLimitedError
from shared.ids import new_id
from shared.services import Services
from tests.integration.api.conftest import Fleet, Home, make_fleet, make_home
from tests.services import OpenServices, Servers

SLOW = {"user_submissions_per_s": 1, "user_submission_burst": 3}


@pytest.fixture(params=["redis", "alone"])
def slow(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Home]:
    """A home with a low limit, whose app finds Redis or not."""
    away = {} if request.param == "redis" else {"redis_url": f"redis://127.0.0.1:{free_port()}/0"}
    with make_home(servers, **SLOW, **away) as made:
        yield made


def _until_refused(rate: SubmissionRate, user_id: str, most: int = 50) -> tuple[int, RateLimitedError]:
    for number in range(most):
        try:
            rate.count(user_id)
        except RateLimitedError as error:
            return number, error
    pytest.fail(f"{most} submissions and no limit")


def test_above_the_burst_a_user_is_told_when_to_come_back(slow: Home, body: dict[str, Any]) -> None:
    with slow.client("alice") as alice, slow.client("bob") as bob:
        key = {"Idempotency-Key": "k"}  # the same submission again counts too
        answers = [alice.post("/v1/runs", json=body, headers=key) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
        problem = answers[3].json()
        assert problem["code"] == "rate_limited"
        assert problem["detail"] == "a user may submit 3 runs or threads at once, and then 1 a second"
        assert 0 < problem["retry_after_s"] <= 1
        assert answers[3].headers["Retry-After"] == "1"
        assert bob.post("/v1/runs", json=body).status_code == 202
        refused = 0

        def accepted() -> bool:
            nonlocal refused
            status = alice.post("/v1/runs", json=body).status_code
            refused += status == 429
            return status == 202

        assert wait_until(accepted, 3)
        assert refused  # what is refused does not put the next one off
        # What is wrong counts as well, or a flood of it would be free.
        assert {alice.post("/v1/runs", json={**body, "agent": "none"}).status_code for _ in range(4)} == {429}


def test_a_retry_is_a_submission(slow: Home, body: dict[str, Any]) -> None:
    with slow.client("alice") as alice:
        run_id = alice.post("/v1/runs", json=body).json()["id"]
        alice.post(f"/v1/runs/{run_id}/cancel")
        key = {"Idempotency-Key": '"k"'}
        answers = [alice.post(f"/v1/runs/{run_id}/retry", headers=key) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 429]
        assert answers[0].json()["id"] == answers[1].json()["id"]


def test_threads_count_like_submissions(slow: Home, body: dict[str, Any]) -> None:
    with slow.client("alice") as alice:
        answers = [alice.post("/v1/threads", json={}) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [201, 201, 201, 429]
        assert answers[3].json()["code"] == "rate_limited"
        assert alice.post("/v1/runs", json=body).status_code == 429


def test_tickets_have_a_count_of_their_own(servers: Servers) -> None:
    with make_home(servers, **SLOW) as home, home.client("alice") as alice:
        answers = [alice.post("/v1/tickets") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [201, 201, 201, 429]
        assert answers[3].json()["detail"] == "a user may ask for 3 tickets at once, and then 1 a second"
        assert alice.post("/v1/threads", json={}).status_code == 201


def test_two_processes_count_together(open_services: OpenServices) -> None:
    first, second = (SubmissionRate(open_services(user_submission_burst=10, user_submissions_per_s=1)) for _ in "ab")
    for _ in range(5):
        first.count("alice")
        second.count("alice")
    for rate in (first, second):
        with pytest.raises(RateLimitedError):
            rate.count("alice")


def test_what_is_promised_holds(services: Services) -> None:
    count, error = _until_refused(SubmissionRate(services), "alice", 6000)
    assert 3000 <= count < 6000  # the burst, and 200 for each second that it took
    assert error.retry_after_s is not None
    assert error.retry_after_s <= 1 / 200


def test_its_keys_are_the_deployments_and_the_users(services: Services) -> None:
    SubmissionRate(services).count("alice")
    (key,) = map(str, services.redis.keys("*submissions"))
    prefix, _, rest = services.keys.events("alice").partition("{")
    assert key.startswith(prefix)
    assert "{" + rest.split(":")[0] in key
    assert 0 < services.redis.ttl(key) < 60  # it goes by itself


def test_without_redis_it_remembers_a_bounded_number_of_users(open_services: OpenServices) -> None:
    away = open_services(user_submission_burst=1, user_submissions_per_s=1)
    away.redis.connection_pool.connection_kwargs["port"] = free_port()
    away.redis.connection_pool.disconnect()
    rate = SubmissionRate(away)
    for number in range(MAX_USERS + 100):
        rate.count(f"user-{number}")
    with pytest.raises(RateLimitedError):
        rate.count(f"user-{MAX_USERS + 99}")
    assert len(rate._own._store._backend._client) <= MAX_USERS  # type: ignore[attr-defined]


def test_redis_is_asked_again_when_it_is_back(open_services: OpenServices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.rate.PAUSE_S", 0.1)
    services = open_services()
    options = services.redis.connection_pool.connection_kwargs
    there, options["port"] = options["port"], free_port()
    rate = SubmissionRate(services)
    rate.count("alice")
    options["port"] = there
    services.redis.connection_pool.reset()

    def counted_together() -> bool:
        rate.count("alice")
        return bool(services.redis.keys("*submissions"))

    assert not counted_together()
    assert wait_until(counted_together, 3)


def test_the_websocket_has_the_same_limit(servers: Servers, tmp_path: Any, body: dict[str, Any]) -> None:
    env = {name.upper(): str(value) for name, value in SLOW.items()}
    with make_fleet(servers, tmp_path / "api.log", env=env) as fleet:
        _submit_both_ways(fleet, f"user-{new_id()}", body)


def _submit_both_ways(fleet: Fleet, user: str, body: dict[str, Any]) -> None:
    with fleet.server.client(user) as client, fleet.server.stream(user) as stream:
        assert [client.post("/v1/runs", json=body).status_code for _ in range(3)] == [202] * 3
        stream.send(t="run.submit", ref="1", **body)
        problem = stream.answer("1")["problem"]
        assert (problem["code"], problem["status"]) == ("rate_limited", 429)
        assert problem["retry_after_s"] > 0


def test_an_app_has_the_settings_limits(home: Home) -> None:
    rate = home.app.extensions[EXTENSION].submissions._rate
    assert (rate._rate, rate._burst) == (200, 3000)
