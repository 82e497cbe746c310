"""What a hostile agent tries by SQL, each with the walls that refuse it: with the last of them gone the same succeeds.

An attack comes from a sandbox of Alice with a valid token; Bob has a sandbox too. Walls are removed one after the
other, and until the last one goes the attack must fail: where there are two, each holds alone.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from lanewise.process import wait_until
from shared import runs, sandbox_login
from shared.errors import UnavailableError
from shared.migrate import migrate
from shared.models import RUN, SERVICE, Run
from shared.outcomes import Lost
from shared.services import Services
from shared.signing import TOKEN_PURPOSE, database_token, derive_key
from tests.populated import populate
from tests.services import SECRETS, Servers, a_context, start_run, submit_run
from worker import managers
from worker.managers import SandboxDatabase

INSUFFICIENT_PRIVILEGE = "42501"
CHECK_VIOLATION = "23514"
CANARY = "SELECT 'canary of bob'"
KNOWN_KEY = b"known to alice".ljust(64, b"\0")


class Sandbox:
    """A session of the run login, opened by hand as hostile code would."""

    def __init__(self, servers: Servers, database: str, token: str) -> None:
        self._connection = psycopg2.connect(servers.url(database, RUN))
        self._connection.autocommit = True
        self.ask("SELECT set_config('lanewise.token', %s, false)", token)
        self.pid = int(self.ask("SELECT pg_backend_pid()")[0][0])

    def ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, *values: Any) -> Any:
        return self.ask(statement, *values)[0][0]

    def close(self) -> None:
        self._connection.close()


@dataclass
class Scene:
    """Who is there."""

    servers: Servers
    database: str
    services: Services
    superuser: sa.Connection
    alice: Sandbox
    bob: Sandbox
    run: Run

    def sandbox(self, database: str | None = None) -> Sandbox:
        """Opens another session of Alice's."""
        return Sandbox(self.servers, database or self.database, token(self.run))


@pytest.fixture
def scene(servers: Servers, database_name: str, services: Services, superuser: sa.Connection) -> Iterator[Scene]:
    alice, bob = populate(services, "alice"), populate(services, "bob")
    with (
        closing(Sandbox(servers, database_name, token(alice))) as ours,
        closing(Sandbox(servers, database_name, token(bob))) as theirs,
    ):
        yield Scene(servers, database_name, services, superuser, ours, theirs, alice)


def token(run: Run, key: bytes = derive_key(SECRETS[0], TOKEN_PURPOSE)) -> str:
    return database_token(key, run.user_id, run.id, run.attempt, 60)


def is_alive(scene: Scene) -> bool:
    return bool(
        scene.superuser.scalar(
            sa.text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"), {"pid": scene.bob.pid}
        )
    )


# Attacks: each tells whether it succeeded; an error of Postgres is a refusal.


def read_rows(scene: Scene) -> bool:
    return bool(scene.alice.ask("SELECT content FROM documents WHERE user_id = 'bob'"))


def state_another_user(scene: Scene) -> bool:
    for user in ("bob", "*"):
        scene.alice.ask("SELECT set_config('lanewise.user', %s, false)", user)
        if read_rows(scene):
            return True
    return False


def forge_a_token(scene: Scene) -> bool:
    bob = Run(
        user_id="bob", id=scene.bob.value("SELECT split_part(current_setting('lanewise.token'), '.', 2)"), attempt=1
    )
    scene.alice.ask("SELECT set_config('lanewise.token', %s, false)", token(bob, KNOWN_KEY))
    return read_rows(scene)


def read_keys(scene: Scene) -> bool:
    return bool(scene.alice.ask("TABLE token_keys"))


def become_the_service(scene: Scene) -> bool:
    scene.alice.ask("SET ROLE lanewise_service")
    return state_another_user(scene)


