"""The database sessions of dead sandboxes are ended from outside, whatever they were told; those of the living stay."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from lanewise.process import wait_until
from shared import linux
from shared.models import Run
from shared.sandbox_sessions import listed
from shared.services import Services
from shared.settings import Settings
from tests.nodes import PATIENCE_S, Node, metric
from tests.sandboxes import all_gone, session_activity
from worker.sessions import Sessions

IP_LOCAL_PORT_RANGE = 51  # <linux/in.h>; Python does not name it
SOON_S = 1.0
GRACE_S = 0.3  # of `quick`
# Connects, says which session it has, and lets Postgres work on when it is killed.
CLIENT = """
import psycopg2, sys
connection = psycopg2.connect(sys.argv[1])
cursor = connection.cursor()
cursor.execute("SET client_connection_check_interval = 0; SET statement_timeout = 0; SELECT pg_backend_pid()")
print(cursor.fetchone()[0], flush=True)
cursor.execute("SELECT pg_sleep(600)")
"""


@pytest.fixture
def sessions(node: Node) -> Sessions:
    """Those of the worker, whose loop does not run."""
    return node.parts.sessions


@pytest.fixture
def watched(node: Node, sessions: Sessions) -> Node:
    """A worker that looks after sessions."""
    sessions._every_s = 60  # what comes of an order and a death is what is shown here
    sessions.start()
    return node


def begin(node: Node, how: str, user_id: str = "alice", **options: object) -> Run:
    run = node.begin("endless", {"how": how}, user_id, **options)
    node.wait_for_text(run)
    return run


def told(node: Node, run: Run) -> tuple[int, list[int], int]:
    """Returns the pids of the sandbox, of its children and of its database session."""
    first, second = [event["data"]["text"] for event in node.log(run) if event["type"] == "agent_thinking"]
    more = json.loads(second)
    return int(first.removeprefix("pid ")), more["children"], more["session"]


def is_there(superuser: sa.Connection, session: int) -> bool:
    return bool(superuser.scalar(sa.text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"), {"pid": session}))


def is_busy(superuser: sa.Connection, session: int) -> bool:
    return is_there(superuser, session) and session_activity(session) not in {"", "idle", "idle in transaction"}


def await_busy(superuser: sa.Connection, session: int) -> None:
    assert wait_until(lambda: is_busy(superuser, session), PATIENCE_S)


@contextmanager
def locked(superuser: sa.Connection) -> Iterator[None]:
    """Holds what "lock wait" waits for."""
    with superuser.engine.connect() as holder:
        holder.execute(sa.text("BEGIN; LOCK TABLE lanewise.document_passages"))
        yield


@pytest.mark.parametrize("how", ["query", "busy query", "lock wait", "idle", "inherited"])
def test_after_a_cancel_sandbox_and_session_are_gone_within_grace_and_a_second(
    watched: Node, superuser: sa.Connection, how: str
) -> None:
    with locked(superuser):
        neighbour, run = begin(watched, "query", "bob"), begin(watched, how)
        (beside, _, theirs), (pid, children, session) = told(watched, neighbour), told(watched, run)
        for each in (theirs, *([session] if how != "idle" else [])):
            await_busy(superuser, each)
        began = time.monotonic()
        watched.live(run).cancel()
        assert wait_until(lambda: not is_there(superuser, session), 5)
        assert all_gone(pid, *children)
        assert GRACE_S <= time.monotonic() - began < GRACE_S + SOON_S
        assert watched.wait(run).status == "cancelled"
        assert is_busy(superuser, theirs)
        assert not all_gone(beside, within_s=0)


def test_after_a_time_limit_too(watched: Node, superuser: sa.Connection) -> None:
    began = time.monotonic()
    run = begin(watched, "query", time_limit_s=1)
    pid, _, session = told(watched, run)
    await_busy(superuser, session)
    assert wait_until(lambda: not is_there(superuser, session), 5)
    assert time.monotonic() - began < 1 + GRACE_S + SOON_S
    assert all_gone(pid)
    assert watched.wait(run).status == "timed_out"


def test_after_a_death_too(watched: Node, superuser: sa.Connection) -> None:
    run = begin(watched, "query")
    pid, _, session = told(watched, run)
    await_busy(superuser, session)
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not is_there(superuser, session), 5)
    assert time.monotonic() - began < SOON_S
    assert (watched.wait(run).error or {})["type"] == "sandbox_died"


def test_what_a_run_that_ended_well_leaves_is_found_at_the_next_look(
    node: Node, sessions: Sessions, superuser: sa.Connection
) -> None:
    before = metric("lanewise_repaired_total", reason="session_of_dead_sandbox")
    run = begin(node, "thread")
    _, _, session = told(node, run)
    await_busy(superuser, session)
    assert sessions.end_orphans() == 0
    assert node.wait(run).status == "completed"
    node.join()
    assert is_busy(superuser, session)
    assert wait_until(lambda: sessions.end_orphans() == 1, PATIENCE_S)  # a look may miss a socket
    assert wait_until(lambda: not is_there(superuser, session), 1)
    assert metric("lanewise_repaired_total", reason="session_of_dead_sandbox") == before + 1
    assert sessions.end_orphans() == 0


def test_a_worker_that_ends_looks_a_last_time(sessions: Sessions, settings: Settings, superuser: sa.Connection) -> None:
    sessions._every_s = 60
    sessions.start()
    with a_client(settings, superuser, "run_database_url") as (die, session):
        die()
        assert is_busy(superuser, session)
        sessions.stop()
        assert wait_until(lambda: not is_there(superuser, session), 1)


def test_whoevers_it_was(sessions: Sessions, settings: Settings, superuser: sa.Connection) -> None:
    """A session of the sandboxes' login that nobody here knows: ended once its client is dead, and not before."""
    with a_client(settings, superuser, "run_database_url") as (die, session):
        assert sessions.end_orphans() == 0
        assert is_busy(superuser, session)
        die()
        assert is_busy(superuser, session)
        assert wait_until(lambda: sessions.end_orphans() == 1, PATIENCE_S)  # a look may miss a socket
        assert wait_until(lambda: not is_there(superuser, session), 1)


