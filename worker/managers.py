"""What a sandbox injects into its engine: the run's own database sessions, and small values by way of the runner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shared.context import UserExecutionContext
from shared.database import Database
from shared.errors import UnavailableError
from worker.link import RunnerLink

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class SandboxDatabase:
    """Sessions under the run's role, opened when first used. Postgres itself verifies the token in each transaction.

    Args:
        url: of the run role, None if the deployment has none.
        token: of this user, run and attempt.
    """

    def __init__(self, url: str | None, token: str) -> None:
        self._url = url
        self._token = token
        self._database: Database | None = None

    @contextmanager
    def session(self, context: UserExecutionContext) -> Iterator[Session]:  # noqa: ARG002 - the token decides whose rows
        """Yields a session in a transaction of its own; commits at the end, rolls back on an error.

        Raises:
            UnavailableError: Postgres is away, or the deployment gives sandboxes no database.
        """
        if self._url is None:
            raise UnavailableError("sandboxes have no database here: LANEWISE_RUN_DATABASE_URL is not set")
        if self._database is None:
            self._database = Database(self._url, pool_size=1, overflow=3)
        with self._database.token_session(self._token) as session:
            yield session

    def close(self) -> None:
        """Closes the connections, if there are any."""
        if self._database is not None:
            self._database.close()


class SandboxStore:
    """`run.store`: the runner adds the user's key prefix; the sandbox never sees Redis.

    Args:
        link: to the runner.
    """

    def __init__(self, link: RunnerLink) -> None:
        self._link = link

    def get(self, key: str) -> Any:
        """Returns the value kept under `key`, None if there is none or its time is up."""
        return self._link.call("store.get", key=key)

    def set(self, key: str, value: Any, ttl_s: float) -> None:
        """Keeps a JSON value.

        Args:
            key: 1 to 128 characters.
            value: JSON of at most 64 KiB.
            ttl_s: seconds, at most seven days.

        Raises:
            CallError: naming the limit that was broken, or that Redis is away.
        """
        self._link.call("store.set", key=key, value=value, ttl_s=ttl_s)