def become_the_owner(scene: Scene) -> bool:
    """A view that a function with the owner's rights takes for the table, and that calls a function of ours."""
    for statement in (
        """CREATE FUNCTION pg_temp.steal() RETURNS text LANGUAGE plpgsql AS $$ BEGIN
            PERFORM set_config('stolen.key', encode(inner_pad, 'hex'), false) FROM lanewise.token_keys;
            RETURN 'running';
        END $$""",
        f"CREATE TEMP VIEW runs AS SELECT 'alice' user_id, '{scene.run.id}' id, 1 attempt, pg_temp.steal() status",
        "GRANT ALL ON runs TO PUBLIC",
        "SELECT record_own_step('x', '1')",
    ):
        scene.alice.ask(statement)
    return bool(scene.alice.value("SELECT current_setting('stolen.key', true)"))


def drop_the_policies(scene: Scene) -> bool:
    scene.alice.ask("DROP OWNED BY lanewise_run")
    return not scene.bob.ask("SELECT content FROM documents")


def plant_a_table(scene: Scene) -> bool:
    scene.alice.ask("CREATE TABLE public.planted (x integer)")
    return True


def read_statements(scene: Scene) -> bool:
    scene.bob.close()
    scene.bob = scene.sandbox()  # as the settings of the login are now
    scene.bob.ask(CANARY)
    return any(CANARY in str(row) for row in scene.alice.ask("SELECT query FROM pg_stat_activity"))


def read_statements_from_elsewhere(scene: Scene) -> bool:
    scene.bob.close()
    scene.bob = scene.sandbox()
    scene.bob.ask(CANARY)
    with closing(scene.sandbox("postgres")) as outside:
        return any(CANARY in str(row) for row in outside.ask("SELECT query FROM pg_stat_activity"))


def look_at_locks(scene: Scene) -> bool:
    scene.alice.ask("SELECT pid, relation FROM pg_locks")
    return True


def end_a_session(scene: Scene) -> bool:
    scene.alice.ask("SELECT pg_terminate_backend(%s)", scene.bob.pid)
    return wait_until(lambda: not is_alive(scene), 2)


def end_a_session_from_elsewhere(scene: Scene) -> bool:
    with closing(scene.sandbox("postgres")) as outside:
        outside.ask("SELECT pg_terminate_backend(%s)", scene.bob.pid)
    return wait_until(lambda: not is_alive(scene), 2)


def cancel_a_statement(scene: Scene) -> bool:
    return bool(scene.alice.value("SELECT pg_cancel_backend(%s)", scene.bob.pid))


def hold_up_a_user(scene: Scene) -> bool:
    """The lock that each submission of Bob's takes shared."""
    scene.alice.ask("SELECT pg_advisory_lock(hashtextextended('deletion:bob', 0))")
    with pytest.raises(UnavailableError):
        submit_run(scene.services, "bob")
    return True


def lock_a_table(scene: Scene) -> bool:
    """No user's documents could be searched, and no user deleted."""
    scene.alice.ask("BEGIN; LOCK TABLE document_passages")
    return True


def keep_large_objects(scene: Scene) -> bool:
    return bool(scene.alice.value("SELECT lo_from_bytea(0, 'kept beyond the run')"))


def fill_the_log(scene: Scene) -> bool:
    return bool(scene.alice.value("SELECT pg_logical_emit_message(false, '', repeat('x', 1000))"))


def sort_without_end(scene: Scene) -> bool:
    with closing(scene.sandbox()) as session:
        if session.value("SHOW temp_file_limit") == "-1":
            return True
        session.ask("SET temp_file_limit = -1")
        return True


def fill_the_servers_log(scene: Scene) -> bool:
    with closing(scene.sandbox()) as session:
        if session.value("SHOW log_min_messages") != "fatal":
            return True
        session.ask("SET log_min_messages = 'log'")  # and then RAISE LOG, with an agent's words
        return True


def write_late(scene: Scene) -> bool:
    supersede(scene)
    scene.alice.ask(
        "INSERT INTO document_passages (user_id, document, number, sha256, heading, start_char, end_char, text)"
        " SELECT 'alice', min(name), 99, '', '', 0, 0, 'late' FROM documents"
    )
    return True


def make_passages_without_end(scene: Scene) -> bool:
    return _keep_passage(scene, 5001, "")


def make_long_passages(scene: Scene) -> bool:
    return _keep_passage(scene, 5000, 100_000 * "x")


