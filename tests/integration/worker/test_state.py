"""`run.state`, artifacts and usage: real sandboxes, a real worker's parts, real Postgres."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
import sqlalchemy as sa

from lanewise.process import wait_until
from shared import records
from shared.database import Database
from shared.errors import QuotaError, StateConflictError, SupersededError
from shared.models import AgentState, Artifact, Run, RunStep
from shared.services import Services
from tests.nodes import PATIENCE_S, Node
from tests.services import start_run, submit_run
from worker import calls

ENDS = ("completed", "failed")
# What docs/authoring.md tells authors to do for a table of their own.
ORDERS = """
    CREATE TABLE lanewise.orders (user_id text NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY, item text NOT NULL,
        PRIMARY KEY (user_id, id));
    ALTER TABLE lanewise.orders ENABLE ROW LEVEL SECURITY;
    ALTER TABLE lanewise.orders FORCE ROW LEVEL SECURITY;
    CREATE POLICY run ON lanewise.orders USING (user_id = (SELECT lanewise.run_user()));
    GRANT SELECT, INSERT ON lanewise.orders TO lanewise_run;
"""


@pytest.fixture
def orders(superuser: sa.Connection) -> Iterator[sa.Connection]:
    """A table of an author's own."""
    superuser.execute(sa.text(ORDERS))
    yield superuser
    superuser.execute(sa.text("DROP TABLE lanewise.orders"))


def finish(node: Node, run: Run) -> Run:
    """Takes what the broker brings until the run has ended, over its attempts."""

    def ended() -> bool:
        node.pump()
        return node.now(run).status in ENDS

    assert wait_until(ended, PATIENCE_S), (node.now(run).status, node.log(run))
    return node.now(run)


def texts(node: Node, run: Run) -> list[tuple[int, str]]:
    """Returns what the agent of a run said, with the attempts."""
    return [(event["attempt"], event["data"]["text"]) for event in node.log(run) if event["type"] == "agent_thinking"]


def rows(node: Node, model: type, user_id: str = "alice") -> list[Any]:
    with node.services.database.user_session(user_id) as session:
        return list(session.scalars(sa.select(model)))


# Steps

DONE = {"made": [["a", {"t": [1, 2.0]}], {"number": 7}], "third": None}


def test_a_step_gives_what_it_returned_as_json_has_it(node: Node) -> None:
    run = node.begin("steps")
    assert node.wait(run).output == DONE
    assert {step.name: step.result for step in rows(node, RunStep)} == {
        "first": ["a", {"t": [1, 2.0]}], "second": {"number": 7}, "third": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("die", "said"),
    [
        ("in second", [(1, "first"), (1, "second"), (2, "second")]),
        ("after second", [(1, "first"), (1, "second")]),
    ],
)
def test_a_recovered_run_does_not_do_recorded_steps_again(node: Node, die: str, said: list[tuple[int, str]]) -> None:
    run = node.begin("steps", {"die": die})
    ended = finish(node, run)
    assert (ended.output, ended.attempt) == (DONE, 2)
    assert texts(node, run) == said


def test_a_superseded_attempt_records_nothing(services: Services, superuser: sa.Connection) -> None:
    run = start_run(services, submit_run(services))
    once = services.database.once("alice")
    assert records.record_step(once, run, "one", {"a": 1}) is True
    superuser.execute(sa.text("UPDATE lanewise.runs SET attempt = attempt + 1 WHERE id = :id"), {"id": run.id})
    for write in (
        lambda: records.record_step(once, run, "two", 2),
        lambda: records.save_state(once, run, "a", "thread", expected=0, value=1, token="t"),
        lambda: records.add_usage(once, run, "m", 1, 1),
    ):
        with pytest.raises(SupersededError):
            write()
    with pytest.raises(SupersededError), services.database.user_session("alice") as session:
        records.save_artifact(session, run, "a.txt", "text/plain", b"")
    with services.database.user_session("alice") as session:
        assert [step.name for step in session.scalars(sa.select(RunStep))] == ["one"]
        assert list(session.scalars(sa.select(AgentState))) == []
        assert list(session.scalars(sa.select(Artifact))) == []
        assert session.scalar(sa.select(Run.usage)) == {}


def test_a_step_stays_what_it_was_first(services: Services) -> None:
    run = start_run(services, submit_run(services))
    once = services.database.once("alice")
    assert records.load_step(once, run, "one") == []
    text = '{"b": 1, "a": "\\u0000 is text here"}'
    assert records.record_step(once, run, "one", {"b": 1.0, "a": [None, "ä\n"]}) is True
    assert records.record_step(once, run, "one", text) is False
    (value,) = records.load_step(once, run, "one")
    assert value == {"b": 1.0, "a": [None, "ä\n"]}
    assert list(value) == ["b", "a"]
    assert isinstance(value["b"], float)


