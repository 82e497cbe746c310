"""The database sessions of sandboxes, as Postgres lists them and as it is asked to end them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from shared.database import Executor, load_sql

_LIST = load_sql("sandbox_sessions")
_MAY_END = load_sql("may_end_sandbox_sessions")
_END = sa.text("SELECT end_sandbox_session(:pid, :started)")


class DatabaseSession(NamedTuple):
    """A session of a sandbox, or one of the service's own.

    Args:
        pid: of the server's process.
        started: when; with the pid it names one session for ever.
        address: of the client, as the server sees it.
        port: of the client, as the server sees it.
        server_port: of the server itself, which a pooler in between connects to.
        own: whether it is of the login that asked.
    """

    pid: int
    started: datetime
    address: str
    port: int
    server_port: int
    own: bool


def listed(executor: Executor) -> list[DatabaseSession]:
    """Returns the sandboxes' and our own sessions that come from the address which `executor` comes from."""
    return [DatabaseSession._make(row) for row in executor.execute(_LIST, {})]


def end(executor: Executor, sessions: Iterable[DatabaseSession]) -> int:
    """Asks Postgres to end sessions of sandboxes; returns how many of them there still were."""
    return sum(
        bool(row[0])
        for session in sessions
        for row in executor.execute(_END, {"pid": session.pid, "started": session.started})
    )


def may_end(executor: Executor) -> bool:
    """Tells whether sessions of sandboxes can be ended: false if the database was migrated with another run login."""
    return any(row.may_end for row in executor.execute(_MAY_END, {}))
