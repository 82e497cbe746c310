"""Celery workers as processes, driven by pytest-celery: real signals, real deaths."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import httpx
import pytest
import redis
import sqlalchemy as sa
from celery import Celery
from pytest_celery import CeleryBrokerCluster, CeleryTestSetup, CeleryWorkerCluster, RedisTestBroker

from lanewise.process import wait_until
from shared import events
from shared.context import UserExecutionContext
from shared.messages import TASK_NAME, RunMessage
from shared.models import Agent, Run, Worker
from shared.services import Services
from shared.settings import Settings
from tests.fleet import celery_worker as ours
from tests.services import Servers, submit_run
from tests.steps import row, stored

LEASE_S = float(ours.QUICK["LANEWISE_LEASE_S"])
WAIT_S = 15

# The stores


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers.start() as running:
        yield running


@pytest.fixture(scope="module")
def settings(servers: Servers) -> Iterator[Settings]:
    with servers.new_database() as name:
        yield servers.settings(name)


@pytest.fixture(scope="module")
def services(settings: Settings) -> Iterator[Services]:
    with closing(Services.open(settings)) as opened:
        yield opened


# pytest-celery's fixtures, over processes instead of containers: one broker, no result backend, two workers


@pytest.fixture
def default_redis_broker(settings: Settings) -> ours.OurRedis:
    return ours.OurRedis(settings)


@pytest.fixture
def celery_broker_cluster(default_redis_broker: ours.OurRedis) -> Iterator[CeleryBrokerCluster]:
    cluster = CeleryBrokerCluster(RedisTestBroker(default_redis_broker))
    yield cluster
    cluster.teardown()


@pytest.fixture
def celery_backend_cluster() -> None:
    """A run's result is in Postgres."""


@pytest.fixture
def celery_setup_app(services: Services) -> Celery:
    return services.celery


@pytest.fixture
def default_worker_cls() -> type[ours.Worker]:
    return ours.Worker


@pytest.fixture(scope="module")
def containers(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ours.OurWorkerContainer]]:
    """Two workers for all tests: whoever finds one of them dead starts it again."""
    assert settings.run_database_url is not None
    env = ours.QUICK | {
        "LANEWISE_DATABASE_URL": settings.database_url.get_secret_value(),
        "LANEWISE_RUN_DATABASE_URL": settings.run_database_url.get_secret_value(),
        "LANEWISE_REDIS_URL": settings.redis_url.get_secret_value(),
        "LANEWISE_SECRET_KEY": settings.secrets[0],
        "LANEWISE_DEPLOYMENT": settings.deployment,
    }
    with ExitStack() as stack:
        made = []
        for name in ("one", "two"):
            made.append(ours.OurWorkerContainer(tmp_path_factory.mktemp("worker") / name, env))
            stack.callback(made[-1].worker.end)
        yield made


@pytest.fixture
def default_worker_container(containers: list[ours.OurWorkerContainer]) -> ours.OurWorkerContainer:
    for container in containers:
        container.worker.revive()
    return containers[0]


@pytest.fixture
def other_worker(containers: list[ours.OurWorkerContainer], celery_setup_app: Celery) -> ours.Worker:
    return ours.Worker(containers[1], celery_setup_app)


@pytest.fixture
def celery_worker_cluster(celery_worker: ours.Worker, other_worker: ours.Worker) -> Iterator[CeleryWorkerCluster]:
    cluster = CeleryWorkerCluster(celery_worker, other_worker)
    yield cluster
    cluster.teardown()


# What a test sees of it


