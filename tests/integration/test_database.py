from __future__ import annotations

import pytest
import sqlalchemy as sa

from shared.database import Database, is_outage
from shared.errors import BusyError, InvalidContextError, UnavailableError
from shared.models import Thread
from shared.settings import Settings
from tests.services import Servers


def _threads(database: Database, user_id: str) -> list[str]:
    with database.user_session(user_id) as session:
        return list(session.scalars(sa.select(Thread.id)))


def test_a_session_commits_at_its_end(database: Database) -> None:
    with database.user_session("alice") as session:
        session.add(Thread(user_id="alice", id="t1", meta={}))
    assert _threads(database, "alice") == ["t1"]


def test_an_error_rolls_everything_back_and_passes_through(database: Database) -> None:
    with pytest.raises(KeyError), database.user_session("alice") as session:
        session.add(Thread(user_id="alice", id="t1", meta={}))
        session.flush()
        raise KeyError
    assert _threads(database, "alice") == []


def test_the_user_is_stated_for_one_transaction_only(settings: Settings) -> None:
    single = Database(settings.database_url.get_secret_value(), pool_size=1, overflow=0)
    try:
        with single.user_session("alice") as session:
            assert session.scalar(sa.text("SELECT current_setting('lanewise.user')")) == "alice"
            backend = session.scalar(sa.text("SELECT pg_backend_pid()"))
        with single._engine.begin() as connection:
            assert connection.scalar(sa.text("SELECT pg_backend_pid()")) == backend
            assert connection.scalar(sa.text("SELECT current_setting('lanewise.user', true)")) == ""
    finally:
        single.close()


@pytest.mark.parametrize("user_id", ["", "*", "system", "a\0b", " alice"])
def test_a_session_is_refused_for_nobody(database: Database, user_id: str) -> None:
    with pytest.raises(InvalidContextError), database.user_session(user_id):
        pytest.fail("a session was opened")
    with pytest.raises(InvalidContextError):
        database.once(user_id)


def test_a_single_statement_is_a_transaction_of_its_user(settings: Settings) -> None:
    single = Database(settings.database_url.get_secret_value(), pool_size=1, overflow=0)
    insert = sa.text("INSERT INTO threads (user_id, id, metadata) VALUES (:user, :id, '{}') RETURNING id")
    try:
        for user_id in ("alice", "bob"):
            assert [row.id for row in single.once(user_id).execute(insert, {"user": user_id, "id": "t:%1"})] == ["t:%1"]
        assert [row.user_id for row in single.once("bob").execute(sa.text("SELECT user_id FROM threads"), {})] == [
            "bob"
        ]
        assert len(single.once_for_all().execute(sa.text("SELECT user_id FROM threads"), {})) == 2
        with pytest.raises(sa.exc.ProgrammingError, match="row-level security"):
            single.once("alice").execute(insert, {"user": "bob", "id": "t2"})
        with single._engine.begin() as connection:  # the same connection, and nobody is stated any more
            assert connection.scalar(sa.text("SELECT count(*) FROM threads")) == 0
        assert _threads(single, "bob") == ["t:%1"]
    finally:
        single.close()


def test_no_connection_left_is_an_outage(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    single = Database(settings.database_url.get_secret_value(), pool_size=1, overflow=0)
    monkeypatch.setattr(single._engine.pool, "_timeout", 0.05)
    try:
        with single.user_session("alice"), pytest.raises(UnavailableError) as caught, single.user_session("bob"):
            pytest.fail("a second session was opened")
        assert caught.value.retry_after_s
    finally:
        single.close()


def test_a_closed_backend_is_an_outage_and_the_next_session_works(database: Database, superuser: sa.Connection) -> None:
    with pytest.raises(UnavailableError), database.user_session("alice") as session:
        backend = session.scalar(sa.text("SELECT pg_backend_pid()"))
        superuser.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": backend})
        session.execute(sa.text("SELECT 1"))
    assert _threads(database, "alice") == []


def test_a_database_that_is_not_there_is_an_outage(servers: Servers, settings: Settings) -> None:
    with servers.new_database() as name:
        url = servers.url(name, "lanewise_service")
    gone = Database(url, pool_size=1)
    try:
        with pytest.raises(UnavailableError), gone.user_session("alice"):
            pytest.fail("a session was opened")
    finally:
        gone.close()
    assert settings


def test_a_wrong_statement_is_no_outage(database: Database) -> None:
    with pytest.raises(sa.exc.ProgrammingError) as caught, database.user_session("alice") as session:
        session.execute(sa.text("SELECT nonsense"))
    assert not is_outage(caught.value)


def test_an_error_does_not_repeat_what_the_user_sent(database: Database) -> None:
    with pytest.raises(sa.exc.DBAPIError) as caught, database.user_session("alice") as session:
        session.execute(sa.text("SELECT 1 / length(:nothing), CAST(:sent AS text)"), {"nothing": "", "sent": "canary"})
    assert "canary" not in str(caught.value)


def test_a_connection_that_was_closed_meanwhile_is_an_outage_once_and_then_replaced(database: Database) -> None:
    once = database.once("alice")
    assert list(once.execute(sa.text("SELECT 1"), {}))
    with database._engine.connect() as connection:
        driver = connection.connection.dbapi_connection
    assert driver is not None
    driver.close()  # it is in the pool again, the last one in and so the next one out
    with pytest.raises(UnavailableError):
        once.execute(sa.text("SELECT 1"), {})
    assert list(once.execute(sa.text("SELECT 1"), {}))


def test_a_lock_that_somebody_holds_is_busy_and_no_connection_is(database: Database, superuser: sa.Connection) -> None:
    superuser.execute(sa.text("INSERT INTO lanewise.threads (user_id, id, metadata) VALUES ('alice', 't', '{}')"))
    lock = sa.text("SELECT id FROM threads FOR UPDATE")
    with database.user_session("alice") as holder:
        assert list(holder.execute(lock))
        for held in (database.once("alice", 0.01), None):
            with pytest.raises(BusyError):
                if held:
                    held.execute(lock, {})
                with database.user_session("alice", lock_timeout_s=0.01) as session:
                    session.execute(lock)
    with pytest.raises(UnavailableError) as caught, database.user_session("alice") as session:
        session.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert not isinstance(caught.value, BusyError)
