"""Through PgBouncer in transaction mode: users share sessions of Postgres, and nothing of one reaches another."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from api.app import create_app
from api.state import EXTENSION
from lanewise.process import wait_until
from shared.database import Database
from shared.models import RUN, Document, Run
from shared.services import Services
from shared.settings import Settings
from shared.signing import TOKEN_PURPOSE, database_token, derive_key
from shared.tokens import make_token
from tests.integration.worker.test_state import ORDERS
from tests.nodes import PATIENCE_S, Node
from tests.pgbouncer import pgbouncer, through
from tests.populated import populate
from tests.services import SECRETS, OpenServices, Servers
from worker.zygote_client import ZygoteClient

USERS = ("alice", "bob")
FEW = 2  # sessions of Postgres for each login
RUNS = 6  # of each user
TIMES = 4  # transactions of a kind in each run
GRACE_S = 0.3
ABANDONED = """
    SET statement_timeout = 0; SET client_connection_check_interval = 0;
    SET idle_in_transaction_session_timeout = 0; SELECT pg_sleep(600)
"""


@pytest.fixture
def port(servers: Servers, database_name: str) -> Iterator[int]:
    with pgbouncer(servers, database_name, default_pool_size=FEW) as port:
        yield port


@pytest.fixture
def pooled(settings: Settings, open_services: OpenServices, port: int) -> Services:
    """Services whose processes and sandboxes reach Postgres through the pooler only."""
    assert settings.run_database_url is not None
    urls = {
        name: SecretStr(through(getattr(settings, name).get_secret_value(), port))
        for name in ("database_url", "run_database_url")
    }
    return open_services(sweep_s=0.1, cancel_grace_s=GRACE_S, **urls)


@pytest.fixture
def node(pooled: Services, zygote: ZygoteClient, superuser: sa.Connection) -> Iterator[Node]:
    superuser.execute(sa.text(ORDERS))
    with Node.start(pooled, zygote) as running:
        yield running


def test_runs_of_two_users_share_sessions_and_see_their_own_rows(node: Node, pooled: Services) -> None:
    for user in USERS:
        with pooled.database.user_session(user) as session:
            session.add(
                Document(user_id=user, name="d", content_type="text/plain", size=1, sha256="x", content=user.encode())
            )
    app = create_app(pooled.settings)
    try:
        client = app.test_client()
        headers = {user: {"Authorization": f"Bearer {make_token(pooled.settings.jwt_keys[0], user)}"} for user in USERS}

        def submit(user: str) -> str:
            body = {"agent": "pooled", "input": {"times": TIMES}}
            answer = client.post("/v1/runs", json=body, headers=headers[user])
            assert answer.status_code == 202, answer.text
            return str(json.loads(answer.data)["id"])

        def get(user: str, run_id: str) -> dict[str, Any]:
            return dict(json.loads(client.get(f"/v1/runs/{run_id}", headers=headers[user]).data))

        accepted = [(user, submit(user)) for _ in range(RUNS) for user in USERS]

        def ended() -> bool:
            node.pump()
            return all(get(*run)["status"] not in {"queued", "running"} for run in accepted)

        assert wait_until(ended, 30)
        runs = [(user, get(user, run_id)) for user, run_id in accepted]
    finally:
        app.extensions[EXTENSION].close()
    assert {run["status"] for _, run in runs} == {"completed"}, runs
    sessions: dict[str, set[int]] = {user: set() for user in USERS}
    for user, run in runs:
        for seen in run["output"]:
            sessions[user].add(seen.pop("session"))
            assert seen == {"me": user, "documents": [user], "orders": [user], "recorded": user}
    assert sessions["alice"] & sessions["bob"]
    assert len(sessions["alice"] | sessions["bob"]) <= 2 * FEW  # a session may be replaced meanwhile


def test_a_cancelled_run_leaves_no_statement(node: Node, superuser: sa.Connection) -> None:
    """The agent has switched off every limit of its session; the pooler is on this machine."""
    node.parts.sessions._every_s = 60
    node.parts.sessions.start()
    run = node.begin("endless", {"how": "query"})
    node.wait_for_text(run)
    assert wait_until(lambda: sleeping(superuser) == 1, PATIENCE_S)
    began = time.monotonic()
    node.live(run).cancel()
    assert wait_until(lambda: sleeping(superuser) == 0, 5)
    assert time.monotonic() - began < GRACE_S + 2
    assert node.wait(run).status == "cancelled"


def test_a_statement_has_an_end_that_no_session_can_move(
    servers: Servers, database_name: str, node: Node, superuser: sa.Connection
) -> None:
    with pgbouncer(servers, database_name, query_timeout=1) as port:
        with closing(psycopg2.connect(through(servers.url(database_name, RUN), port))) as connection:
            connection.autocommit = True
            began = time.monotonic()
            with (
                pytest.raises(psycopg2.OperationalError, match="closed the connection"),
                connection.cursor() as cursor,
            ):
                cursor.execute(ABANDONED)
        assert time.monotonic() - began < 5
        assert sleeping(superuser) == 1  # Postgres has not noticed: it was told not to look
        assert wait_until(lambda: node.parts.sessions.end_orphans() == 1, PATIENCE_S)
        assert wait_until(lambda: sleeping(superuser) == 0, 2)


def sleeping(superuser: sa.Connection) -> int:
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE wait_event = 'PgSleep' AND usename = :run AND datname = current_database()
    """
    return int(superuser.scalar(sa.text(query), {"run": RUN}) or 0)