class Pair:
    """Two workers over one set of stores."""

    def __init__(self, setup: CeleryTestSetup, services: Services) -> None:
        self.workers: tuple[ours.Worker, ...] = setup.worker_cluster.nodes
        self.services = services

    def submit(self, agent: str, run_input: Any = None, user_id: str = "alice") -> Run:
        """Stores a run and admits it, as the api does."""
        with self.services.database.system_session() as session:
            known = session.get_one(Agent, agent)
        run = submit_run(self.services, user_id, agent=known, run_input=run_input, served=False)
        self.services.dispatcher.admit(user_id)
        return run

    def now(self, run: Run) -> Run:
        return stored(self.services.database, run)

    def log(self, run: Run) -> list[dict[str, Any]]:
        with self.services.database.user_session(run.user_id) as session:
            return events.read_run(session, run.user_id, run.id, 0, 10_000)

    def kinds(self, run: Run) -> list[str]:
        """The types of its events, but for where it stood: a sweep tells that if it finds the run still parked."""
        return [event["type"] for event in self.log(run) if event["type"] != "run_position"]

    def wait(self, run: Run, status: str, timeout_s: float = WAIT_S) -> Run:
        assert wait_until(lambda: self.now(run).status == status, timeout_s), (self.now(run).status, self.log(run))
        return self.now(run)

    def wait_for_token(self, run: Run, attempt: int = 1) -> None:
        assert wait_until(lambda: ("agent_token", attempt) in self._said(run), WAIT_S), self.log(run)

    def owner(self, run: Run) -> tuple[ours.Worker, ours.Worker]:
        """Returns the worker that a run is under way on, and the other one."""
        with self.services.database.system_session() as session:
            name = session.get_one(Worker, self.now(run).worker_id).name
        first, second = self.workers
        return (first, second) if name.endswith(f":{first.process.pid}") else (second, first)

    def refused(self) -> float:
        """Returns how many messages the workers have refused."""
        texts = [httpx.get(worker.metrics_url, timeout=5).text for worker in self.workers]
        found = [re.search(r"^lanewise_messages_refused_total (\S+)", text, re.MULTILINE) for text in texts]
        return sum(float(match[1]) for match in found if match)

    @contextmanager
    def refuses(self, number: int) -> Iterator[None]:
        """Demands that so many messages more are refused, soon."""
        before = self.refused()
        yield
        assert wait_until(lambda: self.refused() >= before + number, WAIT_S), self.refused() - before
        assert self.refused() == before + number

    def demand_at_work(self) -> None:
        """Demands that no worker has ended, and that each takes a run."""
        held = [self.submit("wait", user_id=f"holder-{n}") for n in range(8)]  # both are full
        for run in held:
            self.wait_for_token(run)
        assert [worker.process.exit_code for worker in self.workers] == [None, None]
        assert [len(worker.sandboxes()) for worker in self.workers] == [4, 4]
        for worker in self.workers:
            for sandbox in worker.sandboxes():
                sandbox.kill()
        for run in held:
            self.wait(run, "failed")

    def known_workers(self) -> int:
        with self.services.database.system_session() as session:
            return len(session.scalars(sa.select(Worker.id)).all())

    def _said(self, run: Run) -> set[tuple[str, int]]:
        return {(event["type"], event["attempt"]) for event in self.log(run)}


@pytest.fixture
def pair(celery_setup: CeleryTestSetup, services: Services) -> Pair:
    """Both workers, ready."""
    assert all(worker.ready() for worker in celery_setup.worker_cluster)  # its own `ready` waits a second for more
    return Pair(celery_setup, services)


# Tests


def test_runs_are_done_and_what_nobody_signed_is_not(pair: Pair) -> None:
    runs = [pair.submit("echo", {"n": n}, f"user-{n % 4}") for n in range(12)]
    forged: list[list[Any]] = [[], ["forged"], [{"context": {}}], [runs[0].context, 0], [None] * 50]
    for args in forged:
        pair.services.celery.send_task(TASK_NAME, args=args, kwargs={"message": "forged"} if not args else {})
    pair.services.celery.send_task("worker.celery.unheard_of")
    for run in runs:
        ended = pair.wait(run, "completed")
        assert isinstance(ended.output, dict)
        assert (ended.output["user_id"], ended.output["input"]) == (run.user_id, run.input)
        assert pair.kinds(run) == ["run_queued", "run_started", "agent_started", "agent_completed", "run_completed"]
    assert all(pair.services.slots.held(f"user-{n}") == [] for n in range(4))
    assert pair.wait(pair.submit("echo"), "completed")
    assert [worker.process.exit_code for worker in pair.workers] == [None, None]


