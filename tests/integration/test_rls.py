"""Row level security, attacked from both roles: a session reaches one user's rows and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, ProgrammingError

from shared import runs
from shared.database import Database
from shared.models import SCHEMA, Base, Deletion, Document, Run
from shared.outcomes import Completed, Lost
from shared.services import Services
from shared.signing import TOKEN_PURPOSE, database_token, derive_key
from tests.populated import populate
from tests.services import SECRETS, start_run, submit_run

USER_TABLES = sorted(table.name for table in Base.metadata.sorted_tables if "user_id" in table.columns)
USERS = ("alice", "bob")
OPEN_TABLES = {f"{SCHEMA}.documents", f"{SCHEMA}.document_passages"}  # to the run role, as far as its policies go
DENIED = "42501"  # insufficient privilege, a policy's refusal included
FORBIDDEN = """
    TABLE lanewise.token_keys
    TABLE lanewise.alembic_version
    INSERT INTO documents SELECT * FROM documents
    UPDATE documents SET content = ''
    DELETE FROM documents
    TRUNCATE documents
    TRUNCATE document_passages
    UPDATE document_passages SET text = 'changed'
    SELECT record_step('alice', 'r', 1, 'n', '1')
    SELECT save_state('alice', 'r', 1, 'a', false, 0, '1', 't')
    SELECT sandbox_sessions()
    SELECT end_sandbox_session(1, now())
    CREATE TABLE lanewise.mine (x int)
    ALTER TABLE documents DISABLE ROW LEVEL SECURITY
    DROP POLICY run ON documents
    CREATE OR REPLACE FUNCTION lanewise.run_user() RETURNS text LANGUAGE sql AS $$ SELECT 'bob' $$
    SET ROLE lanewise_service
    SET ROLE lanewise_owner
    SET SESSION AUTHORIZATION postgres
    SET LOCAL row_security = off; SELECT * FROM documents WHERE user_id = 'bob'
    COPY documents TO PROGRAM 'cat'
    SELECT pg_read_file('/etc/passwd')
    ALTER ROLE lanewise_run SUPERUSER
"""


@pytest.fixture
def populated(services: Services) -> dict[str, Run]:
    """Rows of both users in every table that has users, and a running run of each."""
    running = {user_id: populate(services, user_id) for user_id in USERS}
    with services.database.system_session() as session:
        session.add_all([Deletion(user_id=user_id) for user_id in USERS])
    return running


def assert_owners(session: sa.orm.Session, users: set[str]) -> None:
    """Checks whose rows a session finds in each table when it does not filter."""
    for table in USER_TABLES:
        query = sa.text(f"SELECT DISTINCT user_id FROM {SCHEMA}.{table}")  # noqa: S608 - a name from the models
        assert set(session.scalars(query)) == users, table


@pytest.mark.usefixtures("populated")
class TestServiceRole:
    def test_the_fixture_fills_every_table_with_a_user(self, superuser: sa.Connection) -> None:
        with sa.orm.Session(superuser) as session:
            assert_owners(session, set(USERS))

    def test_a_query_without_a_filter_finds_own_rows_only(self, database: Database) -> None:
        for user_id in USERS:
            with database.user_session(user_id) as session:
                assert_owners(session, {user_id})

    @pytest.mark.parametrize("stated", [None, "", "ali%", "alice ", "ALICE"])
    def test_who_is_nobody_finds_nothing(self, database: Database, stated: str | None) -> None:
        with sa.orm.Session(database._engine) as session:
            if stated is not None:
                session.execute(sa.text("SELECT set_config('lanewise.user', :user, true)"), {"user": stated})
            assert_owners(session, set())

    def test_rows_cannot_be_made_for_another_user(self, database: Database) -> None:
        for table in USER_TABLES:
            columns = [
                c.name for c in Base.metadata.tables[f"{SCHEMA}.{table}"].columns if not c.identity and not c.computed
            ]
            values = ", ".join("'bob'" if name == "user_id" else name for name in columns)
            statement = f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table}"  # noqa: S608 - as above
            refusal = "permission denied" if table == "audit_log" else "row-level security"  # nobody writes there
            with pytest.raises(ProgrammingError, match=refusal), database.user_session("alice") as session:
                session.execute(sa.text(statement))

    def test_rows_cannot_be_given_away_taken_changed_or_deleted(self, database: Database) -> None:
        def touched(statement: str) -> int:
            """Returns how many rows a statement of Alice's touches; a refused one touches none."""
            try:
                with database.user_session("alice") as session:
                    result = session.execute(sa.text(statement))
                    assert isinstance(result, sa.CursorResult)
                    return result.rowcount
            except ProgrammingError as error:
                if getattr(error.orig, "pgcode", None) != DENIED:
                    raise
                return 0

        for table in USER_TABLES:
            statements = (
                f"UPDATE {table} SET user_id = 'bob'",  # noqa: S608 - as above
                f"UPDATE {table} SET user_id = 'alice' WHERE user_id = 'bob'",  # noqa: S608
                f"UPDATE {table} SET user_id = user_id WHERE user_id = 'bob'",  # noqa: S608
                f"DELETE FROM {table} WHERE user_id = 'bob'",  # noqa: S608
            )
            assert {text: touched(text) for text in statements} == dict.fromkeys(statements, 0)
        with database.user_session("bob") as session:
            assert_owners(session, {"bob"})

    @pytest.mark.parametrize("statement", ["SET ROLE lanewise_run", "SET ROLE lanewise_owner", "TABLE token_keys"])
    def test_the_service_is_neither_a_sandbox_nor_the_owner(self, database: Database, statement: str) -> None:
        with pytest.raises(ProgrammingError) as caught, database.system_session() as session:
            session.execute(sa.text(statement))
        assert getattr(caught.value.orig, "pgcode", None) == DENIED

    def test_the_owner_ends_sessions_of_the_run_role_and_is_not_it(self, superuser: sa.Connection) -> None:
        superuser.execute(sa.text("SET SESSION AUTHORIZATION lanewise_owner"))
        try:
            assert superuser.scalars(sa.text("SELECT content FROM lanewise.documents")).all() == []
            with pytest.raises(ProgrammingError, match="permission denied to set role"):
                superuser.execute(sa.text("SET ROLE lanewise_run"))
        finally:
            superuser.execute(sa.text("RESET SESSION AUTHORIZATION"))

    def test_a_system_session_sees_everybody(self, database: Database) -> None:
        with database.system_session() as session:
            assert_owners(session, set(USERS))


