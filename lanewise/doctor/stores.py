"""Postgres, Redis and the broker: reachable, of a version that works, and set up as they must be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from lanewise.doctor.findings import Finding, failed, ok, warning
from shared import sandbox_login
from shared.database import Database
from shared.migrate import head_revision
from shared.models import SCHEMA
from shared.redis import connect
from shared.services import Services
from shared.settings import Settings

OLDEST_POSTGRES = 15
OLDEST_REDIS = (6, 2)
CLOCK_WARNING_S = 1.0
CLOCK_FAILURE_S = 10.0  # the leeway of bearer tokens
MIGRATE = "run `lanewise migrate`"
_ROLE = text("""
    SELECT rolname, rolsuper OR rolbypassrls AS unbound, pg_has_role(current_user, :owner, 'MEMBER') AS owner
    FROM pg_roles WHERE rolname = current_user
""")
# A table with a user's rows that security policies do not bind, be it only for its owner.
_UNBOUND = text("""
    SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'user_id'
    WHERE n.nspname = :schema AND c.relkind IN ('r', 'p') AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
    ORDER BY c.relname
""")


def postgres(services: Services) -> Iterator[Finding]:
    """Checks the server's version and the schema's."""
    with services.database.system_session() as session:
        number = int(session.scalar(text("SHOW server_version_num")) or 0)
        version = session.scalar(text("SHOW server_version"))
    if number // 10_000 < OLDEST_POSTGRES:
        yield failed("postgres", f"version {version}", f"Lanewise needs Postgres {OLDEST_POSTGRES} or newer")
    else:
        yield ok("postgres", f"version {version}")


def schema(services: Services) -> Iterator[Finding]:
    """Checks the revision of the schema against the one that this code needs."""
    needed = head_revision()
    try:
        with services.database.system_session() as session:
            present = str(session.scalar(text(f"SELECT version_num FROM {SCHEMA}.alembic_version")))  # noqa: S608
    except ProgrammingError:
        yield failed("schema", "there is none, or this role may not see it", MIGRATE)
        return
    if present < needed:
        yield failed("schema", f"revision {present}; this code needs {needed}", MIGRATE)
    elif present > needed:
        yield warning("schema", f"revision {present} is newer than this code, {needed}", "install the newer Lanewise")
    else:
        yield ok("schema", f"revision {present}")


def service_role(services: Services) -> Iterator[Finding]:
    """Checks that row level security binds the login of api and worker, and every table with a user's rows."""
    with services.database.system_session() as session:
        role = session.execute(_ROLE, {"owner": "lanewise_owner"}).one()
        tables = session.scalars(_UNBOUND, {"schema": SCHEMA}).all()
    if role.unbound:
        yield failed(
            "roles", f"row level security does not bind {role.rolname}", "use the login that `lanewise migrate` made"
        )
    elif role.owner:
        yield failed("roles", f"{role.rolname} may change the schema", "use a login that is no member of the owner")
    if tables:
        yield failed("roles", f"row level security is not forced on {', '.join(tables)}", MIGRATE)
    if not (role.unbound or role.owner or tables):
        yield ok("roles", f"{role.rolname} is bound by row level security")


def run_role(settings: Settings) -> Iterator[Finding]:
    """Checks that the login of sandboxes connects, and sees nothing without a token."""
    if settings.run_database_url is None:
        return
    with closing(Database(settings.run_database_url.get_secret_value(), pool_size=1, overflow=0)) as database:
        with database.token_session("") as session:
            role = session.execute(_ROLE, {"owner": "lanewise_owner"}).one()
            documents = session.scalar(text(f"SELECT count(*) FROM {SCHEMA}.documents"))  # noqa: S608
            gaps = sandbox_login.gaps(session.connection(), role.rolname)
        sees_runs = _sees_runs(database)
    if role.unbound or role.owner or sees_runs or documents:
        yield failed(
            "sandbox role",
            f"{role.rolname} sees or may do what sandboxes must not",
            "use the login that `lanewise migrate` made, for nothing else",
        )
        return
    for gap in gaps:
        yield warning("sandbox role", f"sandboxes may {gap}", "docs/security.md#database says what to do")
    if not gaps:
        yield ok("sandbox role", f"{role.rolname} sees nothing without a token, and may do nothing to others")


def _sees_runs(database: Database) -> bool:
    try:
        with database.token_session("") as session:
            session.execute(text(f"SELECT FROM {SCHEMA}.runs LIMIT 1"))
    except ProgrammingError:  # permission denied, as it should be
        return False
    return True


def redis(check: str, url: str) -> Iterator[Finding]:
    """Checks a server's version, and that it forgets nothing by itself.

    Args:
        check: `redis` or `broker`.
        url: where it is.
    """
    with closing(connect(url)) as client:
        client.ping()
        server, memory = client.info("server"), client.info("memory")
    version, policy = str(server["redis_version"]), str(memory.get("maxmemory_policy", "noeviction"))
    if tuple(map(int, version.split(".")[:2])) < OLDEST_REDIS:
        yield failed(check, f"version {version}", "Lanewise needs Redis 6.2 or newer")
    elif policy != "noeviction":
        yield failed(
            check,
            f"maxmemory-policy is {policy}: it may drop slots and messages",
            "set maxmemory-policy noeviction, in its configuration too",
        )
    else:
        yield ok(check, f"version {version}, {policy}")


def audit_retention(services: Services) -> Iterator[Finding]:
    """Checks that Postgres was told what the setting says: by the longer of both, what is old is removed."""
    with services.database.system_session() as session:
        told = float(session.scalar(text("SELECT extract(epoch FROM age) / 86400 FROM audit_retention")) or 0)
    days = services.settings.audit_retention_days
    if abs(told - days) > 1 / 86_400:
        words = (
            f"Postgres lets nobody remove what is younger than {told:g} days; LANEWISE_AUDIT_RETENTION_DAYS is {days:g}"
        )
        yield warning("audit trail", words, f"{MIGRATE} with the setting that workers have")
    else:
        yield ok("audit trail", f"kept for {days:g} days, by Postgres too")


def clocks(services: Services) -> Iterator[Finding]:
    """Compares the clocks of this machine, Postgres and Redis: leases go by theirs, tokens by all."""

    def postgres_now() -> float:
        with services.database.system_session() as session:
            return float(session.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0)

    def redis_now() -> float:
        seconds, micros = services.redis.time()
        return float(seconds + micros / 1e6)

    ahead = {}
    for name, now in (("Postgres", postgres_now), ("Redis", redis_now)):
        now()  # connects
        before = time.time()
        there = now()
        ahead[name] = there - (before + time.time()) / 2
    words = ", ".join(f"{name} {'+' if value >= 0 else '-'}{abs(value):.2f} s" for name, value in ahead.items())
    apart = max(*ahead.values(), 0.0) - min(*ahead.values(), 0.0)
    if apart > CLOCK_FAILURE_S:
        yield failed("clocks", f"beside this machine: {words}", "let every machine keep time by NTP")
    elif apart > CLOCK_WARNING_S:
        yield warning("clocks", f"beside this machine: {words}", "let every machine keep time by NTP")
    else:
        yield ok("clocks", f"beside this machine: {words}")