def test_what_nobody_signed_is_refused_and_counted_before_celery_acts_on_it(pair: Pair) -> None:
    celery = pair.services.celery
    good = RunMessage(UserExecutionContext.from_dict(pair.wait(pair.submit("echo"), "completed").context), 0)
    text = good.encode(pair.services.signer)
    stolen: dict[str, Any] = {"args": [text], "task_id": good.task_id}  # a message of ours, with more in it
    onward = celery.signature("sent.on", queue="nobodys")
    options: list[dict[str, Any]] = [
        {"countdown": 100_000}, {"expires": 100_000}, {"link": onward}, {"link_error": onward}, {"chain": [onward]},
        {"group_id": "g"}, {"chord": onward}, {"time_limit": 5}, {"shadow": "other"}, {"retries": 3},
        {"headers": {"callbacks": [onward]}}, {"headers": {"stamped_headers": ["a"], "a": "b"}}, {"kwargs": {"a": 1}},
    ]  # fmt: skip
    with pair.refuses(2 * len(options) + 9):
        for option in options:
            for sent in ({"args": ["junk"]}, stolen):
                celery.send_task(TASK_NAME, **{**sent, **option})
        celery.send_task(TASK_NAME, args=[text], task_id="another")
        celery.send_task(TASK_NAME, args=[text, text], task_id=good.task_id)
        celery.send_task("worker.celery.unheard_of", args=[text], task_id=good.task_id)
        celery.send_task("celery.chord_unlock", args=["g", onward], kwargs={"interval": 0.1})  # Celery's own
        celery.send_task("celery.map", args=[onward, [1]])
        with celery.producer_pool.acquire() as producer:
            without_id: list[Any] = [[], "x", TASK_NAME]
            for name in without_id:
                producer.publish([1], routing_key="default", headers={"task": name})
            producer.publish([1], routing_key="default")
    pair.demand_at_work()
    assert pair.services.celery.queue_length("nobodys") == 0
    assert list((celery.control.inspect().scheduled() or {}).values()) == [[], []]


def test_what_is_no_message_is_refused_and_counted(pair: Pair) -> None:
    celery = pair.services.celery
    key = f"lw:{pair.services.settings.deployment}:broker:default"
    items = [b"\xff", b"junk", b"[]", b"{}", b'{"properties": {"delivery_tag": "1"}}', b"[" * 100_000,
             b'{"__type__": "decimal", "__value__": "x"}', b'{"properties": [], "headers": ["task"]}']  # fmt: skip
    with pair.refuses(len(items) + 2), closing(redis.Redis.from_url(celery.conf.broker_url)) as client:
        with celery.producer_pool.acquire() as producer:
            producer.publish({"a": 1}, routing_key="default", serializer="pickle", headers={"task": TASK_NAME})
            producer.publish({"a": 1}, routing_key="default", headers={"task": TASK_NAME, "compression": "none such"})
        for item in items:
            client.lpush(key, item)
    pair.demand_at_work()


def test_remote_control_only_looks(pair: Pair) -> None:
    control = pair.services.celery.control
    orders: list[tuple[str, dict[str, Any]]] = [
        ("cancel_consumer", {"queue": "default"}), ("shutdown", {}), ("pool_shrink", {"n": 4}), ("disable_events", {}),
        ("revoke", {"task_id": "a:1"}), ("hello", {"from_node": "x", "revoked": ["b:1"]}),
        ("rate_limit", {"task_name": TASK_NAME, "rate_limit": "1/d"}), ("election", {"id": "1", "topic": "task"}),
    ]  # fmt: skip
    with pair.refuses(len(orders) * len(pair.workers)):
        for name, arguments in orders:
            control.broadcast(name, arguments=arguments)
    for_ever: Any = "pcre"
    control.broadcast("ping", pattern="((.|.)|(.|.))*#", matcher=for_ever)
    looks = control.inspect()
    assert list((looks.revoked() or {}).values()) == [[], []]
    assert (looks.active_queues() or {}).keys() == {worker.hostname() for worker in pair.workers}
    pair.demand_at_work()


def test_sigterm_lets_a_worker_finish_what_runs_and_take_nothing_new(pair: Pair) -> None:
    run = pair.submit("wait", {"seconds": 0.7})
    pair.wait_for_token(run)
    worker, _ = pair.owner(run)
    zygote = worker.zygote
    worker.kill("SIGTERM")
    later = [pair.submit("echo", user_id="bob") for _ in range(3)]
    assert pair.wait(run, "completed").attempt == 1
    assert worker.ends() == 0
    assert not zygote.is_running()
    for follower in later:
        assert pair.wait(follower, "completed").attempt == 1
    assert pair.known_workers() == 1