def token(run: Run, *, user_id: str | None = None, attempt: int | None = None, ttl_s: float = 60) -> str:
    key = derive_key(SECRETS[0], TOKEN_PURPOSE)
    return database_token(key, user_id or run.user_id, run.id, run.attempt if attempt is None else attempt, ttl_s)


def seen(run_database: Database, shown: str) -> list[bytes]:
    """Returns the documents that a sandbox with this token can read."""
    with run_database.token_session(shown) as session:
        return list(session.scalars(sa.select(Document.content)))


class TestRunRole:
    def test_a_sandbox_reads_the_documents_of_its_user(self, populated: dict[str, Run], run_database: Database) -> None:
        for user_id, run in populated.items():
            assert seen(run_database, token(run)) == [f"of {user_id}".encode()]

    def test_each_changed_character_of_a_token_shows_nothing(
        self, populated: dict[str, Run], run_database: Database
    ) -> None:
        good = token(populated["alice"])
        assert seen(run_database, f"{good}.x") == seen(run_database, f"x.{good}") == []
        for position, character in enumerate(good):
            for other in {"0", "f", "."} - {character}:
                assert seen(run_database, good[:position] + other + good[position + 1 :]) == []

    def test_nonsense_shows_nothing(self, populated: dict[str, Run], run_database: Database) -> None:
        assert populated
        numbers = ("x", "", "-1", "1e9", "9" * 40, "1.5", "\u00e4")
        fields = [f"{user}.r.{n}.{n}.00" for n in numbers for user in ("616c696365", "zz", "", "f", "00", "\u00e4")]
        for shown in ("", ".", "...", "....", ".....", "a.b.c.d.e", "x" * 100_000, "." * 100_000, *fields):
            assert seen(run_database, shown) == [], shown[:80]

    def test_without_a_token_there_is_nothing(self, populated: dict[str, Run], run_database: Database) -> None:
        assert populated
        with run_database._engine.begin() as connection:
            assert connection.execute(sa.text("SELECT * FROM documents")).all() == []

    @pytest.mark.parametrize(
        "forge",
        [
            lambda populated: token(populated["alice"], ttl_s=-1),
            lambda populated: token(populated["alice"], user_id="bob"),
            lambda populated: token(populated["alice"], attempt=2),
            lambda populated: token(populated["alice"], attempt=0),
            lambda populated: database_token(
                derive_key("another secret", TOKEN_PURPOSE), "alice", populated["alice"].id, 1, 60
            ),
            lambda populated: database_token(
                derive_key(SECRETS[0], "run-message"), "alice", populated["alice"].id, 1, 60
            ),
        ],
        ids=["expired", "another user's run", "attempt to come", "attempt before", "another secret", "another purpose"],
    )
    def test_a_token_that_was_not_given_for_this_attempt_shows_nothing(
        self, populated: dict[str, Run], run_database: Database, forge: Callable[[dict[str, Run]], str]
    ) -> None:
        assert seen(run_database, forge(populated)) == []

    def test_a_superseded_attempt_sees_nothing_more_and_its_successor_does(
        self, populated: dict[str, Run], services: Services, run_database: Database
    ) -> None:
        first = populated["alice"]
        with services.database.user_session("alice") as session:
            assert runs.finish(session, first, Lost("sandbox_died", "it died"), "leader")
        assert seen(run_database, token(first)) == []
        second = start_run(services, first)
        assert second.attempt == 2
        assert seen(run_database, token(first)) == []
        assert seen(run_database, token(second)) == [b"of alice"]

    def test_an_ended_run_sees_nothing_more(
        self, populated: dict[str, Run], services: Services, run_database: Database
    ) -> None:
        run = populated["alice"]
        with services.database.user_session("alice") as session:
            assert runs.finish(session, run, Completed({}), "worker:w")
        assert seen(run_database, token(run)) == []

    def test_an_ended_run_is_not_helped_by_another_one_of_its_user(
        self, populated: dict[str, Run], services: Services, run_database: Database
    ) -> None:
        with services.database.system_session() as session:
            session.execute(sa.delete(Deletion))
        other = start_run(services, submit_run(services, "alice"))
        with services.database.user_session("alice") as session:
            assert runs.finish(session, populated["alice"], Completed({}), "worker:w")
        assert seen(run_database, token(populated["alice"])) == []
        assert seen(run_database, token(other)) == [b"of alice"]

    def test_tables_of_a_sandboxs_own_verify_no_token(
        self,
        populated: dict[str, Run],
        services: Services,
        run_database: Database,
        superuser: sa.Connection,
        database_name: str,
    ) -> None:
        """If it could make some, they would hide the schema's from its own statements, and from nothing else."""
        superuser.execute(sa.text(f"GRANT TEMPORARY ON DATABASE {database_name} TO lanewise_run"))
        ended = populated["alice"]
        with services.database.user_session("alice") as session:
            assert runs.finish(session, ended, Completed({}), "worker:w")
        row = {"user_id": "alice", "id": ended.id, "attempt": ended.attempt, "token": token(ended)}
        with run_database._engine.begin() as connection:
            for statement in (
                "SET LOCAL search_path = pg_temp, lanewise",
                "CREATE TEMP TABLE runs (user_id text, id text, attempt integer, status text) ON COMMIT DROP",
                "INSERT INTO runs VALUES (:user_id, :id, :attempt, 'running')",
                "GRANT ALL ON runs TO PUBLIC",
                "SELECT set_config('lanewise.token', :token, true)",
            ):
                connection.execute(sa.text(statement), row)
            assert connection.scalar(sa.text("SELECT lanewise.run_user()")) is None

    @pytest.mark.parametrize("stated", ["bob", "*", ""])
    def test_stating_a_user_changes_nothing(
        self, populated: dict[str, Run], run_database: Database, stated: str
    ) -> None:
        with run_database.token_session(token(populated["alice"])) as session:
            for local in ("true", "false"):
                session.execute(sa.text(f"SELECT set_config('lanewise.user', :user, {local})"), {"user": stated})
                assert list(session.scalars(sa.select(Document.content))) == [b"of alice"]
        assert seen(run_database, "") == []

    def test_the_function_leaves_no_stated_user_behind(self, populated: dict[str, Run], run_database: Database) -> None:
        with run_database.token_session(token(populated["alice"])) as session:
            assert session.scalar(sa.text("SELECT run_user()")) == "alice"
            assert session.scalar(sa.text("SELECT current_setting('lanewise.user', true)")) in ("", None)
        with run_database._engine.begin() as connection:  # the same one
            assert connection.scalar(sa.text("SELECT current_setting('lanewise.user', true)")) in ("", None)

    def test_what_a_sandbox_may_not_do(self, populated: dict[str, Run], run_database: Database) -> None:
        others = (name for name in Base.metadata.tables if name not in OPEN_TABLES)
        for statement in (*(f"TABLE {name}" for name in others), *FORBIDDEN.strip().splitlines()):
            with pytest.raises(DBAPIError) as caught, run_database.token_session(token(populated["alice"])) as session:
                session.execute(sa.text(statement.strip()))
            assert getattr(caught.value.orig, "pgcode", None) == DENIED, statement