def test_a_step_recorded_again_is_known_though_the_run_is_full(services: Services, superuser: sa.Connection) -> None:
    run = start_run(services, submit_run(services))
    once = services.database.once("alice")
    assert records.record_step(once, run, "one", 1)
    superuser.execute(sa.text("UPDATE lanewise.run_steps SET size = :size"), {"size": records.MAX_STEPS_BYTES})
    assert records.record_step(once, run, "one", 1) is False


def test_the_limits_of_steps_are_the_same_in_the_database() -> None:
    text = (files("shared.migrations") / "sql" / "0002" / "record_step.sql").read_text()
    assert f">= {records.MAX_STEPS} " in text
    assert "> 64 * 1024 * 1024" in text
    assert records.MAX_STEPS_BYTES == 64 * 1024 * 1024
    own = (files("shared.migrations") / "sql" / "0002" / "record_own_step.sql").read_text()
    assert f"BETWEEN 1 AND {calls.MAX_STEP_NAME} OR" in own
    assert f"> {calls.MAX_RECORD_BYTES} " in own


def test_the_steps_of_a_run_are_limited(services: Services, superuser: sa.Connection) -> None:
    run = start_run(services, submit_run(services))
    once = services.database.once("alice")
    superuser.execute(
        sa.text("""
            INSERT INTO lanewise.run_steps (user_id, run_id, name, attempt, size, result)
            SELECT 'alice', :id, 'step ' || n, 1, 1, '1' FROM generate_series(1, 999) n
        """),
        {"id": run.id},
    )
    assert records.record_step(once, run, "the last", 1)
    with pytest.raises(QuotaError, match="1,000"):
        records.record_step(once, run, "one more", 1)
    superuser.execute(sa.text("UPDATE lanewise.run_steps SET size = 67200"))
    superuser.execute(sa.text("DELETE FROM lanewise.run_steps WHERE name IN ('step 1', 'step 2')"))
    with pytest.raises(QuotaError, match="67108864 bytes"):
        records.record_step(once, run, "too much", "x" * 60_000)


# Workflows

PARTS = {name: name for name in ("first", "left", "right", "last")}


@pytest.mark.parametrize("die", [None, "first", "left", "last"])
def test_a_workflow_goes_on_after_its_last_finished_step(node: Node, die: str | None) -> None:
    run = node.begin("flow", {"die": die})
    ended = finish(node, run)
    assert (ended.output, ended.attempt, ended.error) == (PARTS, 1 if die is None else 2, None)
    said = texts(node, run)
    assert {text for _, text in said} == set(PARTS)
    before = {"first": set(), "left": {"first"}, "last": {"first", "left", "right"}}
    if die is not None:
        assert not before[die] & {text for attempt, text in said if attempt == 2}
    events = node.log(run)
    whole = [e["data"].get("run_fraction", e["data"]["fraction"]) for e in events if e["type"] == "agent_progress"]
    assert whole[-1] == 1.0
    if die is None:
        assert whole == sorted(whole)
    assert {event["agent"] for event in events if event["type"] == "agent_started"} == {"flow", "part"}
    assert node.now(run).progress == 1.0


def test_the_progress_of_a_run_is_that_of_its_whole_workflow(node: Node) -> None:
    run = node.begin("flow", {"hold": "left"})
    assert wait_until(lambda: node.now(run).progress == pytest.approx(0.625), PATIENCE_S), node.now(run).progress
    node.services.redis.set(node.services.keys.store("alice", "go"), "1", ex=60)
    assert node.wait(run).output == PARTS


def test_a_cancel_ends_all_parts_of_a_workflow(node: Node) -> None:
    run = node.begin("flow", {"hold": "left"})
    node.wait_for_text(run, "left")
    node.live(run).cancel()
    assert node.wait(run).status == "cancelled"
    assert "last" not in [text for _, text in texts(node, run)]


# Steps in the database


def test_a_db_steps_effects_and_record_are_committed_together(node: Node, orders: sa.Connection) -> None:
    run = node.begin("book", {"item": "tea"})
    assert node.wait(run).output == {"count": 1}
    assert orders.execute(sa.text("TABLE lanewise.orders")).all() == [("alice", 1, "tea")]
    assert {step.name: step.result for step in rows(node, RunStep)} == {"order": 1}
    failed = node.wait(node.begin("book", {"item": "tea", "fail": True}))
    assert failed.error is not None
    assert failed.error["message"] == "after the insert"
    assert orders.execute(sa.text("SELECT count(*) FROM lanewise.orders")).scalar() == 1


