"""Real services for tests: servers once per session, a database of its own for each test, and runs to work on."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import pytest
import redis
import sqlalchemy as sa
from sqlalchemy.orm import Session

from lanewise.embedded import EmbeddedPostgres, EmbeddedRedis
from lanewise.process import StartError
from shared import lanes, runs
from shared.acceptance import Accepted, accept
from shared.context import UserExecutionContext
from shared.errors import ConfigurationError
from shared.ids import new_id
from shared.messages import RunMessage
from shared.migrate import migrate
from shared.models import RUN, SERVICE, Agent, Run
from shared.redis import connect
from shared.services import Services
from shared.settings import Settings, load_settings, next_redis_database
from shared.slots import member

T = TypeVar("T")

SECRETS = ("test-secret-" + "0" * 32,)
TEMPLATE = "lanewise_template"
_numbers = itertools.count(1)
# A crash loses a test database, and that is fine: without these, cloning one costs several times as much.
_CARELESS = ("fsync = off", "full_page_writes = off", "synchronous_commit = off", "max_wal_size = '128MB'")
_MEMORY = Path("/dev/shm")  # noqa: S108 - nothing of ours has a name there that others know


def missing(reason: object) -> NoReturn:
    """Skips for want of a service, with the reason; in CI nothing may be missing."""
    if "CI" in os.environ:
        pytest.fail(f"a service is missing: {reason}", pytrace=False)
    pytest.skip(f"a service is missing: {reason}")


@contextmanager
def server_folder() -> Iterator[Path]:
    """Yields an empty folder for servers, in memory where there is room.

    A database is cloned there five times as fast, and a fleet that starts waits for no disk: what a machine that loses
    its power keeps is no test's matter.
    """
    in_memory = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2**30
    with tempfile.TemporaryDirectory(prefix="lanewise-test-", dir=_MEMORY if in_memory else None) as name:
        yield Path(name)


@dataclass(frozen=True)
class Servers:
    """A Postgres with a migrated template database, and a Redis."""

    postgres: EmbeddedPostgres
    redis: EmbeddedRedis

    @classmethod
    @contextmanager
    def start(cls) -> Iterator[Servers]:
        """Runs both in a temporary folder until the end of the block."""
        with ExitStack() as stack:
            folder = stack.enter_context(server_folder())
            try:
                postgres = stack.enter_context(EmbeddedPostgres(folder))
                redis_server = EmbeddedRedis(folder)
                redis_server.deployment = "test-*"  # see `settings`
                stack.enter_context(redis_server)
            except (ConfigurationError, StartError) as error:
                missing(error)
            servers = cls(postgres, redis_server)
            servers.execute(*(f"ALTER SYSTEM SET {setting}" for setting in _CARELESS), "SELECT pg_reload_conf()")
            servers.execute(f"CREATE DATABASE {TEMPLATE}")
            migrate(servers.url(TEMPLATE), servers.url(TEMPLATE, SERVICE), servers.url(TEMPLATE, RUN), SECRETS)
            servers.execute(f"REVOKE CONNECT ON DATABASE {TEMPLATE} FROM {RUN}")  # sandboxes have one database
            yield servers
            with closing(connect(redis_server.admin_url)) as client:
                demand_no_refusal(client)

    @contextmanager
    def new_database(self, template: str = TEMPLATE) -> Iterator[str]:
        """Yields the name of a fresh copy of the template, dropped at the end."""
        name = f"test_{next(_numbers)}"
        self.execute(
            f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy",
            # As `migrate` leaves it; a copy has no rights of its template.
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO {SERVICE}, {RUN}",
        )
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, database: str, role: str | None = None) -> str:
        """Returns the URL of a database, as the superuser or as a role whose password is `password`."""
        url = sa.make_url(self.postgres.admin_url).set(database=database)
        if role is not None:
            url = url.set(username=role, password="password")
        return url.render_as_string(hide_password=False)

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Runs statements as the superuser, each in its own transaction."""
        engine = superuser_engine(self.url(database))
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def settings(self, database: str, user: str | None = None, **values: Any) -> Settings:
        """Returns settings for a database and for Redis keys of its own.

        Args:
            user: `api` or `worker`; default: one who may do in Redis what both may, and look behind the scenes.
        """
        defaults: dict[str, Any] = {
            "database_url": self.url(database, SERVICE),
            "run_database_url": self.url(database, RUN),
            "redis_url": self.redis.admin_url,
            "secret_key": SECRETS,
            "deployment": database.replace("_", "-"),
        }
        if user and "redis_url" not in values:
            defaults |= {
                "redis_url": self.redis.url(user),
                "broker_url": next_redis_database(
                    self.redis.admin_url
                ),  # the patterns of channels are one deployment's
            }
        return load_settings(**(defaults | values))


