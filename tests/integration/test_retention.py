"""What is past retention goes, in small steps, and nothing else does."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from shared import events, runs
from shared.acceptance import IdempotencyKey, accept
from shared.database import Database
from shared.event_types import EventType
from shared.events import Event
from shared.models import AgentState, Artifact, Base, Run, RunStep, Thread
from shared.outcomes import Completed
from shared.retention import Removed, Retention
from shared.services import Services
from shared.threads import delete_thread, remove_deleted_threads
from tests.services import Submit, a_context, an_agent, in_parallel, start_run

DAYS = 30.0
OLD = timedelta(days=DAYS, minutes=1)
YOUNG = timedelta(days=DAYS, minutes=-1)


@pytest.fixture
def retention(database: Database) -> Retention:
    return Retention(database, DAYS)


def end(services: Services, run: Run, age: timedelta | None, superuser: sa.Connection) -> Run:
    """Has the run say something and end; `age` ago, if it is given."""
    started = start_run(services, run)
    with services.database.user_session(run.user_id) as session:
        events.append(session, [Event(run.user_id, run.id, 1, EventType.AGENT_THINKING, "echo", {"text": "x"})])
        assert runs.finish(session, started, Completed({}), "worker:1")
    if age is not None:
        superuser.execute(
            sa.text("UPDATE lanewise.runs SET finished_at = now() - CAST(:age AS interval) WHERE id = :id"),
            {"age": age, "id": run.id},
        )
    return started


def keep_things(database: Database, run: Run) -> None:
    """Leaves in every table that has rows of runs or threads one of this run, and a memory of its thread."""
    of_run: dict[str, Any] = {"user_id": run.user_id, "run_id": run.id}
    memory = {
        "user_id": run.user_id,
        "thread_id": run.thread_id,
        "agent": "echo",
        "version": 1,
        "value": 1,
        "saved_by": "",
    }
    with database.user_session(run.user_id) as session:
        session.add(RunStep(**of_run, name="s", attempt=1, size=1, result=1))
        session.add(Artifact(**of_run, name="a", content_type="text/plain", size=1, sha256="", content=b"x"))
        session.add(AgentState(**memory, run_id=run.id))
        session.merge(AgentState(**memory, run_id=""))


def counts(database: Database, user_id: str = "alice") -> dict[str, int]:
    """Returns how many rows of the user there are in each table that has some."""
    with database.user_session(user_id) as session:
        found = {
            name.removeprefix("lanewise."): session.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
            if "user_id" in table.columns
        }
    return {name: count for name, count in found.items() if count}


def log(database: Database, run: Run) -> list[int]:
    with database.user_session(run.user_id) as session:
        return [event["seq"] for event in events.read_run(session, run.user_id, run.id, 0, 100)]


def trimmed(database: Database, user_id: str = "alice") -> int:
    with database.user_session(user_id) as session:
        return events.trimmed_to(session, user_id)


def test_a_run_goes_with_all_that_is_its_own(
    services: Services, database: Database, superuser: sa.Connection, retention: Retention
) -> None:
    context = a_context()
    answer = accept(
        database.once("alice"), context, an_agent(), {}, metadata={}, time_limit_s=1, new_thread=True, quota=9, slots=3,
        key=IdempotencyKey("k", "f"),
    )  # fmt: skip
    run = end(services, answer.run, OLD, superuser)  # type: ignore[union-attr]
    keep_things(database, run)
    before = counts(database)
    assert before.keys() >= {
        "runs",
        "run_events",
        "run_steps",
        "artifacts",
        "agent_state",
        "idempotency_keys",
        "threads",
    }
    assert retention.remove_old() == Removed(runs=1, events=4, threads=1)
    assert counts(database) == {"user_streams": 1, "audit_log": before["audit_log"]}
    assert retention.remove_old() == Removed()


def test_what_is_younger_live_or_anothers_stays(
    services: Services, database: Database, superuser: sa.Connection, retention: Retention, submit: Submit
) -> None:
    live = submit("alice")
    old = end(services, submit("alice"), OLD, superuser)
    young = end(services, submit("alice", thread_id=old.thread_id), YOUNG, superuser)
    others = end(services, submit("bob"), YOUNG, superuser)
    for run in (old, young, others):
        keep_things(database, run)
    assert [log(database, run) for run in (live, old, young)] == [[1], [2, 3, 4, 5], [6, 7, 8, 9]]
    bobs = counts(database, "bob")
    assert retention.remove_old() == Removed(runs=1, events=4, threads=0)
    assert [log(database, run) for run in (live, old, young)] == [[1], [], [6, 7, 8, 9]]
    assert (trimmed(database), trimmed(database, "bob")) == (5, 0)
    left = counts(database)
    assert (left["runs"], left["threads"], left["agent_state"], left["run_steps"]) == (2, 2, 2, 1)
    assert counts(database, "bob") == bobs


def test_what_the_stream_lost_never_becomes_less(
    services: Services, database: Database, superuser: sa.Connection, retention: Retention, submit: Submit
) -> None:
    first, second = submit("alice"), submit("alice")
    end(services, second, OLD, superuser)
    end(services, first, YOUNG, superuser)
    retention.remove_old()
    assert trimmed(database) == 5
    superuser.execute(sa.text("UPDATE lanewise.runs SET finished_at = now() - interval '31 days'"))
    superuser.execute(sa.text("DELETE FROM lanewise.run_events WHERE seq > 1"))
    retention.remove_old()
    assert trimmed(database) == 5


def test_it_goes_in_steps_the_oldest_first(
    services: Services, database: Database, superuser: sa.Connection, retention: Retention, submit: Submit
) -> None:
    ages = [OLD + timedelta(days=days) for days in (1, 3, 2)]
    made = [end(services, submit(user), age, superuser) for user, age in zip("abc", ages, strict=True)]
    assert retention.remove_old(limit=2).runs == 2
    assert [bool(log(database, run)) for run in made] == [True, False, False]
    assert retention.remove_old(limit=2).runs == 1


def test_a_transaction_is_bounded_by_events_too_and_a_call_by_time(
    services: Services, database: Database, superuser: sa.Connection, monkeypatch: pytest.MonkeyPatch, submit: Submit
) -> None:
    for _ in range(5):
        end(services, submit("alice"), OLD, superuser)
    monkeypatch.setattr("shared.retention.MOST_S", -1.0)  # so that each call makes one transaction
    retention = Retention(database, DAYS)
    for most, runs_gone in ((3, 1), (8, 2), (11, 2)):
        monkeypatch.setattr("shared.retention.MAX_EVENTS", most)
        removed = retention.remove_old()
        assert (removed.runs, removed.events) == (runs_gone, 4 * runs_gone)


@pytest.mark.parametrize("table", ["idempotency_keys", "agent_state"])
def test_what_goes_with_a_run_is_found_by_an_index(superuser: sa.Connection, table: str) -> None:
    superuser.execute(sa.text("SET enable_seqscan = off"))
    rows = Base.metadata.tables[f"lanewise.{table}"]
    query = sa.delete(rows).where(rows.c.user_id == "a", rows.c.run_id.in_(["b", "c"]))
    sql = str(query.compile(superuser, compile_kwargs={"literal_binds": True}))
    assert f"{table}_by_run" in "".join(superuser.exec_driver_sql("EXPLAIN " + sql).scalars())


def test_threads_without_a_run_go_when_they_are_as_old(
    services: Services, database: Database, superuser: sa.Connection, monkeypatch: pytest.MonkeyPatch, submit: Submit
) -> None:
    monkeypatch.setattr("shared.retention.THREADS_LOOKED_AT", 2)
    used = submit("alice")
    with database.user_session("alice") as session:
        session.add_all([Thread(user_id="alice", id=name, meta={}) for name in ("old-1", "old-2", "old-3", "young")])
    superuser.execute(
        sa.text("UPDATE lanewise.threads SET created_at = now() - interval '31 days' WHERE id <> 'young'")
    )
    retention = Retention(database, DAYS)
    assert sum(retention.remove_old().threads for _ in range(4)) == 3
    with database.user_session("alice") as session:
        assert set(session.scalars(sa.select(Thread.id))) == {"young", used.thread_id}
        session.add(Thread(user_id="alice", id="a", meta={}, created_at=datetime.now(UTC) - OLD))
    assert sum(retention.remove_old().threads for _ in range(3)) == 1  # it begins again
    assert services


def test_a_run_that_is_being_accepted_keeps_its_thread(
    services: Services, database: Database, superuser: sa.Connection, retention: Retention, submit: Submit
) -> None:
    old = end(services, submit("alice"), OLD, superuser)
    done = threading.Event()
    removed: list[Removed] = []
    with database.user_session("alice") as session:
        answer = accept(
            session, a_context(thread_id=old.thread_id), an_agent(), {}, metadata={}, time_limit_s=1,
            new_thread=False, quota=9, slots=3,
        )  # fmt: skip

        def remove() -> None:
            removed.append(retention.remove_old())
            done.set()

        threading.Thread(target=remove, daemon=True).start()
        done.wait(0.3)  # it waits for the stream, which the submission has
        assert not done.is_set()
    assert done.wait(5)
    assert removed == [Removed(runs=1, events=4, threads=0)]
    assert log(database, answer.run) == [5]  # type: ignore[union-attr]


def test_emptied_events_of_deleted_threads_go_too(
    services: Services, database: Database, superuser: sa.Connection, retention: Retention, submit: Submit
) -> None:
    deleted, kept = submit("alice"), submit("alice")
    end(services, deleted, None, superuser)
    end(services, kept, OLD, superuser)
    with database.user_session("alice") as session:
        delete_thread(session, "alice", deleted.thread_id)
    assert remove_deleted_threads(database) == 1
    assert len(log(database, deleted)) == 4
    assert retention.remove_old() == Removed(runs=1, events=8, threads=1)
    assert log(database, deleted) == []


def test_a_user_whose_rows_are_held_keeps_no_other_from_being_looked_at(
    services: Services, database: Database, superuser: sa.Connection, retention: Retention, submit: Submit
) -> None:
    for user_id in ("alice", "bob", "eve"):
        end(services, submit(user_id), OLD, superuser)
    with database.user_session("alice") as holder:
        holder.execute(sa.text("SELECT FROM user_streams FOR UPDATE"))
        assert retention.remove_old().runs == 2
    assert retention.remove_old().runs == 1


def test_two_leaders_at_once_remove_everything_once(
    services: Services, database: Database, superuser: sa.Connection, submit: Submit
) -> None:
    for _ in range(20):
        end(services, submit("alice"), OLD, superuser)
    removed: list[Removed] = []
    in_parallel(2, lambda _: removed.append(Retention(database, DAYS).remove_old()))
    removed.append(Retention(database, DAYS).remove_old())
    assert sum(item.runs for item in removed) == 20
    assert sum(item.events for item in removed) == 80
    assert counts(database).keys() == {"user_streams", "audit_log"}
