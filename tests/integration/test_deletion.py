"""Deleting a user, step by step: nothing is left, nothing comes back, and nobody else loses anything."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.orm import Session

from api.gateway.hub import SWEEP_S
from shared import deletion, records, runs
from shared.audit import keys_of
from shared.audit_check import Examination, examine
from shared.database import Database
from shared.deletion import SETTLE_S, Deletions, begin, progress
from shared.errors import BusyError, DeletingError, SupersededError
from shared.event_types import EventType
from shared.events import Event, append
from shared.models import Document, Run, Thread, ToolGrant, UserLimit
from shared.outcomes import Cancelled, Completed
from shared.redis import RedisError
from shared.services import Services
from tests.populated import populate
from tests.services import OpenServices, Submit, grant_run, in_parallel, start_run, submit_run

ODD = "o'Neil/\"%_\\{*}:ü"
STAY = {"audit_log", "revocations"}
# Tables that need not refuse: a row comes with one of a table that does, or asks a running run of the user for leave.
FENCED = {
    "idempotency_keys", "user_streams", "run_events", "run_steps", "agent_state", "artifacts", "document_passages",
}  # fmt: skip
OF_USER = """
    SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'lanewise'::regnamespace AND c.relkind = 'r' AND EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'user_id' AND NOT a.attisdropped)
"""
REFUSING = "SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'refuse_deleted'"


def rows(superuser: sa.Connection, user_id: str) -> dict[str, int]:
    """Returns how many rows a user has, by table; the tables are those that the database has."""
    counts = {}
    for table in superuser.scalars(sa.text(OF_USER)).all():
        query = sa.text(f"SELECT count(*) FROM lanewise.{table} WHERE user_id = :user")  # noqa: S608 - from the catalogue
        if count := superuser.scalar(query, {"user": user_id}):
            counts[table] = count
    return counts


def keys(services: Services, user_id: str) -> set[str]:
    digest = services.keys.events(user_id).removesuffix("events").removeprefix(f"lw:{services.settings.deployment}:")
    return {name for name in services.redis.scan_iter() if digest in name}


def start(services: Services, user_id: str) -> None:
    with services.database.user_session(user_id) as session:
        begin(session, user_id)


def work(services: Services, user_id: str) -> None:
    """As much as can be done now, as a leader that has begun a moment ago."""
    deletions = Deletions(services)
    while deletions.step(user_id):
        pass


def end(services: Services, run: Run) -> None:
    with services.database.user_session(run.user_id) as session:
        assert runs.finish(session, run, Cancelled(), "worker:w")


def state(database: Database, user_id: str) -> Any:
    with database.user_session(user_id) as session:
        return progress(session, user_id)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is waited for who might remember something."""
    monkeypatch.setattr(deletion, "SETTLE_S", 0)


