"""Request-scoped database sessions: one transaction each, for one stated user, closed whatever happens."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

import psycopg2
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from shared.context import check_user_id
from shared.errors import BusyError, DeletingError, UnavailableError

if TYPE_CHECKING:  # a sandbox has no keys, and need not load what signs
    from shared.signing import MacKeys

EVERYBODY = "*"  # refused as a user id by `check_user_id`, so nobody can be called so
# Row locks are held for milliseconds, unless a sandbox holds them on purpose: nobody else is to wait for it.
LOCK_TIMEOUT_S = 2.0
POSTGRES_PORT = 5432  # where a URL names none
_ADDRESSES_FOR_S = 10.0
_COMMENT = re.compile(r"--[^\n]*")
_AWAY = "the database is away; try again shortly"
_FULL = "all connections that the database has for this login are in use; try again shortly"
_DELETING = "the user is being deleted: nothing new is accepted until that is done"
_DELETING_STATE = "LW001"  # raised by the trigger `refuse_deleted`
_BUSY = "others hold what this needs in the database; try again shortly"
_STATE_USER = sa.text(
    "SELECT set_config('lanewise.user', :user_id, true), set_config('lock_timeout', :lock_timeout, true)"
)
_STATE_TOKEN = sa.text("SELECT set_config('lanewise.token', :token, true)")


def load_sql(name: str) -> sa.TextClause:
    """Returns the statement in `shared/sql/<name>.sql`, without its comments.

    The driver puts values in the place of parameters also where a comment names them, and a value with a line end would
    go on behind the comment, as SQL.
    """
    return sa.text(_COMMENT.sub("", (files("shared") / "sql" / f"{name}.sql").read_text()))


def for_sandbox(url: str) -> tuple[str, list[int]]:
    """Returns a database URL with the addresses of its host, and its ports.

    A sandbox without a network resolves no names. The name stays, for TLS certificates are made out to it. A name that
    cannot be resolved now, and several hosts in the query, are left alone. No ports: it is a socket of this machine.
    """
    return _for_sandbox(url, int(time.monotonic() / _ADDRESSES_FOR_S))


@lru_cache(maxsize=2)
def _for_sandbox(url: str, _moment: int) -> tuple[str, list[int]]:
    """What holds for a moment is remembered, for each run asks."""
    parts = sa.make_url(url)
    given = parts.query.get("host", ())
    hosts = (given,) if isinstance(given, str) else given
    if not parts.host and all(host.startswith("/") for host in hosts):
        return url, []
    ports = [int(port) for host in hosts if (port := host.rpartition(":")[2]).isdigit()]
    ports.append(parts.port or POSTGRES_PORT)
    if hosts or parts.host is None or "hostaddr" in parts.query or not (found := _addresses(parts.host)):
        return url, ports
    pairs = [("hostaddr", ",".join(found))]
    if len(found) > 1:  # one name for each: the driver tries one after the other, as it does with such a name
        pairs += [("host", f"{parts.host}:{ports[0]}") for _ in found]
        parts = parts.set(host=None, port=None)
    return parts.update_query_pairs(pairs).render_as_string(hide_password=False), ports


def _addresses(host: str) -> list[str]:
    try:
        return list(dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
    except OSError:
        return []


class Executor(Protocol):
    """What executes a statement inside a transaction of one stated user: a session, or `Database.once`."""

    @property
    def info(self) -> Mapping[Any, Any]:
        """What it carries for those who use it: the keys of the audit trail."""
        ...

    def execute(self, statement: sa.TextClause, params: Mapping[str, Any]) -> Iterable[sa.Row[Any]]:
        """Returns the rows."""
        ...


class Once:
    """One statement, one transaction, one round trip. For the few that every run needs."""

    def __init__(self, engine: sa.Engine, info: Mapping[str, Any], user_id: str, lock_timeout_s: float) -> None:
        self._engine = engine
        self.info = info
        self._stated = {"lw_user": user_id, "lw_lock": f"{lock_timeout_s * 1000:.0f}ms"}

    def execute(self, statement: sa.TextClause, params: Mapping[str, Any]) -> list[sa.Row[Any]]:
        """Runs the statement and returns its rows.

        Postgres runs several statements that come in one message as one transaction: so the user is stated for this
        statement alone, and begin and commit cost nothing.

        Raises:
            UnavailableError: Postgres cannot be reached or does not answer in time.
        """
        try:
            with self._engine.connect() as connection, _autocommit(connection):
                result = connection.execute(_stating_user(statement.text), {**params, **self._stated})
                return list(result)
        except (DBAPIError, PoolTimeoutError) as error:
            raise _outage(error) from error


class Database:
    """A connection pool and the only ways to a session.

    Args:
        url: a Postgres URL; its role decides what can be reached.
        pool_size: connections kept open.
        overflow: further ones in a rush.
        audit_keys: sign the audit trail; without them there can be no records.
    """

    def __init__(self, url: str, *, pool_size: int = 5, overflow: int = 15, audit_keys: MacKeys | None = None) -> None:
        self._info = {"audit_keys": audit_keys}  # under the name that `shared.audit` knows
        self._engine = sa.create_engine(
            sa.make_url(url).set(drivername="postgresql+psycopg2"),
            pool_size=pool_size,
            max_overflow=overflow,
            pool_timeout=5,
            pool_use_lifo=True,
            hide_parameters=True,  # of a failed statement: they are what users sent
            connect_args={
                "connect_timeout": 5,
                "application_name": "lanewise",
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 20_000,
            },
        )

    @contextmanager
    def user_session(
        self, user_id: str, *, repeatable: bool = False, lock_timeout_s: float = LOCK_TIMEOUT_S
    ) -> Iterator[Session]:
        """Yields a session that sees and writes one user's rows; commits at the end, rolls back on any error.

        Args:
            user_id: whose.
            repeatable: whether all that is read is as of one moment.
            lock_timeout_s: how long a statement waits for a lock; then the database counts as away.

        Raises:
            UnavailableError: Postgres cannot be reached or does not answer in time.
            BusyError: others hold the rows; it is an `UnavailableError` too.
        """
        stated = _stated(check_user_id(user_id), lock_timeout_s)
        with self._session(_STATE_USER, stated, repeatable=repeatable) as session:
            yield session

    def once(self, user_id: str, lock_timeout_s: float = LOCK_TIMEOUT_S) -> Once:
        """Returns what executes single statements for one user.

        Args:
            lock_timeout_s: how long one of them waits for a lock; then the database counts as away.
        """
        return Once(self._engine, self._info, check_user_id(user_id), lock_timeout_s)

    def once_for_all(self) -> Once:
        """Returns what executes single statements that concern all users."""
        return Once(self._engine, self._info, EVERYBODY, LOCK_TIMEOUT_S)

    @contextmanager
    def system_session(self, *, repeatable: bool = False) -> Iterator[Session]:
        """Yields a session for work that concerns all users: the leader, the event writer, heartbeats.

        Args:
            repeatable: whether all that is read is as of one moment.

        Raises:
            UnavailableError: Postgres cannot be reached or does not answer in time.
        """
        with self._session(_STATE_USER, _stated(EVERYBODY, LOCK_TIMEOUT_S), repeatable=repeatable) as session:
            yield session

    @contextmanager
    def token_session(self, token: str) -> Iterator[Session]:
        """Yields a session of a sandbox: Postgres itself verifies the token and decides whose rows there are."""
        with self._session(_STATE_TOKEN, {"token": token}) as session:
            yield session

    @contextmanager
    def _session(
        self, statement: sa.TextClause, parameters: dict[str, str], *, repeatable: bool = False
    ) -> Iterator[Session]:
        try:
            with Session(self._engine, expire_on_commit=False, info=self._info) as session, session.begin():
                if repeatable:
                    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
                session.execute(statement, parameters)
                yield session
        except (DBAPIError, PoolTimeoutError) as error:
            raise _outage(error) from error

    def close(self) -> None:
        """Closes the pooled connections."""
        self._engine.dispose()


def _stated(user_id: str, lock_timeout_s: float) -> dict[str, str]:
    return {"user_id": user_id, "lock_timeout": f"{lock_timeout_s * 1000:.0f}ms"}


@contextmanager
def _autocommit(connection: sa.Connection) -> Iterator[None]:
    """Has the driver begin no transaction; SQLAlchemy's own AUTOCOMMIT costs a round trip more."""
    driver: Any = connection.connection.dbapi_connection
    _set_autocommit(connection, driver, value=True)
    try:
        yield
    finally:
        if not driver.closed:
            _set_autocommit(connection, driver, value=False)


