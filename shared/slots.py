"""Per-user semaphores: leased slots in Redis, decided by one atomic script on the server's own clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import redis

from shared.redis import Keys, load_script


class Slots:
    """The slots of all users. A slot only counts; who owns a run is decided in Postgres.

    Args:
        client: Redis; each call may raise `redis.RedisError`, within about two seconds.
        keys: names of the keys.
        lease_s: seconds after which a slot that nobody renews is free.
    """

    def __init__(self, client: redis.Redis, keys: Keys, lease_s: float) -> None:
        self._client = client
        self._keys = keys
        self._lease_s = lease_s
        self._acquire = load_script(client, "acquire")
        self._renew = load_script(client, "renew")

    def acquire(self, user_id: str, run_ids: Sequence[str], limit: int) -> list[str]:
        """Returns those of the runs, oldest first, that hold a slot now: kept, or newly taken within the limit."""
        answer = self._acquire([self._keys.slots(user_id)], [limit, self._lease_s, *run_ids])
        return [run_id for run_id, held in zip(run_ids, answer, strict=True) if held]

    def renew(self, runs: Mapping[str, Sequence[str]]) -> int:
        """Renews the slots of running runs, in one round trip.

        Args:
            runs: run ids by user.

        Returns:
            how many were missing and were put back.
        """
        if not runs:
            return 0
        with self._client.pipeline(transaction=False) as pipeline:
            for user_id, run_ids in runs.items():
                self._renew([self._keys.slots(user_id)], [self._lease_s, *run_ids], client=pipeline)
            return sum(pipeline.execute())

    def release(self, user_id: str, run_ids: Sequence[str]) -> None:
        """Frees slots. Only the attempt that ended the run, or whoever proved that nobody owns it, may call this."""
        if run_ids:
            self._client.zrem(self._keys.slots(user_id), *run_ids)

    def held(self, user_id: str) -> list[str]:
        """Returns the runs that hold a slot, expired leases left out."""
        seconds, micros = self._client.time()
        members = self._client.zrangebyscore(self._keys.slots(user_id), f"({seconds + micros / 1e6}", "+inf")
        return [str(member) for member in members]