def test_what_does_not_finish_in_time_is_handed_back_and_done_elsewhere(pair: Pair) -> None:
    run = pair.submit("wait", {"seconds": 5})  # longer than the drain, and it has one attempt only
    pair.wait_for_token(run)
    worker, _ = pair.owner(run)
    begun = time.monotonic()
    worker.kill("SIGTERM")
    assert worker.ends() == 0
    assert float(ours.QUICK["LANEWISE_DRAIN_S"]) <= time.monotonic() - begun
    ended = pair.wait(run, "completed")
    assert (ended.attempt, ended.lost_attempts) == (2, 0)
    recovering = [event for event in pair.log(run) if event["type"] == "run_recovering"]
    assert [event["data"]["reason"] for event in recovering] == ["drained"]


def test_a_second_sigterm_hands_back_at_once(pair: Pair) -> None:
    run = pair.submit("wait", {"seconds": 60})
    pair.wait_for_token(run)
    worker, other = pair.owner(run)
    begun = time.monotonic()
    worker.kill("SIGTERM")
    assert wait_until(lambda: "draining" in worker.logs(), 5)
    worker.kill("SIGTERM")
    pair.wait_for_token(run, attempt=2)
    assert time.monotonic() - begun < float(ours.QUICK["LANEWISE_DRAIN_S"])
    assert worker.ends() == 0
    assert pair.owner(run)[0] is other
    assert pair.now(run).lost_attempts == 0
    for sandbox in other.sandboxes():
        sandbox.kill()
    pair.wait(run, "failed")


def test_the_runs_of_a_killed_worker_go_on_at_another(pair: Pair) -> None:
    run = pair.submit("talk", {"times": 25})
    pair.wait_for_token(run)
    worker, other = pair.owner(run)
    sandboxes = [*worker.sandboxes(), worker.zygote]
    begun = time.monotonic()
    worker.kill("SIGKILL")
    assert worker.ends() == -9
    assert wait_until(lambda: not any(process.is_running() for process in sandboxes), 2)
    pair.wait_for_token(run, attempt=2)
    assert time.monotonic() - begun < 2 * LEASE_S + 1
    assert pair.owner(run)[0] is other
    ended = pair.wait(run, "completed")
    assert (ended.attempt, ended.lost_attempts, ended.output) == (2, 1, {"said": 25})
    log = pair.log(run)
    assert [event["run_seq"] for event in log] == list(range(1, len(log) + 1))
    assert wait_until(lambda: pair.services.slots.held("alice") == [], 2)


def test_a_killed_sandbox_ends_its_run_within_a_second_and_no_other(pair: Pair) -> None:
    run = pair.submit("wait")
    pair.wait_for_token(run)
    worker, _ = pair.owner(run)
    (sandbox,) = worker.sandboxes()
    others = [pair.submit("wait", user_id="bob") for _ in range(2)]
    for other in others:
        pair.wait_for_token(other)
    sandbox.kill()
    ended = pair.wait(run, "failed", timeout_s=1)
    assert ended.error is not None
    assert ended.error["type"] == "sandbox_died"
    assert "killed by signal 9 (SIGKILL)" in ended.error["message"]
    assert "its only attempt" in ended.error["message"]
    assert pair.wait(pair.submit("echo"), "completed", timeout_s=2)
    assert [pair.now(other).status for other in others] == ["running", "running"]
    for sandbox in (sandbox for each in pair.workers for sandbox in each.sandboxes()):
        sandbox.kill()
    for other in others:
        pair.wait(other, "failed")


def test_a_worker_that_stood_still_past_its_lease_writes_nothing_any_more(pair: Pair) -> None:
    run = pair.submit("talk", {"times": 30})
    pair.wait_for_token(run)
    worker, other = pair.owner(run)
    worker.kill("SIGSTOP")
    pair.wait_for_token(run, attempt=2)
    assert pair.owner(run)[0] is other
    ended = pair.wait(run, "completed")
    assert (ended.attempt, ended.lost_attempts) == (2, 1)
    before = row(pair.services.database, run)
    worker.kill("SIGCONT")
    assert wait_until(lambda: worker.sandboxes() == [], 5)
    again = pair.submit("wait", {"seconds": 0.2}, "bob")
    pair.wait(again, "completed")
    assert wait_until(lambda: pair.known_workers() == 2, 5)  # it has heard, and is of use again
    assert row(pair.services.database, run) == before
    attempts = [event["attempt"] for event in pair.log(run)]
    assert attempts == sorted(attempts)
    assert pair.services.slots.held("alice") == []