def test_a_recovered_run_does_not_repeat_a_committed_db_step(node: Node, orders: sa.Connection) -> None:
    run = node.begin("book", {"item": "tea", "die": True})
    ended = finish(node, run)
    assert (ended.output, ended.attempt) == ({"count": 1}, 2)
    assert texts(node, run) == [(1, "writing")]
    assert orders.execute(sa.text("SELECT count(*) FROM lanewise.orders")).scalar() == 1


def test_a_db_step_of_a_superseded_attempt_is_undone(node: Node, orders: sa.Connection) -> None:
    run = node.begin("book", {"item": "tea", "hold": True})
    node.wait_for_text(run, "writing")
    # Another worker takes over, as far as the table tells; this one has not heard of it yet.
    orders.execute(sa.text("UPDATE lanewise.runs SET attempt = attempt + 1 WHERE id = :id"), {"id": run.id})
    node.services.redis.set(node.services.keys.store("alice", "go"), "1", ex=60)
    node.join()
    assert orders.execute(sa.text("SELECT count(*) FROM lanewise.orders")).scalar() == 0
    assert rows(node, RunStep) == []


def test_who_ends_an_attempt_waits_for_a_step_that_is_being_committed(
    services: Services, run_database: Database
) -> None:
    """The step's lock lets the log go on, and holds off the end of the attempt."""
    from tests.integration.test_rls import token  # noqa: PLC0415 - of the attacks there

    run = start_run(services, submit_run(services))
    with run_database.token_session(token(run)) as session:
        assert session.scalar(sa.text("SELECT record_own_step('one', '1')")) == "recorded"
        with services.database.user_session("alice") as other:
            other.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
            other.execute(sa.text("SELECT last_run_seq FROM runs FOR NO KEY UPDATE"))  # as the event log does
        with pytest.raises(Exception, match="others hold"), services.database.user_session("alice") as other:
            other.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
            other.execute(sa.text("SELECT FROM runs FOR UPDATE"))  # as `end_run` and a requeue do


@pytest.mark.parametrize(("how", "goes_on"), [("artifact", True), ("step", False)])
def test_a_sandbox_that_holds_locks_of_its_run_is_ended_like_any_other(node: Node, how: str, goes_on: bool) -> None:  # noqa: FBT001
    run = node.begin("holder", {"how": how})
    node.wait_for_text(run, "begun")
    if goes_on:  # a step that is being recorded is in nobody's way
        node.wait_for_text(run, "called")
    began = time.monotonic()
    node.live(run).cancel()
    assert node.wait(run).status == "cancelled"
    assert time.monotonic() - began < 3  # a grace of 0.3 s, what is between SIGTERM and SIGKILL, and a lock's time-out


def test_a_result_with_a_lock_in_hand_is_recorded_without_its_sandbox(node: Node) -> None:
    run = node.begin("holder", {"how": "result"})
    ended = node.wait(run)
    assert (ended.status, ended.output) == ("completed", "held")
    node.join()


@pytest.mark.parametrize("name", ["", "x" * 501])
def test_a_sandbox_cannot_record_what_is_beyond_the_limits(
    services: Services, run_database: Database, name: str
) -> None:
    from tests.integration.test_rls import token  # noqa: PLC0415

    run = start_run(services, submit_run(services))
    for step, result in ((name, "1"), ("big", '"' + "x" * 1_100_000 + '"')):
        with pytest.raises(Exception, match="a step has a name"), run_database.token_session(token(run)) as session:
            session.scalar(sa.text("SELECT record_own_step(:n, CAST(:r AS json))"), {"n": step, "r": result})
    with run_database.token_session("forged") as session:
        assert session.scalar(sa.text("SELECT record_own_step('one', '1')")) == "superseded"


# Memory


def test_an_agent_remembers_over_the_runs_of_a_thread_and_not_over_users(node: Node) -> None:
    first = node.begin("remember", {"add": 1})
    assert node.wait(first).output == {"before": None, "after": 1}
    for before in (1, 2):
        again = node.begin("remember", {"add": 1}, thread_id=first.thread_id)
        assert node.wait(again).output == {"before": before, "after": before + 1}
    elsewhere = node.begin("remember", {"add": 10})
    assert node.wait(elsewhere).output == {"before": None, "after": 10}
    hers = node.begin("remember", {"add": 100}, "bob")
    assert node.wait(hers).output == {"before": None, "after": 100}
    assert [state.value for state in rows(node, AgentState, "bob")] == [100]


