"""Brings a database to the newest schema: roles, tables, and the keys that Postgres verifies tokens with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from psycopg2.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import OperationalError, ProgrammingError

from shared import sandbox_login
from shared.errors import ConfigurationError
from shared.models import OWNER, RUN, SCHEMA, SERVICE
from shared.signing import TOKEN_PURPOSE, derive_key

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK = 0x6C616E65  # one migration at a time; any constant will do
GRANT_OPTIONS_SINCE = 160_000  # of Postgres; before that, members inherit unless they are made otherwise
LOCK_TIMEOUT = "2s"  # whoever needs the table meanwhile waits behind a migration that waits for it
PATIENCE_S = 60.0  # for all tries together
PAUSE_S = 1.0  # between two tries: those who had to wait go on

# Of the service's login; kept in the database because a pooler in between drops those of the connection.
SERVICE_SETTINGS = {
    "search_path": SCHEMA,
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
}


def migrate(
    admin_url: str, service_url: str, run_url: str, secrets: Sequence[str], audit_retention_days: float = 365
) -> list[str]:
    """Creates missing roles, makes or upgrades the schema, stores the token keys and a limit. Safe to repeat.

    One transaction. A table that somebody else keeps locked is waited for briefly, for others wait behind; then all is
    tried again, for about a minute.

    Args:
        admin_url: a role that may create roles, and schemas in the database; a superuser is not needed.
        service_url: its user and password become the login of api and worker.
        run_url: its user and password become the login of the sandboxes.
        secrets: the signing secrets, newest first; tokens of each are accepted.
        audit_retention_days: what is younger in the audit trail cannot be removed by api and worker.

    Returns:
        what sandboxes may still do though they must not, because `admin_url` has not the right to forbid it; each to be
        read after "sandboxes may".

    Raises:
        ConfigurationError: the database cannot be reached, or a right is missing; with Postgres' own message. Or others
            keep tables locked; with the tables and their sessions.
    """
    engine = sa.create_engine(_driver(admin_url), poolclass=sa.NullPool, connect_args={"connect_timeout": 10})
    give_up_at = time.monotonic() + PATIENCE_S
    try:
        while not _try(engine, make_url(service_url), make_url(run_url), secrets, audit_retention_days):
            if time.monotonic() > give_up_at:
                raise ConfigurationError(
                    f"the database cannot be migrated: for {PATIENCE_S:g} s others have kept tables locked; "
                    f"now: {_lock_holders(engine)}"
                )
            time.sleep(PAUSE_S)
        with engine.connect() as connection:
            return sandbox_login.gaps(connection, str(make_url(run_url).username))
    except (OperationalError, ProgrammingError) as error:
        raise ConfigurationError(
            f"the database cannot be migrated: {str(error.orig).strip()}"
        ) from None  # the statement may hold a password
    finally:
        engine.dispose()


def _try(engine: Engine, service: URL, run: URL, secrets: Sequence[str], audit_retention_days: float) -> bool:
    """Migrates; False: somebody else has a table locked, and nothing is changed."""
    try:
        with engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            _create_roles(connection, service, run)
            connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA} AUTHORIZATION {OWNER}"))
            connection.execute(sa.text(f"SET LOCAL ROLE {OWNER}"))
            connection.execute(sa.text(f"SET LOCAL search_path = {SCHEMA}"))
            _upgrade(connection, secrets)
            _store_keys(connection, secrets)
            _keep_audit(connection, audit_retention_days)
    except OperationalError as error:
        if isinstance(error.orig, (LockNotAvailable, DeadlockDetected)):
            return False
        raise
    return True


def _lock_holders(engine: Engine) -> str:
    """Names the tables that have locks on them, and whose: "runs (session 4711 of lanewise_run)"."""
    query = sa.text("""
        SELECT DISTINCT format('%s (session %s of %s)', c.relname, l.pid, a.usename)
        FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE c.relnamespace = to_regnamespace(:schema) AND c.relkind = 'r' AND l.granted
            AND a.datname = current_database()
        ORDER BY 1 LIMIT 10
    """)
    with engine.connect() as connection:
        return ", ".join(connection.scalars(query, {"schema": SCHEMA})) or "none"


def head_revision() -> str:
    """Returns the newest revision that this code knows: the number that the newest of the files begins with."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _upgrade(connection: Connection, secrets: Sequence[str]) -> None:
    from alembic import command  # noqa: PLC0415 - an api asks for the newest revision only, and starts sooner without
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    config.attributes["secrets"] = secrets  # a migration signs the audit records that older versions have left
    command.upgrade(config, "head")