# What a session of Postgres keeps from one transaction to the next

LEFT = """
    SET search_path = pg_catalog; SET lanewise.token = 'mine'; PREPARE mine AS SELECT 1;
    DECLARE secret CURSOR WITH HOLD FOR SELECT 'secret of alice'; LISTEN mine
"""
FOUND = """
    SELECT current_setting('search_path') = 'pg_catalog', current_setting('lanewise.token', true) = 'mine',
        EXISTS (SELECT FROM pg_prepared_statements), EXISTS (SELECT FROM pg_cursors WHERE name = 'secret'),
        EXISTS (SELECT FROM pg_listening_channels())
"""


@pytest.mark.parametrize(("always", "found"), [(1, [False] * 5), (0, [True] * 5)])
def test_what_a_sandbox_leaves_in_its_session_does_not_reach_the_next(
    servers: Servers, database_name: str, always: int, found: list[bool]
) -> None:
    with pgbouncer(servers, database_name, default_pool_size=1, server_reset_query_always=always) as port:
        url = through(servers.url(database_name, RUN), port)
        with closing(psycopg2.connect(url)) as first, closing(psycopg2.connect(url)) as second:
            first.autocommit = second.autocommit = True
            with first.cursor() as cursor:
                cursor.execute(LEFT)
            with second.cursor() as cursor:
                cursor.execute(FOUND)
                assert cursor.fetchall() == [tuple(found)]


# Who states the user


def interleaved(url: str, tokens: dict[str, str], sees: Callable[[Database, str], list[str]]) -> set[str]:
    """Returns what users were seen to be wrong, by clients of two users that take turns in few sessions."""
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        clients = [stack.enter_context(closing(Database(url, pool_size=1))) for _ in range(4)]

        def work(number: int) -> set[str]:
            user = USERS[number % 2]
            answers = (sees(clients[number], tokens[user]) for _ in range(25))
            return {f"{user} saw {answer}" for answer in answers if answer != [user]}

        return set().union(*pool.map(work, range(4)))


def per_transaction(database: Database, token: str) -> list[str]:
    with database.token_session(token) as session:
        return list(session.scalars(sa.text("SELECT user_id FROM documents")))


def per_session(database: Database, token: str) -> list[str]:
    """What works without a pooler: the user is stated once, for all transactions of the connection."""
    with database._engine.connect() as connection:
        connection.execute(sa.text("SELECT set_config('lanewise.token', :token, false)"), {"token": token})
        connection.commit()
        return list(connection.scalars(sa.text("SELECT user_id FROM documents")))


@pytest.mark.parametrize("always", [1, 0])
def test_the_user_is_stated_in_each_transaction_and_else_it_shows(
    servers: Servers, database_name: str, services: Services, always: int
) -> None:
    tokens = {user: token(populate(services, user)) for user in USERS}
    with pgbouncer(servers, database_name, default_pool_size=FEW, server_reset_query_always=always) as port:
        url = through(servers.url(database_name, RUN), port)
        assert interleaved(url, tokens, per_transaction) == set()
        wrong = interleaved(url, tokens, per_session)
        # With the documented reset whoever forgets sees nothing; without it, the other user's rows.
        assert ("alice saw ['bob']" in wrong) == (not always)
        assert wrong


def token(run: Run) -> str:
    return database_token(derive_key(SECRETS[0], TOKEN_PURPOSE), run.user_id, run.id, run.attempt, 60)