def demand_no_refusal(admin: redis.Redis) -> None:
    """Fails if Redis has refused anything: who lacks a right goes on as without Redis, and nobody would notice."""
    refused = [(entry["username"], entry["reason"], entry["object"]) for entry in admin.acl_log()]
    assert not refused, refused


def superuser_engine(url: str) -> sa.Engine:
    """Returns an engine that commits each statement and keeps no connection."""
    driver_url = sa.make_url(url).set(drivername="postgresql+psycopg2")
    return sa.create_engine(driver_url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")


OpenServices = Callable[..., Services]


class Submit(Protocol):
    """See `submit_run`, with the test's services."""

    def __call__(self, user_id: str = ..., **options: Any) -> Run: ...


def an_agent(name: str = "echo", **columns: Any) -> Agent:
    """Returns an agent as the catalogue has it, not stored."""
    defaults = {
        "description": f"The {name} agent.", "input_schema": {"type": "object"}, "queue": "default",
        "time_limit_s": 60.0, "max_attempts": 3,
    }  # fmt: skip
    return Agent(name=name, **(defaults | columns))


def a_context(user_id: str = "alice", **fields: Any) -> UserExecutionContext:
    """Returns the root context of a new run in a new thread."""
    return UserExecutionContext(**({"user_id": user_id, "thread_id": new_id(), "run_id": new_id()} | fields))


def submit_run(  # noqa: PLR0913 - what a run is made of
    services: Services,
    user_id: str = "alice",
    *,
    agent: Agent | None = None,
    run_input: Any = None,
    metadata: dict[str, Any] | None = None,
    thread_id: str | None = None,
    time_limit_s: float = 60,
    served: bool = True,
) -> Run:
    """Stores a parked run as the api does, without admitting it.

    Args:
        agent: default: `echo`, three attempts; it need not be in the catalogue.
        run_input: default: an empty object.
        thread_id: an existing thread; default: a new one.
        served: whether some worker has the agent; without one a run is not admitted.
    """
    context = a_context(user_id, thread_id=thread_id or new_id())
    agent = agent or an_agent()
    if served:
        serve(services, agent)
    answer = accept(
        services.database.once(user_id),
        context,
        agent,
        {} if run_input is None else run_input,
        metadata=metadata or {},
        time_limit_s=time_limit_s,
        new_thread=thread_id is None,
        quota=1000,
        slots=3,
    )
    assert isinstance(answer, Accepted), answer
    services.publish(answer.stored)
    return answer.run


def serve(services: Services, agent: Agent) -> None:
    """Has a worker be there that has the agent and serves its queue, and that nobody takes for dead."""
    with services.database.system_session() as session:
        session.execute(
            sa.text("""
                INSERT INTO workers (id, name, agents, queues, slots, heartbeat_at)
                VALUES (:id, 'tests', ARRAY[:agent], ARRAY[:queue], 1, 'infinity') ON CONFLICT DO NOTHING
            """),
            {"id": f"{agent.name}@{agent.queue}", "agent": agent.name, "queue": agent.queue},
        )


def slot(run: Run, attempt: int = 1) -> str:
    """Returns the name under which an attempt of the run holds a slot."""
    return member(run.id, attempt)


def grant_run(services: Services, run: Run) -> RunMessage:
    """Marks a parked run as granted and returns the message that the broker would carry; takes no slot."""
    with services.database.user_session(run.user_id) as session:
        return _grant(session, run)


def _grant(session: Session, run: Run) -> RunMessage:
    session.execute(sa.text("UPDATE runs SET not_before = NULL WHERE id = :id"), {"id": run.id})  # no pause
    ((message, _queue),) = lanes.grant(session, run.user_id, [next_slot(session, run)])
    return message


def next_slot(session: Session, run: Run) -> str:
    """Returns the name under which the run's next attempt will hold a slot."""
    now = runs.find(session, run.user_id, run.id)
    assert now is not None
    return slot(run, now.attempt + 1)


def start_run(services: Services, run: Run, worker_id: str = "worker-1") -> Run:
    """Grants and claims a parked run: the answer is the run as its worker knows it."""
    with services.database.user_session(run.user_id) as session:  # at once: a leader would park what nobody can do
        claimed = runs.claim(session, _grant(session, run), worker_id, [run.agent])
    assert claimed is not None
    return claimed[0]


def in_parallel(count: int, work: Callable[[int], T]) -> list[T]:
    """Runs `work(0..count-1)` in threads that start together; returns the results, or raises what one raised."""
    barrier = threading.Barrier(count)

    def start(number: int) -> T:
        barrier.wait(10)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return [done.result(60) for done in [pool.submit(start, number) for number in range(count)]]
