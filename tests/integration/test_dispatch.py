"""Admission: the oldest first, never more than the limit, each once, and nothing lost while Redis is away."""

from __future__ import annotations

import json
import socket
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
import sqlalchemy as sa
import structlog.testing
from kombu.exceptions import OperationalError
from pydantic import SecretStr

from lanewise.embedded import EmbeddedRedis
from lanewise.ports import free_port
from shared import lanes, runs
from shared.context import UserExecutionContext
from shared.messages import TASK_NAME, RunMessage
from shared.models import Run, UserLimit
from shared.outcomes import Completed, Lost
from shared.services import Services
from shared.slots import run_of
from tests.services import (
    OpenServices,
    Servers,
    an_agent,
    in_parallel,
    serve,
    server_folder,
    slot,
    start_run,
    submit_run,
)
from tests.steps import LOST, finish, stored


def in_broker(services: Services, queue: str = "default") -> list[dict[str, Any]]:
    """Returns the broker's messages, oldest first."""
    url = services.settings.effective_broker_url
    with closing(redis.Redis.from_url(url, decode_responses=True)) as client:
        raw = client.lrange(f"lw:{services.settings.deployment}:broker:{queue}", 0, -1)
    return [json.loads(text) for text in reversed(raw)]


def sent(services: Services) -> list[str]:
    """Returns the task ids in the broker, oldest first."""
    return [message["headers"]["id"] for message in in_broker(services)]


def tasks(made: list[Run]) -> list[str]:
    return [f"{run.id}:1" for run in made]


def submit_many(services: Services, count: int, user_id: str = "alice") -> list[Run]:
    return [submit_run(services, user_id) for _ in range(count)]


def work(services: Services, run: Run) -> bool:
    """Claims and completes a granted run as a worker does; False if somebody else was faster."""
    message = RunMessage(UserExecutionContext.from_dict(run.context), 0)
    claimed = runs.claim(services.database.once(run.user_id), message, "w", [run.agent])
    return claimed is not None and finish(services.database, claimed[0], Completed(1)) is not None


def test_the_oldest_runs_are_sent_up_to_the_limit(services: Services) -> None:
    made = submit_many(services, 5)
    assert services.dispatcher.admit("alice") == 3
    assert sent(services) == tasks(made[:3])
    assert services.slots.held("alice") == [slot(run) for run in made[:3]]
    assert services.dispatcher.admit("alice") == 0
    assert sent(services) == tasks(made[:3])


def test_what_is_sent_is_signed_and_holds_no_input(services: Services) -> None:
    run = submit_run(services, run_input={"text": "canary"}, metadata={"m": "canary"})
    services.dispatcher.admit("alice")
    (message,) = in_broker(services)
    args, kwargs, _options = json.loads(b64decode(message["body"]))
    assert (message["headers"]["task"], message["headers"]["argsrepr"], kwargs) == (TASK_NAME, "(signed)", {})
    decoded = RunMessage.decode(args[0], services.signer)
    assert (decoded.context.to_dict(), decoded.attempt) == (run.context, 0)
    assert "canary" not in f"{message} {args} {services.signer.verify(args[0])}"


def test_a_run_goes_to_its_agents_queue(services: Services) -> None:
    run = submit_run(services, agent=an_agent(queue="special"))
    services.dispatcher.admit("alice")
    assert sent(services) == []
    assert [message["headers"]["id"] for message in in_broker(services, "special")] == tasks([run])


def test_a_limit_of_the_users_own_counts(services: Services) -> None:
    with services.database.system_session() as session:
        session.add_all([UserLimit(user_id="alice", concurrent_runs=1), UserLimit(user_id="bob", queued_runs=5)])
    for user_id in ("alice", "bob", "carol"):
        submit_many(services, 4, user_id)
    assert [services.dispatcher.admit(user_id) for user_id in ("alice", "bob", "carol")] == [1, 3, 3]


