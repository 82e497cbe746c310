"""A run from its submission to its claim, and its cancellation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from shared import events, lanes, runs
from shared.acceptance import Refused, accept
from shared.database import Database
from shared.messages import RunMessage
from shared.models import AuditEntry, Run, Thread
from shared.outcomes import Completed, Ended
from shared.services import Services
from shared.states import ENDS
from tests.services import Submit, a_context, an_agent, grant_run, slot, start_run
from tests.steps import ENDINGS, LOST, cancel, claim, event_types, finish, grant, row, stored


class TestCreate:
    def test_a_new_run_is_parked_with_its_event_and_audit_row(self, database: Database, submit: Submit) -> None:
        run = submit("alice", run_input={"text": "ü"}, metadata={"m": 1}, agent=an_agent(max_attempts=2, queue="q"))
        assert stored(database, run).status == "queued"
        assert (run.attempt, run.last_run_seq, run.granted_at, run.max_attempts, run.queue) == (0, 1, None, 2, "q")
        assert event_types(database, run) == ["run_queued"]
        with database.user_session("alice") as session:
            entry = session.scalars(sa.select(AuditEntry)).one()
            assert (entry.actor, entry.action, entry.object) == ("user:alice", "run.submit", run.id)
            assert entry.correlation_id == run.correlation_id

    def test_the_public_form(self, submit: Submit) -> None:
        run = submit("alice", run_input={"text": "x"}, metadata={"m": 1})
        assert runs.run_view(run, {"position": 1}) == {
            "id": run.id, "agent": "echo", "status": "queued", "thread_id": run.thread_id, "input": {"text": "x"},
            "output": None, "error": None, "attempt": 0, "last_run_seq": 1, "usage": None, "retry_of": None,
            "progress": {"fraction": 0.0, "note": ""}, "queue": {"position": 1}, "metadata": {"m": 1},
            "correlation_id": run.correlation_id,
            "created_at": events.iso(run.created_at), "started_at": None, "finished_at": None,
        }  # fmt: skip

    def test_a_second_run_of_a_thread(self, database: Database, submit: Submit) -> None:
        first = submit("alice")
        assert submit("alice", thread_id=first.thread_id).thread_id == first.thread_id
        with database.user_session("alice") as session:
            assert session.scalars(sa.select(Thread.id)).all() == [first.thread_id]

    def test_a_thread_of_another_user_is_no_thread(self, database: Database, submit: Submit) -> None:
        context = a_context("bob", thread_id=submit("alice").thread_id)
        answer = accept(
            database.once("bob"),
            context,
            an_agent(),
            {},
            metadata={},
            time_limit_s=1,
            new_thread=False,
            quota=9,
            slots=3,
        )
        assert answer == Refused("no_thread", None, None, None)

    def test_a_rolled_back_submission_leaves_nothing(self, database: Database) -> None:
        context = a_context("alice")
        with pytest.raises(KeyError), database.user_session("alice") as session:
            accept(session, context, an_agent(), {}, metadata={}, time_limit_s=1, new_thread=True, quota=9, slots=3)
            raise KeyError
        with database.user_session("alice") as session:
            assert runs.find(session, "alice", context.run_id) is None
            assert events.head(session, "alice") == 0
            assert session.scalars(sa.select(AuditEntry)).all() == []


class TestGrant:
    def test_parked_runs_come_oldest_first(self, database: Database, submit: Submit) -> None:
        made = [submit("alice").id for _ in range(4)]
        submit("bob")
        with database.user_session("alice") as session:
            assert lanes.next_runs(session, "alice", 3) == ([f"{run_id}:1" for run_id in made[:3]], 3, True)

    def test_a_run_is_granted_once(self, database: Database, submit: Submit) -> None:
        first, second = submit("alice", agent=an_agent(queue="special")), submit("alice")
        with database.user_session("alice") as session:
            granted = lanes.grant(session, "alice", [slot(second), slot(first)])
            assert [(message.context.run_id, queue) for message, queue in granted] == [
                (first.id, "special"), (second.id, "default"),
            ]  # fmt: skip
            assert lanes.grant(session, "alice", [slot(first), slot(second)]) == []
            assert lanes.next_runs(session, "alice", 3).members == []
        assert stored(database, first).sends == 1

    def test_a_parked_run_again_goes_to_its_old_place(self, database: Database, submit: Submit) -> None:
        made = [submit("alice") for _ in range(3)]
        message = grant(database, made[0])
        with database.user_session("alice") as session:
            assert lanes.park(session, message)
            assert not lanes.park(session, message)
            assert lanes.next_runs(session, "alice", 3).members == [slot(run) for run in made]
        assert claim(database, message) is None

    def test_who_has_a_right_to_a_slot(self, database: Database, services: Services, submit: Submit) -> None:
        parked, granted, running, ended = (submit("alice") for _ in range(4))
        grant_run(services, granted)
        start_run(services, running)
        finish(database, start_run(services, ended), Completed({}))
        with database.user_session("alice") as session:
            assert lanes.holders(session, "alice") == {slot(granted), slot(running)}
        again = start_run(services, parked)
        finish(database, again, LOST)
        with database.user_session("alice") as session:
            assert lanes.holders(session, "alice") == {slot(granted), slot(running)}
        grant_run(services, again)
        with database.user_session("alice") as session:
            assert lanes.holders(session, "alice") == {slot(granted), slot(running), slot(again, 2)}


class TestClaim:
    def test_claiming_raises_the_attempt_and_says_so(self, database: Database, submit: Submit) -> None:
        run = submit("alice", run_input={"deep": [1, {"x": None}]}, metadata={"m": 1})
        claimed = claim(database, grant(database, run))
        assert claimed is not None
        now = stored(database, run)
        assert (now.status, now.attempt, now.worker_id) == ("running", 1, "worker-1")
        assert now.started_at == now.claimed_at is not None
        # What the worker was given is the row, field by field, but for the event that came after.
        theirs = {column.key: getattr(claimed, column.key) for column in sa.inspect(Run).column_attrs}
        ours = {column.key: getattr(now, column.key) for column in sa.inspect(Run).column_attrs}
        assert theirs | {"last_run_seq": 2} == ours
        assert event_types(database, run) == ["run_queued", "run_started"]

    def test_a_column_of_a_newer_schema_does_not_matter(
        self, database: Database, submit: Submit, superuser: sa.Connection
    ) -> None:
        superuser.execute(sa.text("ALTER TABLE lanewise.runs ADD COLUMN of_tomorrow text DEFAULT 'x'"))
        run = submit("alice")
        claimed = claim(database, grant(database, run))
        assert claimed is not None
        assert claimed.id == run.id

    def test_a_doubled_message_claims_once(self, database: Database, submit: Submit) -> None:
        run = submit("alice")
        message = grant(database, run)
        assert claim(database, message) is not None
        before = row(database, run)
        assert claim(database, message) is None
        assert claim(database, replace(message, attempt=1)) is None
        assert row(database, run) == before

    def test_a_message_of_an_earlier_attempt_claims_nothing(
        self, database: Database, services: Services, submit: Submit
    ) -> None:
        run = submit("alice")
        old = grant(database, run)
        first = claim(database, old)
        assert first is not None
        finish(database, first, LOST)
        grant_run(services, run)
        assert claim(database, old) is None
        assert claim(database, replace(old, attempt=1)) is not None

    def test_a_parked_run_is_not_claimed(self, database: Database, submit: Submit) -> None:
        run = submit("alice")
        with database.user_session("alice") as session:
            context = type(a_context()).from_dict(stored(database, run).context)
            assert runs.claim(session, RunMessage(context, 0), "w", ["echo"]) is None

    def test_a_context_that_is_not_the_stored_one_claims_nothing(self, database: Database, submit: Submit) -> None:
        run = submit("alice")
        message = grant(database, run)
        before = row(database, run)
        other_ids = ("request_id", "correlation_id", "operation_name", "websocket_client_id", "thread_id", "run_id")
        changes: dict[str, Any] = {"user_id": "bob", **dict.fromkeys(other_ids, "other")}
        changes |= {"agent_context": {"role": "admin"}, "audit_metadata": {"role": "admin"}}
        for name, value in changes.items():
            context = replace(message.context, **{name: value})
            assert claim(database, replace(message, context=context)) is None, name
        assert row(database, run) == before
        assert claim(database, message) is not None

    def test_a_worker_without_the_agent_claims_nothing(self, database: Database, submit: Submit) -> None:
        run = submit("alice")
        message = grant(database, run)
        assert claim(database, message, "other", "another") is None
        assert claim(database, message, "other", "echo") is not None

    def test_a_session_of_another_user_claims_nothing(self, database: Database, submit: Submit) -> None:
        message = grant(database, submit("alice"))
        with database.user_session("bob") as session:
            assert runs.claim(session, message, "w", ["echo"]) is None


class TestCancel:
    @pytest.mark.parametrize("granted", [False, True])
    def test_a_queued_run_ends_at_once(
        self, database: Database, services: Services, submit: Submit, *, granted: bool
    ) -> None:
        run = submit("alice")
        message = grant_run(services, run) if granted else None
        answer = cancel(database, run)
        assert answer is not None
        now, written = answer
        assert (now.status, [item.event.type for item in written]) == ("cancelled", ["run_cancelled"])
        assert now.last_run_seq == 2
        assert message is None or claim(database, message) is None

    def test_the_intent_of_a_running_run_is_stored_and_the_run_goes_on(
        self, database: Database, services: Services, submit: Submit
    ) -> None:
        run = start_run(services, submit("alice"))
        answer = cancel(database, run)
        assert answer is not None
        now, written = answer
        assert (now.status, written) == ("running", [])
        assert now.cancel_requested_at is not None
        again = cancel(database, run)
        assert again is not None
        assert again[0].cancel_requested_at == now.cancel_requested_at
        with database.user_session("alice") as session:
            actions = session.scalars(sa.select(AuditEntry.action).order_by(AuditEntry.id)).all()
            assert actions == ["run.submit", "run.cancel_request"]
        # It may still end completed if it was faster.
        assert finish(database, run, Completed(1))
        assert stored(database, run).status == "completed"

    @pytest.mark.parametrize("outcome", ENDINGS, ids=lambda outcome: str(outcome.state))
    def test_an_ended_run_is_unchanged(
        self, database: Database, services: Services, submit: Submit, outcome: Ended
    ) -> None:
        run = start_run(services, submit("alice"))
        finish(database, run, outcome)
        before = row(database, run)
        answer = cancel(database, run)
        assert answer is not None
        assert (answer[0].status in ENDS, answer[1]) == (True, [])
        assert row(database, run) == before

    def test_another_users_run_is_not_there(self, database: Database, submit: Submit) -> None:
        run = submit("alice")
        before = row(database, run)
        assert cancel(database, run, "bob") is None
        assert row(database, run) == before


def test_every_statement_of_the_way_works_without_a_session(database: Database, submit: Submit) -> None:
    """The runner claims and ends by `Database.once`: one round trip each."""
    run = submit("alice")
    once: Callable[[], Any] = lambda: database.once("alice")  # noqa: E731
    ((message, _queue),) = lanes.grant(once(), "alice", [slot(run)])
    claimed = runs.claim(once(), message, "w", ["echo"])
    assert claimed is not None
    assert claimed[1][0].run_seq == 2
    written = runs.end(once(), claimed[0], Completed({"x": "100% :sure"}), "worker:w")
    assert written is not None
    assert written[0].view() == row(database, run)["log"][-1]
    assert stored(database, run).output == {"x": "100% :sure"}
    assert runs.end(once(), claimed[0], Completed(2), "worker:w") is None