def test_a_port_that_leads_elsewhere_by_now_says_nothing(
    sessions: Sessions, settings: Settings, superuser: sa.Connection
) -> None:
    """The kernel lends a dead client's port to connections to other servers while Postgres still holds its end."""
    with (
        a_client(settings, superuser, "run_database_url") as (die, session),
        socket.create_server(("127.0.0.1", 0)) as elsewhere,
        socket.socket() as other,
    ):
        client = sa.text("SELECT client_port FROM pg_stat_activity WHERE pid = :pid")
        port = superuser.scalar(client, {"pid": session})
        die()
        try:
            other.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", port << 16 | port))
        except OSError:
            pytest.skip("only Linux 6.3 and newer let a test choose the port")
        assert wait_until(lambda: connects(other, elsewhere), PATIENCE_S)
        assert other.getsockname()[1] == port
        assert wait_until(lambda: sessions.end_orphans() == 1, PATIENCE_S)
        assert wait_until(lambda: not is_there(superuser, session), 1)


def connects(client: socket.socket, server: socket.socket) -> bool:
    return client.connect_ex(server.getsockname()) == 0


def test_where_our_own_sessions_have_no_socket_either_nothing_is_ended(
    sessions: Sessions, settings: Settings, superuser: sa.Connection
) -> None:
    """As behind NAT, where other machines come from the same address: what is not here may live there."""
    with (
        a_client(settings, superuser, "run_database_url") as (die, session),
        a_client(settings, superuser, "database_url") as (die_too, own),
    ):
        die()
        die_too()
        assert sessions.end_orphans() == 0
        assert is_busy(superuser, session)
        superuser.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": own})
        assert wait_until(lambda: not is_there(superuser, own), 1)
        assert wait_until(lambda: sessions.end_orphans() == 1, PATIENCE_S)  # a look may miss a socket


def warned(logs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leaves out that the server has databases of other tests as well."""
    return [log for log in logs if not str(log.get("may")).startswith("connect to the database")]


def test_what_cannot_be_ended_is_said_once(sessions: Sessions, superuser: sa.Connection) -> None:
    with capture_logs() as logs:
        sessions.check()
        assert warned(logs) == []
        superuser.execute(sa.text("CREATE ROLE another_run LOGIN IN ROLE lanewise_run"))
        try:
            sessions.check()
            sessions.check()
        finally:
            superuser.execute(sa.text("DROP ROLE another_run"))
    assert [(log["log_level"], "lanewise migrate" in log["reason"]) for log in warned(logs)] == [("warning", True)]


def test_what_sandboxes_may_do_though_they_must_not_is_said(sessions: Sessions, superuser: sa.Connection) -> None:
    superuser.execute(sa.text("GRANT CREATE ON SCHEMA public TO PUBLIC"))
    with capture_logs() as logs:
        sessions.check()
    assert [log["may"] for log in warned(logs)] == ["make tables and functions in the schemas public"]


@pytest.fixture
def mighty_owner(superuser: sa.Connection) -> Iterator[None]:
    """An owner to whom somebody has given more than it needs: it sees every session."""
    superuser.execute(sa.text("GRANT pg_monitor, pg_signal_backend TO lanewise_owner"))
    yield
    superuser.execute(sa.text("REVOKE pg_monitor, pg_signal_backend FROM lanewise_owner"))


@pytest.mark.usefixtures("mighty_owner")
def test_only_sessions_of_sandboxes_are_listed(
    services: Services, settings: Settings, superuser: sa.Connection
) -> None:
    with a_client(settings, superuser, "run_database_url") as (_, session):
        found = listed(services.database.once_for_all())
        assert [each.pid for each in found if not each.own] == [session]
        logins = "SELECT DISTINCT usename FROM pg_stat_activity WHERE pid = ANY(:pids)"
        own = [each.pid for each in found if each.own]
        assert superuser.scalars(sa.text(logins), {"pids": own}).all() == ["lanewise_service"]
        assert {(each.address, each.port) for each in found} <= linux.connected_addresses(ports_of(settings))


def ports_of(settings: Settings) -> set[int]:
    return {sa.make_url(settings.database_url.get_secret_value()).port or 0}


@contextmanager
def a_client(settings: Settings, superuser: sa.Connection, login: str) -> Iterator[tuple[Callable[[], None], int]]:
    """Yields what kills a client process in the midst of a statement that Postgres goes on with, and its session."""
    url = getattr(settings, login).get_secret_value()
    with subprocess.Popen([sys.executable, "-c", CLIENT, url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        session = int(process.stdout.readline())

        def die() -> None:
            process.kill()
            process.wait()

        try:
            await_busy(superuser, session)
            yield die, session
        finally:
            process.kill()
            superuser.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": session})
