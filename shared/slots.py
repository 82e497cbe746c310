"""Per-user semaphores: leased slots in Redis, decided by atomic scripts on the server's own clock.

A slot only counts; who owns a run is decided in Postgres. Its member names run and attempt: whoever frees the slot of
an attempt that is over can so never free that of the next one. The limit is an argument of each call and not stored
here: to change it is to call with another one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence

import redis

from shared.redis import Keys, load_script

MOST_TRIES = 4  # one finds the doubt, the next finds it restored, unless there is another wipe or caller


def member(run_id: str, attempt: int) -> str:
    """Returns the name under which an attempt of a run holds its slot."""
    return f"{run_id}:{attempt}"


def run_of(name: str) -> str:
    """Returns the id of the run of a member."""
    return name.rpartition(":")[0]


class Slots:
    """The slots of all users.

    Args:
        client: Redis; each call may raise `redis.RedisError`, within about two seconds.
        keys: names of the keys.
        lease_s: seconds after which a slot that nobody renews is in doubt.
    """

    def __init__(self, client: redis.Redis, keys: Keys, lease_s: float) -> None:
        self._client = client
        self._keys = keys
        self._lease_s = lease_s
        self._acquire = load_script(client, "acquire")
        self._renew = load_script(client, "renew")
        self._restore = load_script(client, "restore")

    def acquire(self, user_id: str, members: Sequence[str], limit: int, live: Callable[[], Iterable[str]]) -> list[str]:
        """Takes slots in the given order, within the limit; a slot that is held already is kept and renewed.

        If Redis lost what was held, or a lease has ended, it is in doubt: then what `live` says is put back first. That
        is asked after a mark was set, and counts only if the mark is still there: so a wipe in between is noticed.

        Args:
            limit: how many the user may hold.
            live: tells the members of all granted and running runs of the user, as Postgres has them.

        Returns:
            those that hold a slot now.

        Raises:
            redis.RedisError: Redis is away, or keeps losing what it is given.
        """
        for _ in range(MOST_TRIES):
            mark = secrets.token_hex(8)
            answer = self._acquire([self._keys.slots(user_id)], [limit, self._lease_s, mark, *members])
            if answer or not members:
                return [name for name, held in zip(members, answer, strict=True) if held]
            self._restore([self._keys.slots(user_id)], [self._lease_s, mark, *sorted(live())])
        raise redis.RedisError("the slots are in doubt again and again")

    def keep(self, user_id: str, name: str) -> bool:
        """Renews a slot; False if it is not held, or in doubt."""
        return bool(self._acquire([self._keys.slots(user_id)], [0, self._lease_s, "", name]) == [1])

    def restore(self, user_id: str, members: Sequence[str]) -> int:
        """Puts back what some running runs of the user hold; returns how many were missing."""
        return int(self._restore([self._keys.slots(user_id)], [self._lease_s, "", *members])) if members else 0

    def renew(self, members: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Renews slots that are held, in one round trip; returns those that are not, by user.

        Args:
            members: by user.
        """
        if not members:
            return {}
        with self._client.pipeline(transaction=False) as pipeline:
            for user_id, names in members.items():
                self._renew([self._keys.slots(user_id)], [self._lease_s, *names], client=pipeline)
            answers = pipeline.execute()
        return {user_id: missing for user_id, missing in zip(members, answers, strict=True) if missing}

    def release(self, user_id: str, members: Sequence[str]) -> int:
        """Frees slots; returns how many were held. Only for attempts that are over, or never began."""
        return int(self._client.zrem(self._keys.slots(user_id), *members)) if members else 0

    def count(self, user_ids: Iterable[str]) -> int:
        """Returns how many slots some users hold together, those in doubt included, in one round trip."""
        with self._client.pipeline(transaction=False) as pipeline:
            for user_id in user_ids:
                pipeline.zcount(self._keys.slots(user_id), "-inf", "(+inf")  # marks have no end
            return sum(pipeline.execute())

    def held(self, user_id: str) -> list[str]:
        """Returns the members that hold a slot, ended leases left out."""
        seconds, micros = self._client.time()
        members = self._client.zrangebyscore(self._keys.slots(user_id), f"({seconds + micros / 1e6}", "(+inf")
        return [str(name) for name in members]
