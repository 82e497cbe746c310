from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from lanewise.embedded import EmbeddedPostgres
from lanewise.process import wait_until
from shared import sandbox_sessions
from shared.database import Database
from shared.errors import ConfigurationError
from shared.migrate import head_revision, migrate
from shared.models import RUN, SERVICE, Thread
from shared.services import Services
from shared.signing import TOKEN_PURPOSE, database_token, derive_key
from tests.services import SECRETS, Servers, server_folder, start_run, submit_run, superuser_engine

AWKWARD = "p'w\"%s:x\\y /@ü"  # what a password may well hold

# What such an admin cannot forbid.
NO_SUPERUSER = [
    "connect to the databases postgres, template1",
    "end sessions of other sandboxes, by functions",
    "fill the write-ahead log, by functions",
    "make large objects, by functions",
    "see other sessions, by functions",
    "set log_min_messages, temp_file_limit, track_activities as they like",
    "take advisory locks, by functions",
]


@pytest.fixture
def admin_url(servers: Servers) -> Iterator[str]:
    """A cluster without our roles, and an admin who may create roles but is no superuser, as hosted Postgres has."""
    assert servers  # skips, or fails, with the reason when there is no Postgres
    with server_folder() as folder, EmbeddedPostgres(folder) as postgres:
        with superuser_engine(postgres.admin_url).connect() as connection:
            connection.exec_driver_sql("CREATE ROLE boss LOGIN CREATEROLE PASSWORD 'password'")
            connection.exec_driver_sql("CREATE DATABASE app OWNER boss")
        yield as_role(sa.make_url(postgres.admin_url).set(database="app"), "boss", "password")


def as_role(url: str | sa.URL, user: str, password: str) -> str:
    return sa.make_url(url).set(username=user, password=password).render_as_string(hide_password=False)


def threads(service_url: str) -> list[str]:
    with closing(Database(service_url)) as database, database.user_session("alice") as session:
        return list(session.scalars(sa.select(Thread.id)))


def test_an_admin_who_is_no_superuser_migrates_and_may_repeat_it(admin_url: str) -> None:
    service_url, run_url = as_role(admin_url, "lw_service", AWKWARD), as_role(admin_url, "lw_run", AWKWARD)
    migrate(admin_url, service_url, run_url, SECRETS)
    with closing(Database(service_url)) as database, database.user_session("alice") as session:
        session.add(Thread(user_id="alice", id="t1", meta={}))
    gaps = migrate(admin_url, service_url, run_url, SECRETS)
    assert threads(service_url) == ["t1"]
    assert [re.sub(r"\d+ functions such as \w+", "functions", gap) for gap in sorted(gaps)] == NO_SUPERUSER

    new_service_url = as_role(admin_url, "lw_service", "another password")
    migrate(admin_url, new_service_url, run_url, SECRETS)
    assert threads(new_service_url) == ["t1"]
    with superuser_engine(admin_url).connect() as connection:
        revision = connection.scalar(sa.text("SELECT version_num FROM lanewise.alembic_version"))
        assert revision == head_revision() != ""


def test_without_a_superuser_too_sessions_of_sandboxes_can_be_ended_and_no_others(admin_url: str) -> None:
    service_url, run_url = as_role(admin_url, "lw_service", "a"), as_role(admin_url, "lw_run", "b")
    migrate(admin_url, service_url, run_url, SECRETS)
    login = sa.text("SELECT pg_backend_pid(), backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
    alive = sa.text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
    with (
        closing(Database(service_url)) as service,
        superuser_engine(run_url).connect() as sandbox,
        superuser_engine(service_url).connect() as own,
        superuser_engine(admin_url).connect() as admin,
    ):
        once = service.once_for_all()
        pids = {name: c.execute(login).one() for name, c in (("run", sandbox), ("own", own), ("admin", admin))}
        found = {session.pid: session for session in sandbox_sessions.listed(once)}
        assert [pid for pid, session in found.items() if not session.own] == [pids["run"][0]]
        session = found[pids["run"][0]]
        others = [session._replace(pid=pids[name][0], started=pids[name][1]) for name in ("own", "admin")]
        stale = session._replace(started=session.started - timedelta(microseconds=1))
        assert sandbox_sessions.end(once, [*others, stale]) == 0
        assert sandbox_sessions.end(once, [session]) == 1
        assert wait_until(lambda: admin.scalar(alive, {"pid": session.pid}) == 0, 2)
        assert [admin.scalar(alive, {"pid": other.pid}) for other in others] == [1, 1]
        sandbox.invalidate()


def test_a_login_that_was_not_migrated_is_told(admin_url: str) -> None:
    service_url, run_url = as_role(admin_url, "lw_service", "a"), as_role(admin_url, "lw_run", "b")
    migrate(admin_url, service_url, run_url, SECRETS)
    with closing(Database(service_url)) as service, superuser_engine(admin_url).connect() as admin:
        assert sandbox_sessions.may_end(service.once_for_all())
        admin.exec_driver_sql("CREATE ROLE lw_other LOGIN PASSWORD 'c'; GRANT lanewise_run TO lw_other")
        assert not sandbox_sessions.may_end(service.once_for_all())
        migrate(admin_url, service_url, as_role(admin_url, "lw_other", "c"), SECRETS)
        assert sandbox_sessions.may_end(service.once_for_all())


def test_several_migrations_at_once_wait_for_one_another(admin_url: str) -> None:
    urls = admin_url, as_role(admin_url, SERVICE, "a"), as_role(admin_url, RUN, "b")
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: migrate(*urls, SECRETS), range(4))) == [migrate(*urls, SECRETS)] * 4
    assert threads(urls[1]) == []


