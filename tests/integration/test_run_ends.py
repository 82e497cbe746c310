"""How attempts and runs end, and what a superseded attempt can do: nothing."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from shared import runs
from shared.database import Database
from shared.errors import IllegalTransitionError
from shared.event_types import MAX_DATA_BYTES, EventType
from shared.events import Event
from shared.models import AuditEntry, Run
from shared.outcomes import Completed, Ended, Failed, Lost
from shared.services import Services
from tests.services import Submit, an_agent, grant_run, start_run
from tests.steps import DRAINED, ENDINGS, LOST, cancel, event_types, finish, row, stored


class TestEnds:
    @pytest.mark.parametrize("outcome", ENDINGS, ids=lambda outcome: str(outcome.state))
    def test_each_end_writes_state_event_result_and_audit(
        self, database: Database, services: Services, submit: Submit, outcome: Ended
    ) -> None:
        run = start_run(services, submit("alice"))
        pending = Event("alice", run.id, 1, EventType.AGENT_PROGRESS, "echo", {"fraction": 0.5, "note": "half"})
        written = finish(database, run, outcome, pending)
        assert written is not None
        assert [item.event.type for item in written] == ["agent_progress", f"run_{outcome.state}"]
        now = stored(database, run)
        assert (now.status, now.worker_id, now.last_run_seq) == (str(outcome.state), None, 4)
        assert now.started_at is not None
        assert now.finished_at is not None
        assert now.finished_at >= now.started_at
        assert 0 < now.ran_s < 60
        log = row(database, run)["log"]
        assert [event["run_seq"] for event in log] == [1, 2, 3, 4]
        if isinstance(outcome, Completed):
            assert (now.output, now.error, now.progress) == ({"n": 1}, None, 1.0)
            assert log[-1]["data"] == {}
        else:
            assert (now.output, now.progress) == (None, 0.5)
            assert now.error is not None
            assert now.error == log[-1]["data"]["error"]
            assert now.error["attempt"] == 1
            assert now.error["message"]
        with database.user_session("alice") as session:
            entry = session.scalars(sa.select(AuditEntry).order_by(AuditEntry.id.desc())).first()
            assert entry is not None
            assert (entry.actor, entry.action, entry.outcome) == ("worker:w", "run.end", str(outcome.state))

    def test_any_json_is_a_result(self, database: Database, services: Services, submit: Submit) -> None:
        outputs: list[Any] = [None, 0, "", [], {"a": None}, "ü\u2028😀", -1.5, 2**70]
        for output in outputs:
            run = start_run(services, submit())
            assert finish(database, run, Completed(output))
            assert stored(database, run).output == output

    def test_what_the_user_reads_of_a_failure(self, database: Database, services: Services, submit: Submit) -> None:
        run = start_run(services, submit())
        finish(database, run, Failed("ValueError", "no such column", retryable=True))
        assert stored(database, run).error == {
            "type": "ValueError", "message": "no such column", "attempt": 1, "retryable": True,
        }  # fmt: skip

    def test_an_ended_run_ends_no_second_time(self, database: Database, services: Services, submit: Submit) -> None:
        run = start_run(services, submit())
        assert finish(database, run, Completed(1))
        before = row(database, run)
        late = Event(run.user_id, run.id, 1, EventType.AGENT_TOKEN, "echo", {"text": "late"})
        for outcome in (*ENDINGS, LOST, DRAINED):
            assert finish(database, run, outcome, late) is None, outcome
            assert row(database, run) == before

    @pytest.mark.parametrize("successor", ["parked", "granted", "running"])
    def test_a_superseded_attempt_writes_nothing(
        self, database: Database, services: Services, submit: Submit, successor: str
    ) -> None:
        run = start_run(services, submit())
        assert finish(database, run, LOST)
        if successor == "granted":
            grant_run(services, run)
        elif successor == "running":
            start_run(services, run, "worker-2")
        before = row(database, run)
        late = Event(run.user_id, run.id, 1, EventType.AGENT_PROGRESS, "echo", {"fraction": 0.9})
        for outcome in (*ENDINGS, LOST, DRAINED):
            assert finish(database, run, outcome, late) is None, outcome
            assert row(database, run) == before

    def test_a_session_of_another_user_ends_nothing(
        self, database: Database, services: Services, submit: Submit
    ) -> None:
        run = start_run(services, submit("alice"))
        before = row(database, run)
        with database.user_session("bob") as session:
            assert runs.finish(session, run, Completed(1), "worker:w") is None
        assert row(database, run) == before

    def test_a_queued_run_may_end_but_not_complete(self, database: Database, submit: Submit) -> None:
        run = submit()
        with pytest.raises(IllegalTransitionError):
            finish(database, run, Completed(1))
        assert finish(database, run, Failed("poisoned", "it kills workers"))
        assert (stored(database, run).status, stored(database, run).ran_s) == ("failed", 0)


class TestPause:
    """When the next attempt may begin."""

    def lose(self, services: Services, run: Run, outcome: Lost = LOST) -> Run:
        finish(services.database, start_run(services, run), outcome)
        return stored(services.database, run)

    def pause_s(self, services: Services, run: Run) -> float:
        query = sa.text("SELECT extract(epoch FROM not_before - clock_timestamp()) FROM runs WHERE id = :id")
        with services.database.user_session(run.user_id) as session:
            return float(session.scalar(query, {"id": run.id}))

    def test_after_the_first_loss_there_is_none(self, services: Services, submit: Submit) -> None:
        run = submit()
        assert self.lose(services, run).not_before is None
        assert services.dispatcher.admit("alice") == 1

    def test_then_it_doubles_with_jitter(self, services: Services, submit: Submit) -> None:
        run = submit(agent=an_agent(max_attempts=20))
        self.lose(services, run)
        for longest in (1, 2, 4, 8, 16, 32, 60, 60):
            self.lose(services, run)
            assert longest / 2 - 0.2 < self.pause_s(services, run) <= longest
        assert services.dispatcher.admit("alice") == 0

    def test_losses_that_do_not_count_have_none(self, services: Services, submit: Submit) -> None:
        run = submit()
        for _ in range(4):
            assert self.lose(services, run, DRAINED).not_before is None

    def test_a_stated_pause_is_kept_as_it_is(self, services: Services, submit: Submit) -> None:
        run = submit()
        self.lose(services, run, Lost("retry", "busy", after_s=30))
        assert 29 < self.pause_s(services, run) <= 30
        other = submit()
        self.lose(services, other)
        assert self.lose(services, other, Lost("retry", "busy", after_s=0)).not_before is None

    def test_who_waits_holds_up_nobody_and_starts_when_its_time_has_come(
        self, services: Services, submit: Submit, superuser: sa.Connection
    ) -> None:
        waiting, other = submit(), submit()
        self.lose(services, waiting, Lost("retry", "busy", after_s=30))
        assert services.dispatcher.admit("alice") == 1
        assert stored(services.database, other).granted_at is not None
        superuser.execute(sa.text("UPDATE lanewise.runs SET not_before = now() WHERE not_before IS NOT NULL"))
        assert services.dispatcher.admit("alice") == 1
        assert stored(services.database, waiting).granted_at is not None


class TestHistory:
    def test_the_lost_attempts_are_told_with_the_error(self, services: Services, submit: Submit) -> None:
        run = submit(agent=an_agent(max_attempts=2))
        for outcome in (DRAINED, LOST, Lost("worker_lost", "silent")):
            finish(services.database, start_run(services, run), outcome)
        error = stored(services.database, run).error
        assert error is not None
        assert (error["type"], error["attempt"]) == ("worker_lost", 3)
        assert [(lost["attempt"], lost["reason"], lost["message"]) for lost in error["attempts"]] == [
            (1, DRAINED.type, DRAINED.message), (2, LOST.type, LOST.message), (3, "worker_lost", "silent"),
        ]  # fmt: skip

    def test_an_end_of_its_own_tells_what_was_lost_before(self, services: Services, submit: Submit) -> None:
        run = submit()
        finish(services.database, start_run(services, run), LOST)
        finish(services.database, start_run(services, run), Failed("ValueError", "bad"))
        error = stored(services.database, run).error
        assert error is not None
        assert [lost["attempt"] for lost in error["attempts"]] == [1]

    def test_an_end_that_is_tried_again_tells_each_loss_once(self, services: Services, submit: Submit) -> None:
        run = start_run(services, submit(agent=an_agent(max_attempts=2)))
        finish(services.database, run, LOST)
        again = start_run(services, run)
        for _ in range(3):
            with pytest.raises(KeyError), services.database.user_session("alice") as session:
                runs.finish(session, again, LOST, "worker:w")
                raise KeyError  # the commit failed
        finish(services.database, again, LOST)
        error = stored(services.database, run).error
        assert error is not None
        assert [lost["attempt"] for lost in error["attempts"]] == [1, 2]

    def test_it_is_bounded(self, services: Services, submit: Submit) -> None:
        run = submit()
        at_length = Lost("drained", "\x01" * 2000, counted=False)  # 12,000 bytes as JSON
        for _ in range(22):
            finish(services.database, start_run(services, run), at_length)
        assert [lost["attempt"] for lost in stored(services.database, run).lost] == list(range(3, 23))
        finish(services.database, start_run(services, run), Failed("ValueError", at_length.message))
        failed = row(services.database, run)["log"][-1]
        assert len(failed["data"]["error"]["attempts"]) == 20
        assert len(json.dumps(failed["data"])) <= MAX_DATA_BYTES


class TestLost:
    def test_a_lost_attempt_queues_the_run_again(self, database: Database, services: Services, submit: Submit) -> None:
        run = start_run(services, submit())
        written = finish(database, run, LOST)
        assert written is not None
        assert written[0].event.data == {
            "reason": LOST.type, "message": LOST.message, "attempt": 1, "after_s": 0,
        }  # fmt: skip
        now = stored(database, run)
        assert (now.status, now.granted_at, now.worker_id, now.attempt, now.lost_attempts) == (
            "queued",
            None,
            None,
            1,
            1,
        )
        assert now.finished_at is None
        again = start_run(services, run)
        assert (again.attempt, again.started_at) == (2, run.started_at)
        assert again.claimed_at is not None
        assert again.started_at is not None
        assert again.claimed_at > again.started_at
        assert event_types(database, run) == ["run_queued", "run_started", "run_recovering", "run_started"]

    @pytest.mark.parametrize("max_attempts", [1, 3])
    def test_the_last_counted_attempt_fails_the_run(
        self, database: Database, services: Services, submit: Submit, max_attempts: int
    ) -> None:
        run = submit(agent=an_agent(max_attempts=max_attempts))
        for _ in range(max_attempts):
            assert finish(database, start_run(services, run), LOST)
        now = stored(database, run)
        assert (now.status, now.attempt) == ("failed", max_attempts)
        assert now.error is not None
        assert (now.error["type"], now.error["retryable"]) == ("sandbox_died", True)
        assert ("its only attempt" if max_attempts == 1 else "all 3 attempts") in now.error["message"]

    def test_handing_back_does_not_count(self, database: Database, services: Services, submit: Submit) -> None:
        run = submit(agent=an_agent(max_attempts=1))
        for attempt in range(1, 5):
            assert finish(database, start_run(services, run), DRAINED)
            now = stored(database, run)
            assert (now.status, now.attempt, now.lost_attempts) == ("queued", attempt, 0)
        assert finish(database, start_run(services, run), LOST)
        assert stored(database, run).status == "failed"

    def test_running_time_adds_up_over_attempts(self, database: Database, services: Services, submit: Submit) -> None:
        run = submit()
        for seconds, outcome in ((10, DRAINED), (20, LOST), (5, Completed(1))):
            claimed = start_run(services, run)
            with database.user_session(run.user_id) as session:
                earlier = Run.claimed_at - timedelta(seconds=seconds)
                session.execute(sa.update(Run).where(Run.id == run.id).values(claimed_at=earlier))
            assert finish(database, claimed, outcome)
        assert 35 <= stored(database, run).ran_s < 36

    @pytest.mark.parametrize("lost", [LOST, DRAINED])
    def test_a_lost_run_with_intent_ends_cancelled(
        self, database: Database, services: Services, submit: Submit, lost: Lost
    ) -> None:
        run = start_run(services, submit())
        cancel(database, run)
        assert finish(database, run, lost)
        assert stored(database, run).status == "cancelled"


def test_a_cancel_that_has_read_the_run_before_it_was_claimed_sees_that_it_runs(
    database: Database, services: Services, submit: Submit
) -> None:
    run = submit()
    with database.user_session("alice") as session:
        before = runs.find(session, "alice", run.id)
        start_run(services, run)
        assert runs.request_cancel(session, "alice", run.id)
        assert before is not None
    now = stored(database, run)
    assert (now.status, now.cancel_requested_at is not None) == ("running", True)