@pytest.mark.usefixtures("settled")
class TestAllOfIt:
    @pytest.mark.parametrize("user_id", ["alice", ODD])
    def test_nothing_is_left_but_the_audit_trail_and_others_keep_theirs(
        self, services: Services, superuser: sa.Connection, user_id: str
    ) -> None:
        others = ("alic", "alice2", "%", "o'Neil")
        for user in (user_id, *others):
            end(services, populate(services, user))
            submit_run(services, user)
            services.redis.set(services.keys.store(user, "k"), "v")
            services.redis.set(f"{services.keys.rates}:v1:{services.keys.submissions(user)}", "1")
            services.slots.restore(user, ["run:1"])
        before = {user: (rows(superuser, user), keys(services, user)) for user in (user_id, *others)}
        assert before[user_id][0].keys() == set(superuser.scalars(sa.text(OF_USER))) - {"deletions"}
        assert len(before[user_id][1]) == 3
        start(services, user_id)
        work(services, user_id)
        work(services, user_id)
        assert rows(superuser, user_id).keys() == STAY
        assert keys(services, user_id) == set()
        assert {user: (rows(superuser, user), keys(services, user)) for user in others} == {
            user: before[user] for user in others
        }
        ended = state(services.database, user_id)
        assert ended.finished_at is not None
        assert ended.removed == {table: n for table, n in before[user_id][0].items() if table not in STAY}
        assert list(examine(services.database, Examination(keys_of(services.settings), {}))) == []

    def test_the_id_is_that_of_a_new_user(self, services: Services, superuser: sa.Connection) -> None:
        end(services, populate(services, "alice"))
        start(services, "alice")
        for _ in range(2):
            work(services, "alice")
        run = submit_run(services, "alice")
        assert run.last_run_seq == 1
        with services.database.user_session("alice") as session:
            assert session.scalars(sa.text("SELECT seq FROM run_events")).all() == [1]
        assert rows(superuser, "alice")["threads"] == 1

    def test_again_while_it_goes_on_is_the_same_and_afterwards_finds_nothing(
        self, services: Services, superuser: sa.Connection
    ) -> None:
        run = populate(services, "alice")
        start(services, "alice")
        first = state(services.database, "alice")
        start(services, "alice")
        assert state(services.database, "alice") == first
        assert (first.finished_at, first.live_runs, first.removed) == (None, 1, {})
        end(services, run)
        for _ in range(2):
            work(services, "alice")
        assert state(services.database, "alice").removed["runs"] == 1
        start(services, "alice")
        work(services, "alice")
        assert state(services.database, "alice").removed == {}
        assert rows(superuser, "alice").keys() == STAY

    def test_a_leader_that_dies_in_the_midst_leaves_the_rest_to_the_next(
        self, services: Services, superuser: sa.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(3):
            end(services, start_run(services, submit_run(services, "alice")))
        before = rows(superuser, "alice")
        start(services, "alice")
        monkeypatch.setattr(deletion, "ROWS", 2)
        remove = deletion._remove_some
        died = 0

        def dies(session: Session, user_id: str) -> tuple[str, int] | None:
            nonlocal died
            gone = remove(session, user_id)
            died += 1
            if died % 2:
                raise SystemExit  # nothing is committed, as if the connection had ended
            return gone

        monkeypatch.setattr(deletion, "_remove_some", dies)
        for _ in range(60):
            with suppress(SystemExit):
                Deletions(services).step("alice")
        assert died > 10
        assert rows(superuser, "alice").keys() == {"audit_log"}
        assert state(services.database, "alice").removed == {t: n for t, n in before.items() if t not in STAY}

    def test_several_leaders_at_once_remove_and_count_everything_once(
        self, services: Services, superuser: sa.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(5):
            submit_run(services, "alice")
        before = rows(superuser, "alice")
        start(services, "alice")
        monkeypatch.setattr(deletion, "ROWS", 2)

        def lead(_: int) -> None:
            deletions = Deletions(services)
            while not state(services.database, "alice").finished_at:
                with suppress(BusyError):
                    deletions.step("alice")

        in_parallel(3, lead)
        assert state(services.database, "alice").removed == {t: n for t, n in before.items() if t not in STAY}
        ends = sa.text("SELECT count(*) FROM lanewise.audit_log WHERE action = 'user.delete'")
        assert superuser.scalar(ends) == 1

    def test_one_that_cannot_go_on_holds_up_no_other(self, services: Services, superuser: sa.Connection) -> None:
        for user_id in ("alice", "bob"):
            submit_run(services, user_id)
            start(services, user_id)
        with services.database.user_session("alice") as session:
            session.execute(sa.text("SELECT FROM runs FOR UPDATE"))
            for _ in range(2):
                Deletions(services).work_off()
        assert rows(superuser, "bob").keys() == {"audit_log"}
        assert rows(superuser, "alice")["runs"] == 1

    def test_a_sweep_is_not_as_long_as_all_deletions_together(
        self, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for user_id in ("alice", "bob", "carol"):
            submit_run(services, user_id)
            start(services, user_id)
        monkeypatch.setattr(deletion, "MOST_S", 0)
        Deletions(services).work_off()
        states = [state(services.database, user_id) for user_id in ("alice", "bob", "carol")]
        assert sum(found.live_runs == 0 for found in states) == 1  # of the others nothing is done yet


class TestRefusal:
    def test_nothing_new_is_accepted_from_that_moment(self, services: Services, superuser: sa.Connection) -> None:
        run = populate(services, "alice")
        before = rows(superuser, "alice")
        start(services, "alice")
        fresh: list[Any] = [
            Thread(user_id="alice", id="t", meta={}),
            Document(user_id="alice", name="n", content_type="", size=0, sha256="", content=b""),
            UserLimit(user_id="alice", concurrent_runs=9),
            ToolGrant(user_id="alice", tool="other", granted_by="user:root"),
        ]
        for row in fresh:
            with pytest.raises(DeletingError), services.database.user_session("alice") as session:
                session.add(row)
        for thread_id in (None, run.thread_id):
            with pytest.raises(DeletingError):
                submit_run(services, "alice", thread_id=thread_id)
        assert rows(superuser, "alice") == before | {"deletions": 1}
        submit_run(services, "bob")

    def test_no_table_is_forgotten(self, superuser: sa.Connection) -> None:
        refusing = {name.removeprefix("lanewise.") for name in superuser.scalars(sa.text(REFUSING))}
        # A new one: give it the trigger, or say above why it needs none.
        assert set(superuser.scalars(sa.text(OF_USER))) == refusing | FENCED | STAY | {"deletions"}
        assert refusing & FENCED == set()

    def test_who_was_faster_is_waited_for_and_deleted(
        self, services: Services, superuser: sa.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deletion, "SETTLE_S", 0)
        begun = threading.Event()

        def delete() -> None:
            start(services, "alice")
            begun.set()

        with services.database.user_session("alice") as session:
            session.add(Thread(user_id="alice", id="t", meta={}))
            session.flush()
            threading.Thread(target=delete, daemon=True).start()
            assert not begun.wait(0.3)
        assert begun.wait(5)
        for _ in range(2):
            work(services, "alice")
        assert rows(superuser, "alice").keys() == {"audit_log"}
        assert state(services.database, "alice").removed == {"threads": 1}

    def test_who_is_slower_waits_and_is_refused(self, services: Services) -> None:
        answers: list[BaseException | None] = []

        def add() -> None:
            try:
                submit_run(services, "alice")
            except DeletingError as error:
                answers.append(error)
            else:
                answers.append(None)

        with services.database.user_session("alice") as session:
            begin(session, "alice")
            thread = threading.Thread(target=add, daemon=True)
            thread.start()
            thread.join(0.3)
            assert answers == []
        thread.join(5)
        assert [type(answer) for answer in answers] == [DeletingError]


class TestWhatIsUnderWay:
    @pytest.fixture
    def heard(self, services: Services) -> Iterator[Any]:
        """What worker-1 is told."""
        with services.redis.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(services.keys.control("worker-1"))
            channel.get_message(timeout=1)
            yield channel

    def test_live_runs_end_first_and_what_waits_never_starts(
        self, services: Services, superuser: sa.Connection, heard: Any, submit: Submit
    ) -> None:
        running = start_run(services, submit("alice"))
        granted = grant_run(services, submit("alice"))
        submit("alice")
        start(services, "alice")
        work(services, "alice")
        message = heard.get_message(timeout=2)
        assert message is not None
        assert running.id in message["data"]
        assert state(services.database, "alice").live_runs == 1
        assert rows(superuser, "alice")["runs"] == 3  # nothing goes before the last has ended
        with services.database.user_session("alice") as session:
            assert runs.claim(session, granted, "w", ["echo"]) is None
            assert runs.find(session, "alice", running.id).cancel_requested_at is not None  # type: ignore[union-attr]
        assert services.dispatcher.admit("alice") == 0
        end(services, running)
        work(services, "alice")
        assert rows(superuser, "alice").keys() == {"audit_log", "deletions"}

    def test_what_an_attempt_still_writes_finds_no_row(
        self, services: Services, database: Database, superuser: sa.Connection, submit: Submit
    ) -> None:
        running = start_run(services, submit("alice"))
        granted = grant_run(services, submit("alice"))
        start(services, "alice")
        work(services, "alice")
        end(services, running)
        work(services, "alice")
        assert rows(superuser, "alice").keys() == {"audit_log", "deletions"}
        once = database.once("alice")
        with database.user_session("alice") as session:
            event = Event("alice", running.id, 1, EventType.AGENT_THINKING, "echo", {"text": "late"}, ordinal=1)
            assert append(session, [event]).stored == []
            assert runs.finish(session, running, Completed({}), "worker:w") is None
            assert runs.claim(session, granted, "w", ["echo"]) is None
            with pytest.raises(SupersededError):
                records.save_artifact(session, running, "a", "text/plain", b"late")
        with pytest.raises(SupersededError):
            records.record_step(once, running, "s", 1)
        with pytest.raises(SupersededError):
            records.save_state(once, running, "a", "thread", expected=0, value=1, token="t")
        with pytest.raises(SupersededError):
            records.add_usage(once, running, "m", 1, 1)
        assert rows(superuser, "alice").keys() == {"audit_log", "deletions"}


class TestTheEnd:
    def test_it_waits_until_no_gateway_remembers(self, services: Services, superuser: sa.Connection) -> None:
        assert SETTLE_S >= 2 * SWEEP_S
        submit_run(services, "alice")
        start(services, "alice")
        for _ in range(3):
            work(services, "alice")
        assert rows(superuser, "alice").keys() == {"audit_log", "deletions"}
        with pytest.raises(DeletingError):
            submit_run(services, "alice")
        past = sa.text("UPDATE lanewise.deletions SET emptied_at = now() - make_interval(secs => :s)")
        superuser.execute(past, {"s": SETTLE_S - 1})
        work(services, "alice")
        assert rows(superuser, "alice").keys() == {"audit_log", "deletions"}
        superuser.execute(past, {"s": SETTLE_S})
        work(services, "alice")
        assert rows(superuser, "alice").keys() == {"audit_log"}

    def test_redis_is_waited_for(
        self, services: Services, open_services: OpenServices, superuser: sa.Connection, redis_client: redis.Redis
    ) -> None:
        services.redis.set(services.keys.store("alice", "k"), "v")
        away = open_services(redis_url=SecretStr("redis://127.0.0.1:1/0"))
        start(services, "alice")
        with pytest.raises(RedisError):
            Deletions(away).step("alice")
        Deletions(away).work_off()  # says so, and goes on with others
        assert rows(superuser, "alice") == {"deletions": 1}
        work(services, "alice")
        assert rows(superuser, "alice").keys() == {"audit_log"}
        assert not list(redis_client.scan_iter(services.keys.all_of("alice")))