def _set_autocommit(connection: sa.Connection, driver: Any, *, value: bool) -> None:
    try:
        driver.autocommit = value
    except psycopg2.Error as error:  # closed, or left inside a transaction: nobody is to get it again
        connection.invalidate()
        raise UnavailableError(_AWAY, retry_after_s=2) from error


@lru_cache(maxsize=64)
def _stating_user(statement: str) -> sa.TextClause:
    stating = "SELECT set_config('lanewise.user', :lw_user, true), set_config('lock_timeout', :lw_lock, true)"
    return sa.text(f"{stating}; {statement}")


def _outage(error: Exception) -> Exception:
    """Returns the error for the caller: ours if the database or a deletion is the reason, else as it is."""
    if _state(error) == _DELETING_STATE:
        return DeletingError(_DELETING)
    if not is_outage(error):
        return error
    if _is_busy(error):
        return BusyError(_BUSY, retry_after_s=2)
    return UnavailableError(_FULL if _is_full(error) else _AWAY, retry_after_s=2)


def _is_full(error: Exception) -> bool:
    """True if the server takes no further connection. Who is not connected gets no SQLSTATE, only words."""
    said = str(error.orig) if isinstance(error, DBAPIError) else ""
    return any(words in said for words in ("too many connections", "too many clients", "connection slots"))


def _is_busy(error: Exception) -> bool:
    """True of an outage that concerns some rows only: a lock time-out, a deadlock, a failed serialization."""
    state = _state(error)
    return state is not None and (state[:2] == "40" or state == "55P03")


def _state(error: Exception) -> str | None:
    return getattr(error.orig, "pgcode", None) if isinstance(error, DBAPIError) else None


def is_outage(error: Exception) -> bool:
    """True if the database, not the statement, is the reason: no connection, a restart, a time-out, a full disk."""
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "pgcode", None)
    # 08 connection, 53 resources, 57 operator intervention, 40 serialization and deadlock, 55P03 lock time-out.
    if state is None:  # the driver, not the server, says so
        return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    return error.connection_invalidated or state[:2] in {"08", "53", "57", "40"} or state == "55P03"
