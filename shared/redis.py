"""Redis: how we connect (every call bounded), and what our keys are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shared.breaker import Breaker

SOCKET_TIMEOUT_S = 2.0
DIGEST_LENGTH = 32

__all__ = ["Keys", "RedisError", "connect", "load_script"]


@contextmanager
def _closing_if_interrupted(connection: Any) -> Iterator[None]:
    """What is interrupted between a command and its reply never goes back to the pool: the next caller got the reply.

    Nothing of ours interrupts threads, and the library closes a connection that fails while it reads; but not one that
    something else is raised in just before.
    """
    try:
        yield
    except RedisError:  # an answer, or the library has closed it
        raise
    except BaseException:
        connection.disconnect()
        raise


class _Client(redis.Redis):
    """Fails at once for a while after a call that hung. Subscriptions go round it: they wait by themselves."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.breaker = Breaker(lambda: redis.ConnectionError("redis hangs: it is asked again in a moment"))

    def execute_command(self, *args: Any, **options: Any) -> Any:
        with self.breaker.guard():
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def _send_command_parse_response(self, conn: Any, command_name: Any, *args: Any, **options: Any) -> Any:
        with _closing_if_interrupted(conn):
            return super()._send_command_parse_response(conn, command_name, *args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> _Pipeline:  # noqa: FBT001, FBT002 - the library's
        pipeline = _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.breaker = self.breaker
        return pipeline


class _Pipeline(redis.client.Pipeline):
    """Its commands go out together, as one call of its client's."""

    breaker: Breaker

    def _execute_pipeline(self, connection: Any, commands: Any, raise_on_error: Any) -> Any:
        with _closing_if_interrupted(connection):
            return super()._execute_pipeline(connection, commands, raise_on_error)  # type: ignore[no-untyped-call]

    def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - the library's
        with self.breaker.guard():
            return super().execute(raise_on_error)


def connect(url: str) -> redis.Redis:
    """Returns a client whose every call ends within about two seconds, answers as text.

    A call is never repeated by the library: each of ours knows itself what a lost answer means. After one that hung the
    next ones fail at once for about as long.
    """
    return _Client.from_url(
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
    return client.register_script(_script(name))


@cache
def _script(name: str) -> str:
    return (files("shared") / "lua" / f"{name}.lua").read_text()


class Keys:
    """The names of all our keys and channels.

    Args:
        deployment: the first part of every name.
    """

    def __init__(self, deployment: str) -> None:
        self._prefix = f"lw:{deployment}:"

    def _user(self, user_id: str) -> str:
        return self._prefix + self._user_part(user_id)

    @staticmethod
    def _user_part(user_id: str) -> str:
        # A digest of fixed length and alphabet: no user id can imitate another's key, a pattern or another kind of key.
        return f"{{{hashlib.sha256(user_id.encode()).hexdigest()[:DIGEST_LENGTH]}}}:"

    def slots(self, user_id: str) -> str:
        """The user's slots: a sorted set, member = run:attempt, score = end of the lease."""
        return self._user(user_id) + "slots"

    @property
    def all_slots(self) -> str:
        """A pattern for the slots of all users, and for nothing else, whatever agents call what they store."""
        return f"{self._prefix}{{{DIGEST_LENGTH * '?'}}}:slots"

    def all_of(self, user_id: str) -> str:
        """A pattern for every key of the user, whatever it begins with."""
        return f"{self._prefix}*{self._user_part(user_id)}*"

    def events(self, user_id: str) -> str:
        """The channel that carries the user's events."""
        return self._user(user_id) + "events"

    def store(self, user_id: str, key: str) -> str:
        """A value that an agent of the user keeps for a while (`run.store`)."""
        return self._user(user_id) + "store:" + key

    def stored(self, user_id: str) -> str:
        """Which values the agents of the user keep: a sorted set, member = key, score = its end."""
        return self._user(user_id) + "stored"

    @property
    def rates(self) -> str:
        """What the keys of rates begin with; the library that counts adds its version and algorithm."""
        return f"{self._prefix}rates"

    def submissions(self, user_id: str) -> str:
        """How fast the user submits: the end of a key that begins with `rates`."""
        return self._user_part(user_id) + "submissions"

    def tickets(self, user_id: str) -> str:
        """How fast the user asks for tickets: the end of a key like that of submissions."""
        return self._user_part(user_id) + "tickets"

    def ticket(self, ticket_id: str) -> str:
        """The mark that a WebSocket ticket was used."""
        return f"{self._prefix}ticket:{ticket_id}"

    def control(self, worker_id: str) -> str:
        """The channel by which a worker is told to cancel."""
        return f"{self._prefix}worker:{worker_id}"