def test_two_runs_of_a_thread_cannot_overwrite_each_other_silently(node: Node) -> None:
    slow = node.begin("remember", {"save": "slow", "hold": True})
    node.wait_for_text(slow, "loaded")
    fast = node.begin("remember", {"save": "fast"}, thread_id=slow.thread_id)
    assert node.wait(fast).output == {"before": None, "after": "fast"}
    node.services.redis.set(node.services.keys.store("alice", "go"), "1", ex=60)
    ended = node.wait(slow)
    assert ended.error is not None
    assert (ended.status, ended.error["type"]) == ("failed", "state_conflict")
    assert [state.value for state in rows(node, AgentState)] == ["fast"]


def test_updates_of_one_state_from_many_runs_all_count(node: Node) -> None:
    first = node.begin("remember", {"add": 1})
    node.wait(first)
    others = [node.submit("remember", {"add": 1}, thread_id=first.thread_id) for _ in range(6)]
    while any(node.now(run).status not in ENDS for run in others):
        node.services.dispatcher.admit("alice")
        node.pump()
    assert [state.value for state in rows(node, AgentState)] == [7]


def test_updates_from_several_threads_of_a_run_all_count(node: Node) -> None:
    assert node.wait(node.begin("both", {"times": 8})).output == 8


def test_the_same_value_saved_by_two_is_a_conflict_all_the_same(node: Node) -> None:
    ended = node.wait(node.begin("both", {"twice": True, "times": 1}))
    assert ended.error is not None
    assert ended.error["type"] == "state_conflict"


def test_saving_again_because_the_answer_was_lost_is_no_conflict(services: Services) -> None:
    run = start_run(services, submit_run(services))
    once = services.database.once("alice")
    for expected, value in ((0, {"n": 1}), (0, {"n": 1}), (1, {"n": 2}), (1, {"n": 2})):
        assert records.save_state(once, run, "a", "thread", expected=expected, value=value, token="t") == expected + 1
    for value, expected in (({"n": 9}, 0), ({"n": 1}, 7)):
        with pytest.raises(StateConflictError):
            records.save_state(once, run, "a", "thread", expected=expected, value=value, token="t")
    other = start_run(services, submit_run(services, thread_id=run.thread_id))
    with pytest.raises(StateConflictError):  # the same value from another run is another save
        records.save_state(once, other, "a", "thread", expected=1, value={"n": 2}, token="u")
    assert records.load_state(once, other, "a", "thread") == (2, {"n": 2})
    assert records.load_state(once, other, "b", "thread") == (0, None)
    assert records.load_state(once, other, "a", "run") == (0, None)


# Artifacts and usage


def test_artifacts_are_saved_told_and_replaced(node: Node) -> None:
    files = [{"name": "a.txt", "text": "one"}, {"name": "b c.csv", "text": "x,y\n", "type": "text/csv; charset=utf-8"}]
    run = node.begin("files", {"files": [*files, {"name": "a.txt", "text": "twö"}]})
    assert node.wait(run).output == [
        {"name": "a.txt", "content_type": "text/plain", "size": 3},
        {"name": "b c.csv", "content_type": "text/csv; charset=utf-8", "size": 4},
        {"name": "a.txt", "content_type": "text/plain", "size": 4},
    ]
    told = [event["data"]["name"] for event in node.log(run) if event["type"] == "agent_artifact"]
    assert told == ["a.txt", "b c.csv", "a.txt"]
    kept = {item.name: (item.content, item.size, item.run_id) for item in rows(node, Artifact)}
    assert kept == {"a.txt": ("twö".encode(), 4, run.id), "b c.csv": (b"x,y\n", 4, run.id)}


MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        ([{"name": "../a"}], "invalid", "name must be"),
        ([{"name": ""}], "invalid", "name must be"),
        ([{"name": "a", "type": "text/html\r\nX: y"}], "invalid", "content_type must be"),
        ([{"name": "a", "times": 4 * MIB + 1}], "too_large", "the limit is 4194304"),
        ([{"name": str(n)} for n in range(33)], "quota_exceeded", "32 artifacts"),
        ([{"name": str(n), "times": 4 * MIB - 1} for n in range(5)], "quota_exceeded", "the limit is 16777216"),
    ],
)
def test_artifacts_are_limited(node: Node, files: list[dict[str, Any]], kind: str, message: str) -> None:
    ended = node.wait(node.begin("files", {"files": files}))
    assert ended.error is not None
    assert (ended.error["type"], message in ended.error["message"]) == (kind, True), ended.error


def test_usage_is_added_up_in_the_run(services: Services) -> None:
    run = start_run(services, submit_run(services))
    once = services.database.once("alice")
    records.add_usage(once, run, "small", 10, 5)
    records.add_usage(once, run, "large", 1, 2)
    with services.database.user_session("alice") as session:
        usage = session.scalar(sa.select(Run.usage))
    assert usage == {"model": "large", "requests": 2, "input_tokens": 11, "output_tokens": 7}