def _keep_passage(scene: Scene, number: int, text: str) -> bool:
    scene.alice.ask(
        "INSERT INTO document_passages (user_id, document, number, sha256, heading, start_char, end_char, text)"
        " SELECT 'alice', min(name), %s, '', '', 0, 0, %s FROM documents", number, text,
    )  # fmt: skip
    return True


def record_a_step_late(scene: Scene) -> bool:
    supersede(scene)
    return bool(scene.alice.value("SELECT record_own_step('late', '1')") == "recorded")


def supersede(scene: Scene) -> None:
    with scene.services.database.user_session("alice") as session:
        now = runs.find(session, "alice", scene.run.id)
        assert now is not None
        if now.attempt == scene.run.attempt:
            assert runs.finish(session, scene.run, Lost("sandbox_died", "it died"), "leader")
    if now.attempt == scene.run.attempt:
        start_run(scene.services, scene.run)


def commit_late(scene: Scene) -> bool:
    return _is_over_before_the_commit(scene, lambda mine: _keep_passage(mine, 98, "late"))


def clear_late(scene: Scene) -> bool:
    return _is_over_before_the_commit(
        scene, lambda mine: mine.alice.ask("SELECT clear_own_passages(min(name)) FROM documents")
    )


def _is_over_before_the_commit(scene: Scene, write: Callable[[Scene], Any]) -> bool:
    """Writes something while it may, and tells whether its attempt can be over before it commits."""
    run = start_run(scene.services, submit_run(scene.services, "alice"))
    waits = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with closing(Sandbox(scene.servers, scene.database, token(run))) as alice, ThreadPoolExecutor(1) as pool:
        mine = replace(scene, alice=alice, run=run)
        alice.ask("BEGIN")
        write(mine)
        superseding = pool.submit(supersede, mine)
        assert wait_until(lambda: superseding.done() or scene.superuser.scalar(waits), 5)
        over = superseding.done()
        alice.ask("ROLLBACK")
        superseding.result(10)
    return over


# Walls


@dataclass(frozen=True)
class Wall:
    """Args:
    remove: what takes it away, by the superuser.
    restore: what puts back what is not of the test's database alone.
    """

    remove: str
    restore: str = ""


def without(function: str, condition: str) -> Wall:
    """Returns a wall that is a condition in a function of ours."""
    return Wall(f"""
        DO $do$
        DECLARE was text := pg_get_functiondef('lanewise.{function}'::regproc);
        BEGIN
            ASSERT position($c${condition}$c$ IN was) > 0, 'the condition reads otherwise by now';
            EXECUTE replace(was, $c${condition}$c$, '');
        END $do$
    """)


def callable_by_all(function: str) -> Wall:
    return Wall(f"GRANT EXECUTE ON FUNCTION {function} TO PUBLIC")


def unbounded(name: str) -> Wall:
    return Wall(f"ALTER TABLE lanewise.document_passages DROP CONSTRAINT bounded_{name}")


