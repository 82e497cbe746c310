from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from lanewise.process import wait_until
from shared import catalogue
from shared.database import Database
from shared.models import Agent, Worker

LEASE_S = 60.0


def described(name: str, **changes: Any) -> dict[str, Any]:
    agent = {"name": name, "description": f"The {name} agent.", "input_schema": {"type": "object"}}
    return agent | {"queue": "default", "time_limit_s": 60.0, "max_attempts": 3} | changes


def announce(database: Database, worker_id: str, *agents: dict[str, Any], queues: str = "default") -> None:
    worker = {"id": worker_id, "name": worker_id, "queues": queues.split(","), "slots": 8}
    with database.system_session() as session:
        catalogue.announce(session, worker, agents)


def running(database: Database, lease_s: float = LEASE_S) -> list[str]:
    with database.system_session() as session:
        return [agent.name for agent in catalogue.running_agents(session, lease_s)]


def live(database: Database, lease_s: float = LEASE_S) -> int:
    with database.system_session() as session:
        return catalogue.live_workers(session, lease_s)


def change(database: Database, worker_id: str, **values: Any) -> None:
    with database.system_session() as session:
        session.execute(sa.update(Worker).where(Worker.id == worker_id).values(**values))


def test_an_agent_is_there_as_long_as_a_worker_has_it(database: Database) -> None:
    assert (running(database), live(database)) == ([], 0)
    announce(database, "w1", described("echo"), described("data"))
    announce(database, "w2", described("echo"))
    assert (running(database), live(database)) == (["data", "echo"], 2)
    change(database, "w1", draining=True)
    assert (running(database), live(database)) == (["echo"], 1)
    with database.system_session() as session:
        session.execute(sa.delete(Worker).where(Worker.id == "w2"))
    assert (running(database), live(database)) == ([], 0)


def test_an_agent_whose_queue_its_worker_does_not_serve_is_not_there(database: Database) -> None:
    announce(database, "w1", described("slow", queue="slow"), described("echo"))
    assert running(database) == ["echo"]
    # A worker that serves the queue but lacks the agent does not help.
    announce(database, "w2", described("other", queue="slow"), queues="slow")
    assert running(database) == ["echo", "other"]
    announce(database, "w3", described("slow", queue="slow"), queues="slow,x")
    assert running(database) == ["echo", "other", "slow"]


def test_a_silent_worker_is_not_counted_until_it_beats_again(database: Database) -> None:
    announce(database, "w1", described("echo"))
    assert wait_until(lambda: live(database, 0.05) == 0, 5)
    assert running(database, 0.05) == []
    assert running(database) == ["echo"]
    with database.system_session() as session:
        assert catalogue.beat(session, "w1")
    assert live(database, 5) == 1


def test_a_worker_that_was_declared_dead_learns_it(database: Database) -> None:
    with database.system_session() as session:
        assert not catalogue.beat(session, "w1")


def test_the_newest_description_counts_and_an_equal_one_writes_nothing(database: Database) -> None:
    def row() -> Agent:
        with database.system_session() as session:
            return session.scalars(sa.select(Agent)).one()

    announce(database, "w1", described("echo"))
    first = row()
    announce(database, "w2", described("echo"))
    assert row().updated_at == first.updated_at
    announce(database, "w3", described("echo", input_schema={"type": "object", "required": ["x"]}, time_limit_s=5))
    now = row()
    assert now.updated_at > first.updated_at
    assert (now.input_schema["required"], now.time_limit_s, now.description) == (["x"], 5, first.description)


@pytest.mark.parametrize("names", [(), ("echo",)])
def test_a_worker_id_is_announced_once(database: Database, names: tuple[str, ...]) -> None:
    announce(database, "w1", *map(described, names))
    with pytest.raises(sa.exc.IntegrityError):
        announce(database, "w1", *map(described, names))
    assert live(database) == 1
