"""Redis: how we connect (every call bounded), and what our keys are called."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

SOCKET_TIMEOUT_S = 2.0

__all__ = ["Keys", "RedisError", "connect", "load_script"]


def connect(url: str) -> redis.Redis:
    """Returns a client whose every call ends within about two seconds, answers as text.

    A call is never repeated by the library: each of ours knows itself what a lost answer means.
    """
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        socket_keepalive=True,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 0),
    )


def load_script(client: redis.Redis, name: str) -> redis.commands.core.Script:
    """Returns the script in `shared/lua/<name>.lua`, sent by its digest."""
    return client.register_script((files("shared") / "lua" / f"{name}.lua").read_text())


class Keys:
    """The names of all our keys and channels.

    Args:
        deployment: the first part of every name.
    """

    def __init__(self, deployment: str) -> None:
        self._prefix = f"lw:{deployment}:"

    def _user(self, user_id: str) -> str:
        # A digest of fixed length and alphabet: no user id can imitate another's key, a pattern or another kind of key.
        return f"{self._prefix}{{{hashlib.sha256(user_id.encode()).hexdigest()[:32]}}}:"

    def slots(self, user_id: str) -> str:
        """The user's slots: a sorted set, member = run:attempt, score = end of the lease."""
        return self._user(user_id) + "slots"

    def events(self, user_id: str) -> str:
        """The channel that carries the user's events."""
        return self._user(user_id) + "events"

    def store(self, user_id: str, key: str) -> str:
        """A value that an agent of the user keeps for a while (`run.store`)."""
        return self._user(user_id) + "store:" + key

    def ticket(self, ticket_id: str) -> str:
        """The mark that a WebSocket ticket was used."""
        return f"{self._prefix}ticket:{ticket_id}"

    def control(self, worker_id: str) -> str:
        """The channel by which a worker is told to cancel."""
        return f"{self._prefix}worker:{worker_id}"