def test_a_release_starts_the_next_and_none_overtakes(services: Services) -> None:
    made = submit_many(services, 5)
    services.dispatcher.admit("alice")
    made.append(submit_run(services))
    assert work(services, made[1])
    services.dispatcher.release("alice", made[1].id, 1)
    assert sent(services) == tasks(made[:4])
    for run in (made[0], made[2]):
        assert work(services, run)
        services.dispatcher.release("alice", run.id, 1)
    assert sent(services) == tasks(made)


def test_a_cancelled_run_is_passed_over_and_frees_its_slot(services: Services) -> None:
    made = submit_many(services, 5)
    services.dispatcher.admit("alice")
    for run in (made[0], made[3]):
        with services.database.user_session("alice") as session:
            assert runs.request_cancel(session, "alice", run.id)
    services.dispatcher.release("alice", made[0].id, 1)
    assert sent(services) == tasks([*made[:3], made[4]])
    assert set(services.slots.held("alice")) == {slot(made[1]), slot(made[2]), slot(made[4])}


def test_a_slot_taken_for_a_run_that_ended_meanwhile_is_given_back(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = submit_many(services, 2)
    acquire = services.slots.acquire

    def acquire_while_one_is_cancelled(*args: Any, **options: Any) -> list[str] | None:
        with services.database.user_session("alice") as session:
            runs.request_cancel(session, "alice", made[0].id)
        return acquire(*args, **options)

    monkeypatch.setattr(services.slots, "acquire", acquire_while_one_is_cancelled)
    assert services.dispatcher.admit("alice") == 1
    assert sent(services) == tasks(made[1:])
    assert services.slots.held("alice") == [slot(made[1])]


def test_many_admissions_at_once_send_each_run_once(services: Services) -> None:
    made = submit_many(services, 10)
    counts: list[int] = []
    in_parallel(8, lambda _: counts.append(services.dispatcher.admit("alice")))
    assert sum(counts) == 3
    assert sorted(sent(services)) == sorted(tasks(made[:3]))
    assert set(services.slots.held("alice")) == {slot(run) for run in made[:3]}


def test_admissions_and_ends_at_once_run_everything_once(services: Services) -> None:
    made = {run.id: run for run in submit_many(services, 20)}
    deadline = time.monotonic() + 60

    def live(_number: int) -> None:
        while time.monotonic() < deadline:
            services.dispatcher.admit("alice")
            held = services.slots.held("alice")
            assert len(held) <= 3
            for name in held:
                if work(services, made[run_of(name)]):
                    services.dispatcher.release("alice", run_of(name), 1)
            if not held and all(stored(services.database, run).finished_at for run in made.values()):
                return

    in_parallel(4, live)
    assert sorted(sent(services)) == sorted(tasks(list(made.values())))
    assert services.slots.held("alice") == []
    assert {stored(services.database, run).status for run in made.values()} == {"completed"}


class TestRedisAway:
    @pytest.fixture
    def own_redis(self, servers: Servers) -> Iterator[EmbeddedRedis]:
        """A Redis of this test's own, which it may stop."""
        assert servers
        with server_folder() as folder, EmbeddedRedis(folder) as server:
            yield server

    def test_runs_stay_parked_and_are_admitted_when_it_is_back(
        self, open_services: OpenServices, own_redis: EmbeddedRedis
    ) -> None:
        services = open_services(redis_url=SecretStr(own_redis.admin_url))
        made = submit_many(services, 4)
        own_redis.stop()
        before = time.monotonic()
        with structlog.testing.capture_logs() as logs:
            assert services.dispatcher.admit("alice") == 0
            services.dispatcher.release("alice", made[0].id, 1)
        assert time.monotonic() - before < 5
        assert [entry["log_level"] for entry in logs] == ["warning"] * 2
        assert {stored(services.database, run).granted_at for run in made} == {None}
        own_redis.start()
        assert services.dispatcher.admit("alice") == 3
        assert sent(services) == tasks(made[:3])

    def test_a_redis_that_hangs_is_waited_for_within_a_bound(
        self, open_services: OpenServices, redis_client: redis.Redis
    ) -> None:
        services = open_services()
        submit_many(services, 1)
        redis_client.client_pause(2500)
        before = time.monotonic()
        with structlog.testing.capture_logs():
            assert services.dispatcher.admit("alice") == 0
        assert 1 < time.monotonic() - before < 5
        redis_client.client_unpause()

    def test_with_the_broker_away_a_granted_run_waits_for_the_leader(self, open_services: OpenServices) -> None:
        services = open_services(broker_url=SecretStr(f"redis://127.0.0.1:{free_port()}/1"))
        (run,) = submit_many(services, 1)
        before = time.monotonic()
        with structlog.testing.capture_logs() as logs:
            assert services.dispatcher.admit("alice") == 1
        assert time.monotonic() - before < 10
        assert logs[0]["run_id"] == run.id
        assert stored(services.database, run).granted_at is not None
        assert services.slots.held("alice") == [slot(run)]


class TestHanging:
    """What takes connections and never answers."""

    @pytest.fixture
    def port(self) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()[1]

    def test_redis_is_waited_for_once_and_not_by_every_user(self, open_services: OpenServices, port: int) -> None:
        services = open_services(redis_url=SecretStr(f"redis://127.0.0.1:{port}/0"))
        stored_by = open_services()
        for number in range(6):
            submit_run(stored_by, f"user-{number}")
        before = time.monotonic()
        with structlog.testing.capture_logs():
            assert [services.dispatcher.admit(f"user-{number}") for number in range(6)] == [0] * 6
            with pytest.raises(redis.RedisError):
                services.slots.renew({"alice": ["x:1"]})
        assert time.monotonic() - before < 3.5  # two calls that waited would have taken four

    def test_the_broker_is_waited_for_once_and_not_by_every_run(self, open_services: OpenServices, port: int) -> None:
        services = open_services(broker_url=SecretStr(f"redis://127.0.0.1:{port}/1"))
        submit_many(services, 3)
        with structlog.testing.capture_logs() as logs:
            assert services.dispatcher.admit("alice") == 3
        assert sum("the broker hangs" in entry["error"] for entry in logs) == 2
        with pytest.raises(OperationalError, match="hangs"):
            services.celery.queue_length("default")

    def test_it_is_asked_again_soon(
        self, open_services: OpenServices, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        services = open_services()
        services.redis.connection_pool.connection_kwargs["socket_timeout"] = 0.6
        redis_client.client_pause(700)
        with pytest.raises(redis.TimeoutError):
            services.redis.ping()
        assert redis_client.ping()  # it answers again
        with pytest.raises(redis.ConnectionError, match="hangs"):
            services.redis.ping()
        with pytest.raises(redis.ConnectionError, match="hangs"), services.redis.pipeline() as pipeline:
            pipeline.ping()
            pipeline.execute()
        later = time.monotonic() + 2
        monkeypatch.setattr("shared.breaker.time.monotonic", lambda: later)
        assert services.redis.ping()


class TestWipe:
    def test_nothing_is_given_away_before_what_runs_is_counted_again(
        self, services: Services, redis_client: redis.Redis
    ) -> None:
        made = submit_many(services, 5)
        services.dispatcher.admit("alice")
        start_claimed(services, made[0])
        redis_client.flushall()
        assert services.dispatcher.admit("alice") == 0
        assert sorted(services.slots.held("alice")) == sorted(slot(run) for run in made[:3])

    def test_a_redis_that_loses_everything_again_and_again_starts_nothing(
        self, services: Services, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = submit_many(services, 2)
        start_run(services, made[0])
        holders = lanes.holders

        def holders_and_wipe(*args: Any) -> set[str]:
            redis_client.flushall()
            return holders(*args)

        monkeypatch.setattr(lanes, "holders", holders_and_wipe)
        assert services.dispatcher.admit("alice") == 0
        assert stored(services.database, made[1]).granted_at is None

    def test_an_admission_that_stood_still_while_redis_was_wiped_exceeds_no_limit(
        self, open_services: OpenServices, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        services = open_services(user_concurrent_runs=1)
        made = submit_many(services, 2)
        next_runs = lanes.next_runs

        def stand_still(*args: Any) -> lanes.NextRuns:
            found = next_runs(*args)  # nothing of the user is live yet
            monkeypatch.undo()
            assert services.dispatcher.admit("alice") == 1  # by another process
            start_claimed(services, made[0])
            redis_client.flushall()
            return found

        monkeypatch.setattr(lanes, "next_runs", stand_still)
        services.dispatcher.admit("alice")
        assert stored(services.database, made[1]).granted_at is None


class TestStale:
    """What an admission has read may be over when it grants."""

    def test_an_attempt_that_is_not_the_next_one_any_more_is_not_granted(self, services: Services) -> None:
        (run,) = submit_many(services, 1)
        finish(services.database, start_run(services, run), LOST)
        once = services.database.once("alice")
        assert lanes.grant(once, "alice", [slot(run, 1)]) == []
        assert len(lanes.grant(once, "alice", [slot(run, 2)])) == 1

    def test_a_run_that_has_to_wait_meanwhile_is_not_granted(self, services: Services) -> None:
        (run,) = submit_many(services, 1)
        finish(services.database, start_run(services, run), Lost("retry", "busy", after_s=60))
        assert lanes.grant(services.database.once("alice"), "alice", [slot(run, 2)]) == []

    def test_what_cannot_be_told_does_not_undo_what_was_admitted(
        self, services: Services, superuser: sa.Connection
    ) -> None:
        made = submit_many(services, 7)
        with superuser.engine.connect().execution_options(isolation_level="READ COMMITTED") as other, other.begin():
            other.execute(sa.text("SELECT FROM lanewise.runs WHERE id = :id FOR UPDATE"), {"id": made[5].id})
            with structlog.testing.capture_logs() as logs:
                assert services.dispatcher.admit("alice") == 3
        assert [entry["event"] for entry in logs] == ["positions are told later"]
        assert sent(services) == tasks(made[:3])


class TestNobodyServes:
    def test_a_run_whose_agent_no_worker_has_takes_no_slot(self, services: Services) -> None:
        elsewhere = submit_run(services, agent=an_agent("elsewhere"), served=False)
        made = submit_many(services, 3)
        assert services.dispatcher.admit("alice") == 3
        assert stored(services.database, elsewhere).granted_at is None
        assert sent(services) == tasks(made)

    def test_nor_one_whose_queue_no_worker_serves(self, services: Services) -> None:
        run = submit_run(services, agent=an_agent(queue="special"), served=False)
        serve(services, an_agent(queue="default"))
        assert services.dispatcher.admit("alice") == 0
        serve(services, an_agent(queue="special"))
        assert services.dispatcher.admit("alice") == 1
        assert stored(services.database, run).granted_at is not None


def test_freeing_the_slot_of_an_attempt_that_is_over_leaves_the_next_ones(services: Services) -> None:
    (run,) = submit_many(services, 1)
    services.dispatcher.admit("alice")
    finish(services.database, start_claimed(services, run), LOST)
    assert services.dispatcher.admit("alice") == 1  # faster than the worker that lost it
    assert set(services.slots.held("alice")) == {slot(run, 1), slot(run, 2)}
    services.dispatcher.release("alice", run.id, 1)
    assert services.slots.held("alice") == [slot(run, 2)]


def start_claimed(services: Services, run: Run) -> Run:
    """Claims a run that is granted already."""
    message = RunMessage(UserExecutionContext.from_dict(run.context), 0)
    claimed = runs.claim(services.database.once(run.user_id), message, "w", [run.agent])
    assert claimed is not None
    return claimed.run