def _driver(url: str) -> URL:
    return make_url(url).set(drivername="postgresql+psycopg2")


def _create_roles(connection: Connection, service: URL, run: URL) -> None:
    existing = set(connection.scalars(sa.text("SELECT rolname FROM pg_roles")))
    for group in (OWNER, SERVICE, RUN):
        if group not in existing:
            connection.execute(sa.text(f"CREATE ROLE {group} NOLOGIN"))
    connection.execute(sa.text(f"GRANT {OWNER} TO CURRENT_USER"))
    quote = connection.dialect.identifier_preparer.quote
    if service.username == run.username:
        raise ConfigurationError("api and sandboxes need two roles: LANEWISE_RUN_DATABASE_URL names the service's user")
    for group, url in ((SERVICE, service), (RUN, run)):
        if not url.username or not url.password:
            raise ConfigurationError(f"the URL for the role {group} needs a user and a password")
        login = quote(url.username)
        if url.username not in existing | {OWNER, SERVICE, RUN}:
            connection.execute(sa.text(f"CREATE ROLE {login} NOLOGIN"))
        literal = sa.literal(url.password).compile(connection, compile_kwargs={"literal_binds": True})
        connection.exec_driver_sql(f"ALTER ROLE {login} LOGIN PASSWORD {literal}")
        if url.username != group:
            connection.execute(sa.text(f"GRANT {group} TO {login}"))
    for name, value in SERVICE_SETTINGS.items():
        connection.execute(sa.text(f"ALTER ROLE {quote(service.username or SERVICE)} SET {name} = '{value}'"))
    sandbox_login.restrict(connection, run.username or RUN, service.username or SERVICE)
    _let_owner_end_sessions(connection, quote(run.username or RUN))


def _let_owner_end_sessions(connection: Connection, run_login: str) -> None:
    """Lets the owner see and end the sandboxes' sessions, for the two functions that do it for the service.

    Postgres asks for inherited rights for that. The owner gains no others: the tables that the login may read are its
    own, and the policies that bind the login go on asking for a token.
    """
    narrowed = " WITH INHERIT TRUE, SET FALSE" if _version(connection) >= GRANT_OPTIONS_SINCE else ""
    connection.execute(sa.text(f"GRANT {run_login} TO {OWNER}{narrowed}"))


def _version(connection: Connection) -> int:
    return int(connection.scalar(sa.text("SHOW server_version_num")))


def _keep_audit(connection: Connection, days: float) -> None:
    """Stores how long the audit trail is kept; and, where that was shorter, what may have been removed by then."""
    connection.execute(
        sa.text("""
            UPDATE audit_retention SET gone_before = greatest(gone_before, now() - age), age = wanted
            FROM make_interval(secs => :days * 86400.0) AS wanted
            WHERE age IS DISTINCT FROM wanted
        """),
        {"days": days},
    )


def _store_keys(connection: Connection, secrets: Sequence[str]) -> None:
    connection.execute(sa.text("DELETE FROM token_keys"))
    for number, secret in enumerate(secrets):
        key = derive_key(secret, TOKEN_PURPOSE).ljust(64, b"\0")
        connection.execute(
            sa.text("INSERT INTO token_keys VALUES (:id, :inner, :outer)"),
            {
                "id": str(number),
                "inner": bytes(byte ^ 0x36 for byte in key),
                "outer": bytes(byte ^ 0x5C for byte in key),
            },
        )