def test_a_table_that_others_keep_locked_is_waited_for_in_short_steps(
    servers: Servers, database_name: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = servers.url(database_name), servers.url(database_name, SERVICE), servers.url(database_name, RUN)
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'lanewise.token_keys'::regclass")
    with (
        superuser_engine(urls[0]).connect() as holder,
        superuser_engine(urls[0]).connect() as watcher,
        ThreadPoolExecutor(1) as pool,
    ):

        def waits() -> bool:
            return bool(watcher.scalar(waiting) == 1)

        pid = holder.scalar(sa.text("SELECT pg_backend_pid()"))
        holder.exec_driver_sql("BEGIN; LOCK TABLE lanewise.token_keys IN SHARE MODE")
        try:
            migrated = pool.submit(migrate, *urls, SECRETS)
            assert wait_until(waits, 10)
            assert wait_until(lambda: not waits(), 5)  # whoever queued behind it goes on
            assert wait_until(waits, 5)
            assert not migrated.done()
            holder.exec_driver_sql("ROLLBACK")
            # The server has databases of other tests as well.
            assert [gap for gap in migrated.result(10) if not gap.startswith("connect to ")] == []
            holder.exec_driver_sql("BEGIN; LOCK TABLE lanewise.token_keys IN SHARE MODE")
            monkeypatch.setattr("shared.migrate.PATIENCE_S", 0.0)
            with pytest.raises(ConfigurationError, match=rf"locked; now: token_keys \(session {pid} of "):
                migrate(*urls, SECRETS)
        finally:
            holder.exec_driver_sql("ROLLBACK")
    assert services


def test_a_missing_right_is_said_in_the_words_of_postgres_without_a_password(servers: Servers) -> None:
    servers.execute(f"CREATE ROLE nobody_special LOGIN PASSWORD 'password' IN ROLE {SERVICE}")  # it may connect
    with servers.new_database("template0") as name:
        admin_url = as_role(servers.url(name), "nobody_special", "password")
        with pytest.raises(ConfigurationError, match="cannot be migrated: permission denied") as caught:
            migrate(admin_url, as_role(admin_url, "s", "canary-1"), as_role(admin_url, "r", "canary-2"), SECRETS)
    servers.execute("DROP ROLE nobody_special")
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("changes", [{"password": "canary"}, {"port": 1, "password": "canary"}])
def test_a_database_that_cannot_be_reached(servers: Servers, changes: dict[str, Any]) -> None:
    url = sa.make_url(servers.postgres.admin_url).set(**changes).render_as_string(hide_password=False)
    with pytest.raises(ConfigurationError, match="the database cannot be migrated") as caught:
        migrate(url, servers.url("x", SERVICE), servers.url("x", RUN), SECRETS)
    assert "canary" not in str(caught.value)


def test_a_login_needs_user_and_password(servers: Servers, database_name: str) -> None:
    url = servers.url(database_name)
    with pytest.raises(ConfigurationError, match="lanewise_service needs a user and a password"):
        migrate(url, "postgresql://127.0.0.1/x", servers.url(database_name, RUN), SECRETS)
    with pytest.raises(ConfigurationError, match="lanewise_run needs a user and a password"):
        migrate(url, servers.url(database_name, SERVICE), "postgresql://someone@127.0.0.1/x", SECRETS)


def test_token_keys_follow_the_secrets(
    servers: Servers, database_name: str, services: Services, run_database: Database
) -> None:
    """Each secret of the setting is accepted; one that was taken away is not."""
    run = start_run(services, submit_run(services))
    old, new = SECRETS[0], "newer" + "1" * 32

    def sees(secret: str) -> bool:
        token = database_token(derive_key(secret, TOKEN_PURPOSE), run.user_id, run.id, run.attempt, 60)
        with run_database.token_session(token) as session:
            return bool(session.scalar(sa.text("SELECT run_user()")) == run.user_id)

    def rotate(*secrets: str) -> None:
        admin_url, service_url, run_url = (servers.url(database_name, role) for role in (None, SERVICE, RUN))
        migrate(admin_url, service_url, run_url, secrets)

    assert (sees(old), sees(new)) == (True, False)
    rotate(new, old)
    assert (sees(old), sees(new)) == (True, True)
    rotate(new)
    assert (sees(old), sees(new)) == (False, True)
