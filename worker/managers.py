"""What a sandbox injects into its engine: the run's own database sessions, and small values by way of the runner."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from shared.context import UserExecutionContext
from shared.database import Database
from shared.errors import ConfigurationError, UnavailableError
from worker.link import RunnerLink

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

CONNECT_FOR_S = 5.0  # other sandboxes may have all connections just now
NO_DATABASE = (
    "there is no database here: `lanewise run-agent` and tests have none; sandboxes of a fleet have one where "
    "LANEWISE_RUN_DATABASE_URL is set, as `lanewise up` does"
)


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
            UnavailableError: for some seconds Postgres was away, or had no connection left for sandboxes.
            ConfigurationError: the deployment gives sandboxes no database.
        """
        if self._url is None:
            raise ConfigurationError(NO_DATABASE)
        if self._database is None:
            self._database = Database(self._url, pool_size=1, overflow=3)
        with ExitStack() as stack:
            yield self._begin(stack, self._database)

    def _begin(self, stack: ExitStack, database: Database) -> Session:
        give_up_at = time.monotonic() + CONNECT_FOR_S
        while True:
            try:
                return stack.enter_context(database.token_session(self._token))
            except UnavailableError:
                if time.monotonic() > give_up_at:
                    raise
            time.sleep(random.uniform(0.05, 0.5))  # noqa: S311 - no secret

    def close(self) -> None:
        """Closes the connections, if there are any."""
        if self._database is not None:
            self._database.close()


class SandboxRecords:
    """The `RunRecords` of a sandbox's run: the runner keeps them.

    Args:
        link: to the runner.
    """

    def __init__(self, link: RunnerLink) -> None:
        self._link = link

    def load_step(self, name: str) -> list[Any]:
        """Returns the recorded result of a step in a list, which is empty if there is none."""
        return list(self._link.call("step.load", name=name))

    def record_step(self, name: str, result: Any) -> bool:
        """Records the result of a step; False if there was one, which stays."""
        return bool(self._link.call("step.record", name=name, value=result))

    def load_state(self, agent: str, scope: str) -> tuple[int, Any]:
        """Returns version and value of what an agent saved."""
        version, value = self._link.call("state.load", agent=agent, scope=scope)
        return version, value

    def save_state(self, agent: str, scope: str, expected: int, value: Any, token: str) -> int:
        """Saves a value over version `expected`."""
        return int(self._link.call("state.save", agent=agent, scope=scope, expected=expected, value=value, token=token))

    def save_artifact(self, name: str, content_type: str, content: bytes) -> None:
        """Saves a file for the run's user."""
        self._link.call(
            "artifact.save", name=name, content_type=content_type, content=base64.b64encode(content).decode()
        )

    def add_usage(self, model: str, input_tokens: int, output_tokens: int) -> None:
        """Adds one request to a model to what the run has used."""
        self._link.call("usage.add", model=model, input_tokens=input_tokens, output_tokens=output_tokens)


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
            CallError: naming the limit that was broken, also that of 1000 values of a user; or that Redis is away.
        """
        self._link.call("store.set", key=key, value=value, ttl_s=ttl_s)
