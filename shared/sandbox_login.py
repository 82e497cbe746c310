"""The login of sandboxes: what Postgres lets it do by default and must not, taken away as far as our rights reach."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.database import load_sql
from shared.models import OWNER, SCHEMA, SERVICE

# Kept in the database, because a pooler in between drops those of the connection.
SETTINGS = {
    "search_path": SCHEMA,
    "statement_timeout": "1h",  # of a run that is over it ends sooner, see `sandbox_sessions`; an agent may set its own
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "10min",
    "client_connection_check_interval": "1s",  # a statement ends soon after its sandbox
}
# What only a superuser, or who was granted it, may set; then no session of the login can set it back.
IMPOSED = {
    "track_activities": "off",  # its statements are shown to nobody, not even to its other sessions
    "temp_file_limit": "1GB",  # of one session; a sort of any size would fill the disk
    "log_min_messages": "fatal",  # RAISE LOG would fill the server's log, with an agent's words
}
# Functions of Postgres that everybody may call, by name.
FUNCTIONS = {
    "see": "^pg_(stat_get_(activity|backend_.*|progress_info|wal_senders)|lock_status|(safe_snapshot_)?blocking_pids"
    "|prepared_xact)$",
    "end": "^pg_(terminate|cancel)_backend$",
    "lock": "^pg_(try_)?advisory_",
    "large": "^(lo_.*|loread|lowrite)$",
    "wal": "^pg_logical_emit_message$",
}
_LIMIT = sa.text("""
    SELECT (current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
        - coalesce(current_setting('reserved_connections', true), '0')::integer) / 2
""")
_TAKE_FUNCTIONS = sa.text("""
    SELECT CAST(CAST(oid AS regprocedure) AS text) FROM pg_proc
    WHERE pronamespace = CAST('pg_catalog' AS regnamespace) AND proname ~ :names
        AND has_function_privilege('public', oid, 'EXECUTE')
""")
_OPEN_DATABASES = sa.text("""
    SELECT datname FROM pg_database
    WHERE datname IN ('postgres', 'template1') AND datname <> current_database()
        AND has_database_privilege('public', oid, 'CONNECT')
""")
_SETTINGS = sa.text("""
    SELECT unnest(setconfig) FROM pg_db_role_setting
    WHERE setrole = (SELECT oid FROM pg_roles WHERE rolname = :login)
        AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
""")
_GAPS = load_sql("sandbox_login")


def restrict(connection: Connection, login: str, service_login: str) -> None:
    """Takes from the login what it must not do, and gives it back settings that a sandbox may have changed.

    Args:
        connection: of whoever migrates; a superuser can take more than others.
        login: of the sandboxes.
        service_login: it goes on reaching this database.
    """
    quote = connection.dialect.identifier_preparer.quote
    login, service_login = quote(login), quote(service_login)
    database = quote(str(connection.scalar(sa.text("SELECT current_database()"))))
    execute = connection.exec_driver_sql
    execute(f"ALTER ROLE {login} CONNECTION LIMIT {limit(connection)}")
    execute(f"ALTER ROLE {login} RESET ALL")
    execute(f"ALTER ROLE {login} IN DATABASE {database} RESET ALL")
    for name, value in (SETTINGS | _imposable(connection)).items():
        execute(f"ALTER ROLE {login} SET {name} = '{value}'")
    # Without the right to do so these two change nothing, and Postgres only warns.
    execute(f"GRANT CONNECT ON DATABASE {database} TO {login}, {service_login}")
    execute(f"REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC")
    if connection.scalar(sa.text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")):
        _restrict_everybody(connection)


def _restrict_everybody(connection: Connection) -> None:
    """Takes from PUBLIC, for from one role alone it cannot be taken; who needs it gets it by name."""
    quote, execute = connection.dialect.identifier_preparer.quote, connection.exec_driver_sql
    for function in connection.scalars(_TAKE_FUNCTIONS, {"names": "|".join(FUNCTIONS.values())}).all():
        execute(f"GRANT EXECUTE ON FUNCTION {function} TO {OWNER}, {SERVICE}, pg_monitor")
        execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    # Rights to functions are those of one database: in another one a sandbox could end the sessions of all others.
    for name in connection.scalars(_OPEN_DATABASES).all():
        execute(f"REVOKE CONNECT ON DATABASE {quote(name)} FROM PUBLIC")


def gaps(connection: Connection, login: str) -> list[str]:
    """Returns what sandboxes may do though they must not, each to be read after "sandboxes may".

    Args:
        connection: of any role.
        login: of the sandboxes.
    """
    found = list(connection.scalars(_GAPS, {"login": login, "limit": limit(connection), **FUNCTIONS}))
    present = set(connection.scalars(_SETTINGS, {"login": login}))
    if lacking := sorted(name for name, value in IMPOSED.items() if f"{name}={value}" not in present):
        found.append(f"set {', '.join(lacking)} as they like")
    expected = {f"{name}={value}" for name, value in (SETTINGS | IMPOSED).items()}
    changed = {setting.partition("=")[0] for setting in present ^ expected} - set(lacking)
    if changed:
        found.append(f"go by settings that somebody changed: {', '.join(sorted(changed))}")
    return found


def limit(connection: Connection) -> int:
    """Returns how many connections sandboxes may have: half of what there is for all but superusers."""
    return int(connection.scalar(_LIMIT))


def _imposable(connection: Connection) -> dict[str, str]:
    may = sa.text("SELECT has_parameter_privilege(:name, 'SET')")
    return {name: value for name, value in IMPOSED.items() if connection.scalar(may, {"name": name})}
