"""What a worker answers a sandbox's calls with: Redis for the user's small values, Postgres for the run's records."""

from __future__ import annotations

import json
from typing import Any

from shared import records
from shared.errors import QuotaError, UnavailableError
from shared.models import Run
from shared.redis import RedisError, load_script
from shared.services import Services
from worker.calls import FULL_STORE, MAX_TTL_S, MAX_VALUES

# While a call is answered nobody looks at the run's timers, and a sandbox can make its runner wait for its own locks.
LOCK_TIMEOUT_S = 0.5


class UserStore:
    """`run.store` of one user: a `RedisManager` whose keys carry the user's digest.

    Args:
        run: whose user it is.
    """

    def __init__(self, services: Services, run: Run) -> None:
        self._services = services
        self._user_id = run.user_id
        self._keep = load_script(services.redis, "store")

    def get(self, key: str) -> Any:
        """Returns the value.

        Raises:
            UnavailableError: Redis is away.
        """
        try:
            text = self._services.redis.get(self._services.keys.store(self._user_id, key))
        except RedisError as error:
            raise _store_away() from error
        return None if text is None else json.loads(str(text))

    def set(self, key: str, value: Any, ttl_s: float) -> None:
        """Keeps the value.

        Raises:
            QuotaError: the user has too many.
            UnavailableError: Redis is away.
        """
        keys = self._services.keys
        names = [keys.stored(self._user_id), keys.store(self._user_id, key)]
        try:
            kept = self._keep(names, [json.dumps(value), ttl_s, MAX_VALUES, MAX_TTL_S])
        except RedisError as error:
            raise _store_away() from error
        if not kept:
            raise QuotaError(FULL_STORE)


class PostgresRecords:
    """The `RunRecords` of one attempt; each method is one transaction. See `shared.records` for what each one raises.

    Args:
        run: as claimed.
    """

    def __init__(self, services: Services, run: Run) -> None:
        self._database = services.database
        self._run = run
        self._once = services.database.once(run.user_id, LOCK_TIMEOUT_S)

    def load_step(self, name: str) -> list[Any]:
        """Returns the recorded result of a step in a list, which is empty if there is none."""
        return records.load_step(self._once, self._run, name)

    def record_step(self, name: str, result: Any) -> bool:
        """Records the result of a step; False if there was one, which stays."""
        return records.record_step(self._once, self._run, name, result)

    def load_state(self, agent: str, scope: str) -> tuple[int, Any]:
        """Returns version and value of what an agent saved."""
        return records.load_state(self._once, self._run, agent, scope)

    def save_state(self, agent: str, scope: str, expected: int, value: Any, token: str) -> int:
        """Saves a value over version `expected`."""
        return records.save_state(self._once, self._run, agent, scope, expected=expected, value=value, token=token)

    def save_artifact(self, name: str, content_type: str, content: bytes) -> None:
        """Saves a file for the run's user."""
        with self._database.user_session(self._run.user_id, lock_timeout_s=LOCK_TIMEOUT_S) as session:
            records.save_artifact(session, self._run, name, content_type, content)

    def add_usage(self, model: str, input_tokens: int, output_tokens: int) -> None:
        """Adds one request to a model to what the run has used."""
        records.add_usage(self._once, self._run, model, input_tokens, output_tokens)


def _store_away() -> UnavailableError:
    return UnavailableError("the store is away; try again shortly")
