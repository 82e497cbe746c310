"""Where queued runs stand, what they wait for, and what is told of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from lanewise.process import wait_until
from shared import lanes
from shared.acceptance import Accepted, Refused, accept
from shared.events import StoredEvent
from shared.models import Run
from shared.outcomes import Completed, Failed, Lost
from shared.queueing import queue_views
from shared.services import Services
from shared.slots import member
from tests.services import Submit, a_context, an_agent, grant_run, in_parallel, serve, start_run
from tests.steps import cancel, finish, stored

View = dict[str, Any]


def view(services: Services, run: Run, **options: Any) -> View:
    with services.database.user_session(run.user_id) as session:
        return queue_views(session, run.user_id, [stored(services.database, run)], 3, **options)[run.id]


def tell(services: Services, user_id: str = "alice") -> list[StoredEvent]:
    return lanes.tell_positions(services.database.once(user_id), user_id, 3)


def told(services: Services, user_id: str = "alice") -> list[tuple[str, int]]:
    return [(item.event.run_id, item.event.data["position"]) for item in tell(services, user_id)]


def let_a_second_pass(superuser: sa.Connection) -> None:
    superuser.execute(sa.text("UPDATE lanewise.user_streams SET positions_at = positions_at - interval '1 s'"))


def add_copies(superuser: sa.Connection, run: Run, count: int) -> None:
    """Adds queued runs that are like this one, each a millisecond younger than the one before."""
    superuser.execute(
        sa.text("""
            INSERT INTO lanewise.runs (user_id, id, thread_id, agent, queue, status, input, metadata, context,
                correlation_id, max_attempts, time_limit_s, created_at)
            SELECT user_id, 'copy-' || n, thread_id, agent, queue, 'queued', input, metadata, context,
                correlation_id, max_attempts, time_limit_s, created_at + n * interval '1 ms'
            FROM lanewise.runs, generate_series(1, :count) n WHERE id = :id
        """),
        {"id": run.id, "count": count},
    )


def rows_read(session: Session, table: str) -> int:
    """Returns how many rows of the table the transaction has looked at."""
    query = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = :table"
    return int(session.execute(sa.text(query), {"table": table}).scalar_one())


def queued(superuser: sa.Connection, user_id: str = "alice") -> int:
    query = sa.text("SELECT queued FROM lanewise.user_streams WHERE user_id = :user_id")
    return int(superuser.execute(query, {"user_id": user_id}).scalar_one())


class TestPlaces:
    def test_each_stands_behind_the_older_ones_of_its_user(self, services: Services, submit: Submit) -> None:
        made = [submit() for _ in range(4)]
        submit("bob")
        grant_run(services, made[0])
        assert [view(services, run)["position"] for run in made] == [0, 1, 2, 3]
        assert [view(services, run)["reason"] for run in made] == ["fleet_busy"] + ["user_limit"] * 3

    def test_a_page_of_places_costs_one_walk_along_the_queue(
        self, services: Services, submit: Submit, superuser: sa.Connection
    ) -> None:
        first = submit()
        add_copies(superuser, first, 1000)
        with services.database.user_session("alice") as session:
            page = session.scalars(sa.select(Run).order_by(Run.created_at.desc(), Run.id.desc()).limit(200)).all()
            before = rows_read(session, "runs")
            views = queue_views(session, "alice", page, 3)
            assert [views[run.id]["position"] for run in page] == list(range(1001, 801, -1))
            assert (
                rows_read(session, "runs") - before < 2000
            )  # 1,001 that are parked, and those of the page a few times

    def test_who_serves_is_asked_once_however_many_are_passed_over(
        self, services: Services, submit: Submit, superuser: sa.Connection
    ) -> None:
        add_copies(superuser, submit(agent=an_agent("elsewhere"), served=False), 900)
        superuser.execute(sa.text("UPDATE lanewise.runs SET created_at = created_at - interval '1 h'"))
        served = submit()
        with services.database.user_session("alice") as session:
            before = rows_read(session, "workers")
            assert lanes.next_runs(session, "alice", 3).members == [member(served.id, 1)]
            assert rows_read(session, "workers") - before < 100

    def test_a_run_that_is_not_queued_stands_nowhere(self, services: Services, submit: Submit) -> None:
        run = start_run(services, submit())
        with services.database.user_session("alice") as session:
            assert queue_views(session, "alice", [run], 3) == {}

    def test_the_reason_of_a_run_that_was_lost(self, services: Services, submit: Submit) -> None:
        run = start_run(services, submit())
        finish(services.database, run, Lost("sandbox_died", "killed"))
        assert view(services, run)["reason"] == "recovering"

    def test_a_pause_before_the_next_attempt_is_told_with_its_rest(self, services: Services, submit: Submit) -> None:
        run = start_run(services, submit())
        finish(services.database, run, Lost("retry", "later", after_s=60))
        told = view(services, run)
        assert told["reason"] == "retry_backoff"
        assert 55 < told["eta_s"] <= 60

    def test_an_agent_that_no_worker_has_is_the_first_of_all_reasons(self, services: Services, submit: Submit) -> None:
        run = submit(agent=an_agent("elsewhere"), served=False)
        assert view(services, run)["reason"] == "no_worker"
        other = submit(agent=an_agent("echo", queue="special"), served=False)
        serve(services, an_agent("echo", queue="default"))
        assert view(services, other)["reason"] == "no_worker"

    @pytest.mark.parametrize("change", ["heartbeat_at = now() - interval '16 s'", "draining = true"])
    def test_a_worker_that_is_silent_or_about_to_end_serves_nothing(
        self, services: Services, submit: Submit, superuser: sa.Connection, change: str
    ) -> None:
        run = submit()
        superuser.exec_driver_sql(f"UPDATE lanewise.workers SET {change}")  # noqa: S608 - one of the two above
        assert view(services, run)["reason"] == "no_worker"
        assert services.dispatcher.admit("alice") == 0

    def test_redis_away_is_why_a_parked_run_waits(self, services: Services, submit: Submit) -> None:
        parked, granted = submit(), submit()
        grant_run(services, granted)
        assert view(services, parked, redis_away=True)["reason"] == "redis_unavailable"
        assert view(services, granted, redis_away=True)["reason"] == "fleet_busy"

    def test_the_estimate_comes_from_the_users_own_recent_runs(
        self, services: Services, submit: Submit, superuser: sa.Connection
    ) -> None:
        first, second = submit(), submit()
        assert view(services, first)["eta_s"] is None
        for _ in range(2):
            run = start_run(services, submit())
            superuser.execute(sa.text("UPDATE lanewise.runs SET claimed_at = claimed_at - interval '30 s'"))
            finish(services.database, run, Completed({}))
        assert (view(services, first)["eta_s"], view(services, second)["eta_s"]) == pytest.approx((10, 20), abs=0.5)
        faster = start_run(services, submit())
        finish(services.database, faster, Failed("ValueError", "x"))
        assert view(services, first)["eta_s"] == pytest.approx(8, abs=0.5)  # the newest run weighs a fifth
        other = submit("bob")
        assert view(services, other)["eta_s"] is None


class TestTelling:
    def test_the_first_ten_are_told_where_they_stand(self, services: Services, submit: Submit) -> None:
        made = [submit() for _ in range(12)]
        assert told(services) == [(run.id, place) for place, run in enumerate(made[:10], 1)]

    def test_only_who_has_moved_is_told_again_and_at_most_once_a_second(
        self, services: Services, submit: Submit, superuser: sa.Connection
    ) -> None:
        made = [submit() for _ in range(3)]
        tell(services)
        grant_run(services, made[0])
        assert told(services) == []
        let_a_second_pass(superuser)
        assert told(services) == [(made[1].id, 1), (made[2].id, 2)]
        let_a_second_pass(superuser)
        assert told(services) == []

    def test_it_is_an_event_like_any_other(self, services: Services, submit: Submit) -> None:
        run = submit()
        (item,) = tell(services)
        assert (item.event.type, item.seq, item.run_seq, item.event.attempt) == ("run_position", 2, 2, 0)
        assert item.event.data == {"position": 1, "reason": "user_limit", "eta_s": None}
        assert item.view()["run_id"] == run.id
        assert stored(services.database, run).last_run_seq == 2

    def test_an_admission_tells_those_behind(self, services: Services, submit: Submit) -> None:
        made = [submit() for _ in range(5)]
        services.dispatcher.admit("alice")
        assert [stored(services.database, run).position_told for run in made] == [None, None, None, 1, 2]

    def test_an_admission_tells_the_last_ones_too(self, services: Services, submit: Submit) -> None:
        made = [submit() for _ in range(5)]
        started = [start_run(services, run) for run in made[:3]]
        finish(services.database, started[0], Completed(1))
        assert services.dispatcher.admit("alice") == 1
        assert stored(services.database, made[4]).position_told == 1

    def test_who_comes_among_the_first_while_it_waits_is_told_the_next_time(
        self, services: Services, submit: Submit, superuser: sa.Connection
    ) -> None:
        """It would have to be locked out of order, after younger ones: a deadlock with whoever locks by id."""
        made = [submit() for _ in range(11)]
        waiting = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%tell%'"
        )
        with ThreadPoolExecutor(1) as pool:
            with services.database.user_session("alice") as session:
                assert lanes.grant(session, "alice", [member(made[1].id, 1)])
                answer = pool.submit(told, services)
                assert wait_until(lambda: superuser.scalar(waiting) == 1, 5)
            left = [made[0], *made[2:10]]
            assert answer.result(5) == [(run.id, place) for place, run in enumerate(left, 1)]
        let_a_second_pass(superuser)
        assert told(services) == [(made[10].id, 10)]

    def test_many_at_once_tell_each_place_once(self, services: Services, submit: Submit) -> None:
        made = [submit() for _ in range(5)]
        answers: list[tuple[str, int]] = []
        in_parallel(6, lambda _: answers.extend(told(services)))
        assert sorted(answers) == sorted((run.id, place) for place, run in enumerate(made, 1))


class TestCount:
    def test_it_follows_every_change(self, services: Services, submit: Submit, superuser: sa.Connection) -> None:
        first, second, third = submit(), submit(), submit()
        assert queued(superuser) == 3
        run = start_run(services, first)
        assert queued(superuser) == 2
        finish(services.database, run, Lost("drained", "stopped", counted=False))
        assert queued(superuser) == 3
        cancel(services.database, second)
        finish(services.database, third, Failed("poisoned", "x"))
        assert queued(superuser) == 1
        finish(services.database, start_run(services, first), Completed(1))
        assert queued(superuser) == 0

    def test_runs_that_come_and_go_by_sql_are_counted_too(
        self, services: Services, submit: Submit, superuser: sa.Connection
    ) -> None:
        run = submit()
        add_copies(superuser, run, 50)
        assert queued(superuser) == 51
        assert view(services, run)["position"] == 1
        superuser.execute(sa.text("DELETE FROM lanewise.runs WHERE id LIKE 'copy-%'"))
        assert queued(superuser) == 1

    def test_submissions_at_once_do_not_pass_the_limit_together(self, services: Services) -> None:
        serve(services, an_agent())
        answers: list[Accepted | Refused] = []

        def one(_number: int) -> None:
            answers.append(
                accept(
                    services.database.once("alice"), a_context(), an_agent(), {}, metadata={}, time_limit_s=1,
                    new_thread=True, quota=3, slots=3,
                )
            )  # fmt: skip

        in_parallel(8, one)
        assert sum(isinstance(answer, Accepted) for answer in answers) == 3
        assert {answer.reason for answer in answers if isinstance(answer, Refused)} == {"quota"}
        with services.database.user_session("alice") as session:
            assert session.scalar(sa.text("SELECT count(*) FROM threads")) == 3  # nothing is left of the refused