POLICIES = Wall("ALTER TABLE lanewise.documents DISABLE ROW LEVEL SECURITY")
OF_THE_SERVICE = Wall("ALTER POLICY service ON lanewise.documents TO PUBLIC")
UNKNOWN_KEY = Wall(
    "INSERT INTO lanewise.token_keys VALUES ('known', '\\x{}', '\\x{}')".format(  # noqa: S608 - our own values
        *(bytes(byte ^ pad for byte in KNOWN_KEY).hex() for pad in (0x36, 0x5C))
    )
)
NO_GRANT_ON_KEYS = Wall("GRANT SELECT ON lanewise.token_keys TO lanewise_run")
NO_MEMBERSHIP = Wall("GRANT lanewise_service TO lanewise_run", "REVOKE lanewise_service FROM lanewise_run")
NO_TEMPORARY = Wall(
    "DO $$ BEGIN EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO PUBLIC', current_database()); END $$"
)
PATH = Wall("ALTER FUNCTION lanewise.record_step SET search_path = lanewise")
NOBODYS_POLICY = Wall("ALTER POLICY run ON lanewise.documents TO lanewise_run")
NO_CREATION = Wall("GRANT CREATE ON SCHEMA public TO PUBLIC")
NO_ACTIVITY = callable_by_all("pg_stat_get_activity")
UNTRACKED = Wall(
    "ALTER ROLE lanewise_run SET track_activities = on", "ALTER ROLE lanewise_run SET track_activities = off"
)
ONE_DATABASE = Wall("GRANT CONNECT ON DATABASE postgres TO PUBLIC", "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
NO_DELETE = Wall("GRANT DELETE ON lanewise.document_passages TO lanewise_run")
BOUNDED_FILES = Wall(
    "ALTER ROLE lanewise_run RESET temp_file_limit", "ALTER ROLE lanewise_run SET temp_file_limit = '1GB'"
)
QUIET = Wall("ALTER ROLE lanewise_run RESET log_min_messages", "ALTER ROLE lanewise_run SET log_min_messages = 'fatal'")
ATTEMPT_OF_THE_TOKEN = without("run_user", " AND attempt = part[3]::integer AND status = 'running'")
UNHELD = Wall("DROP TRIGGER hold_own_run ON lanewise.document_passages")
UNHELD_CLEARING = without("clear_own_passages", "FOR KEY SHARE")
ATTEMPT_OF_THE_STEP = without("record_step", " AND r.attempt = p_attempt AND r.status = 'running'")

Attack = Callable[[Scene], bool]
ESCAPES: list[tuple[Attack, list[Wall]]] = [
    (read_rows, [POLICIES]),
    (state_another_user, [OF_THE_SERVICE]),
    (forge_a_token, [UNKNOWN_KEY]),
    (read_keys, [NO_GRANT_ON_KEYS]),
    (become_the_service, [NO_MEMBERSHIP]),
    (become_the_owner, [NO_TEMPORARY, PATH]),
    (become_the_owner, [PATH, NO_TEMPORARY]),
    (drop_the_policies, [NOBODYS_POLICY]),
    (plant_a_table, [NO_CREATION]),
    (read_statements, [NO_ACTIVITY, UNTRACKED]),
    (read_statements, [UNTRACKED, NO_ACTIVITY]),
    (read_statements_from_elsewhere, [ONE_DATABASE, UNTRACKED]),
    (read_statements_from_elsewhere, [UNTRACKED, ONE_DATABASE]),
    (look_at_locks, [callable_by_all("pg_lock_status")]),
    (end_a_session, [callable_by_all("pg_terminate_backend")]),
    (end_a_session_from_elsewhere, [ONE_DATABASE]),
    (cancel_a_statement, [callable_by_all("pg_cancel_backend")]),
    (hold_up_a_user, [callable_by_all("pg_advisory_lock(bigint)")]),
    (lock_a_table, [NO_DELETE]),
    (keep_large_objects, [callable_by_all("lo_from_bytea")]),
    (fill_the_log, [callable_by_all("pg_logical_emit_message(boolean, text, text, boolean)")]),
    (sort_without_end, [BOUNDED_FILES]),
    (fill_the_servers_log, [QUIET]),
    (commit_late, [UNHELD]),
    (clear_late, [UNHELD_CLEARING]),
    (make_passages_without_end, [unbounded("number")]),
    (make_long_passages, [unbounded("size")]),
    (write_late, [ATTEMPT_OF_THE_TOKEN, UNHELD]),
    (write_late, [UNHELD, ATTEMPT_OF_THE_TOKEN]),
    (record_a_step_late, [ATTEMPT_OF_THE_TOKEN, ATTEMPT_OF_THE_STEP]),
    (record_a_step_late, [ATTEMPT_OF_THE_STEP, ATTEMPT_OF_THE_TOKEN]),
]


def succeeds(attack: Attack, scene: Scene) -> bool:
    """Attacks from a session of its own, which ends afterwards with all that it holds."""
    with closing(scene.sandbox()) as alice:
        try:
            return attack(replace(scene, alice=alice))
        except psycopg2.Error as error:
            if error.pgcode not in {
                INSUFFICIENT_PRIVILEGE,
                CHECK_VIOLATION,
            } and "permission denied for database" not in str(error):
                raise
            return False


@pytest.mark.parametrize(
    ("attack", "walls"), ESCAPES, ids=lambda value: getattr(value, "__name__", str(len(str(value))))
)
def test_an_escape(scene: Scene, attack: Attack, walls: list[Wall]) -> None:
    try:
        for wall in walls:
            assert not succeeds(attack, scene)
            scene.superuser.exec_driver_sql(wall.remove.replace("%", "%%"))
        assert succeeds(attack, scene), "nothing else refuses it: the walls are not the reason"
    finally:
        for wall in walls:
            if wall.restore:
                scene.superuser.exec_driver_sql(wall.restore)


@pytest.mark.parametrize("has_limit", [True, False])
def test_the_connections_that_sandboxes_use_up_are_their_own(
    scene: Scene, open_services: Callable[[], Services], *, has_limit: bool
) -> None:
    most = sandbox_login.limit(scene.superuser)
    with ExitStack() as stack:
        if not has_limit:
            stack.callback(scene.superuser.exec_driver_sql, f"ALTER ROLE lanewise_run CONNECTION LIMIT {most}")
            scene.superuser.exec_driver_sql("ALTER ROLE lanewise_run CONNECTION LIMIT -1")
        opened = [stack.enter_context(closing(session)) for session in until_refused(scene)]
        services = open_services()  # of a process that has no connection yet
        if has_limit:
            assert len(opened) <= most
            start_run(services, submit_run(services, "carol"))
        else:
            with pytest.raises(UnavailableError):
                submit_run(services, "carol")


def until_refused(scene: Scene) -> Iterator[Sandbox]:
    while True:
        try:
            yield scene.sandbox()
        except psycopg2.OperationalError as error:
            if not re.search("too many connections|connection slots", str(error)):
                raise
            return


def gaps(scene: Scene) -> list[str]:
    """Returns what the login may do though it must not, but for databases that other tests have beside this one."""
    return [gap for gap in sandbox_login.gaps(scene.superuser, RUN) if not gap.startswith("connect to ")]


def test_what_a_sandbox_may_change_of_its_own_login_is_told_and_put_right(scene: Scene) -> None:
    """Postgres lets every role change its password and the settings that its sessions begin with."""
    assert gaps(scene) == []
    scene.alice.ask("ALTER ROLE lanewise_run SET default_transaction_read_only = on")
    scene.alice.ask(f"ALTER ROLE lanewise_run IN DATABASE {scene.database} SET search_path = nowhere")
    scene.alice.ask("ALTER ROLE lanewise_run RESET lock_timeout")
    assert gaps(scene) == [
        "go by settings that somebody changed: default_transaction_read_only, lock_timeout, search_path"
    ]
    scene.alice.ask("ALTER ROLE lanewise_run PASSWORD 'another'")
    with pytest.raises(psycopg2.OperationalError, match="authentication failed"):
        scene.sandbox()
    admin_url, service_url, run_url = (scene.servers.url(scene.database, role) for role in (None, SERVICE, RUN))
    migrate(admin_url, service_url, run_url, SECRETS)
    assert gaps(scene) == []
    with closing(scene.sandbox()) as session:
        assert session.value("SHOW transaction_read_only") == "off"
        assert session.ask("SELECT content FROM documents")


@pytest.fixture
def full(scene: Scene) -> Iterator[Scene]:
    """Alice's and Bob's sessions are all that there may be."""
    most = sandbox_login.limit(scene.superuser)
    scene.superuser.exec_driver_sql("ALTER ROLE lanewise_run CONNECTION LIMIT 2")
    yield scene
    scene.superuser.exec_driver_sql(f"ALTER ROLE lanewise_run CONNECTION LIMIT {most}")


def test_an_agent_waits_for_a_connection_that_others_have(full: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    context = a_context("alice")
    with closing(SandboxDatabase(full.servers.url(full.database, RUN), token(full.run))) as database:
        monkeypatch.setattr(managers, "CONNECT_FOR_S", 0.1)
        with pytest.raises(UnavailableError, match="are in use; try again"), database.session(context):
            pytest.fail("there was one more")
        monkeypatch.setattr(managers, "CONNECT_FOR_S", 10.0)
        timer = threading.Timer(0.2, full.bob.close)
        timer.start()
        with database.session(context) as session:
            assert session.scalar(sa.text("SELECT run_user()")) == "alice"
        timer.join()
