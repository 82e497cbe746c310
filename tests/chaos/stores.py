"""The stores of a suite's fleet: servers of our own behind a proxy, and a straight way to them for ourselves."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import redis
import sqlalchemy as sa

from lanewise.embedded import EmbeddedPostgres, EmbeddedRedis
from shared.settings import next_redis_database
from tests.chaos.detour import Detour
from tests.services import server_folder, superuser_engine

# In memory, and nobody pulls the plug: what Postgres has handed to the kernel survives its own death. But a commit has
# to wait until it is there.
SETTINGS = ("fsync = off", "full_page_writes = off", "max_wal_size = '256MB'")


class Stores:
    """Postgres and Redis, and the proxy before them. Belongs to one thread that lives as long: servers die with it.

    Attributes:
        redis_url: through the proxy, as `database_url`.
        slots: our own way to Redis, with what the fleet keeps besides the broker.
        broker: the same, with the broker's queues.
        secret_key: of the fleet.
    """

    def __init__(self, postgres: EmbeddedPostgres, redis_server: EmbeddedRedis, stack: ExitStack) -> None:
        self._postgres = postgres
        self._redis = redis_server
        self.secret_key = secrets.token_urlsafe(32)
        upstreams = {"postgres": postgres.port, "redis": redis_server.port}
        self._proxy = stack.enter_context(Detour(upstreams))
        ports = self._proxy.ports
        self.redis_url = redis_server.admin_url.replace(f":{redis_server.port}/", f":{ports['redis']}/")
        self.database_url = postgres.admin_url.replace(f":{postgres.port}/", f":{ports['postgres']}/")
        self.engine = superuser_engine(postgres.admin_url)
        with self.engine.connect() as connection:
            for setting in (*(f"ALTER SYSTEM SET {setting}" for setting in SETTINGS), "SELECT pg_reload_conf()"):
                connection.exec_driver_sql(setting)
        self.slots = redis.Redis.from_url(redis_server.admin_url, decode_responses=True, socket_timeout=5)
        self.broker = redis.Redis.from_url(
            next_redis_database(redis_server.admin_url), decode_responses=True, socket_timeout=5
        )
        for client in (self.slots, self.broker):
            stack.callback(client.close)

    @classmethod
    @contextmanager
    def start(cls) -> Iterator[Stores]:
        """Runs all until the end of the block."""
        with ExitStack() as stack:
            folder = stack.enter_context(server_folder())
            postgres = stack.enter_context(EmbeddedPostgres(folder))
            yield cls(postgres, stack.enter_context(EmbeddedRedis(folder)), stack)

    def order(self, route: str, do: str, **arguments: Any) -> Any:
        """Has the proxy do something (see `Route`); returns its answer."""
        return self._proxy.order(route, do, **arguments)

    def restart_postgres(self) -> dict[str, Any]:
        """Shuts Postgres down at once, without a checkpoint or a farewell, and starts it again."""
        pid = self._end(self._postgres, signal.SIGQUIT)
        self._postgres.start()
        return {"ended": pid}

    def empty_redis(self) -> dict[str, Any]:
        """Kills Redis and starts it again with nothing in it."""
        before = self._keys()
        pid = self._end(self._redis, signal.SIGKILL)
        shutil.rmtree(self._redis.folder)
        self._redis.start()
        return {"ended": pid, "keys_before": before, "keys_after": self._keys()} if before else {}

    def flush_redis(self) -> dict[str, Any]:
        """Empties Redis."""
        before = self._keys()
        self.slots.flushall()
        return {"keys_before": before} if before else {}

    def rows(self, statement: str, **parameters: Any) -> list[sa.Row[Any]]:
        """Returns the rows of a statement, as the superuser, on the straight way."""
        with self.engine.connect() as connection:
            return list(connection.execute(sa.text(statement), parameters))

    def run_script(self, script: str) -> None:
        """Executes statements as the superuser."""
        with self.engine.connect() as connection:
            connection.exec_driver_sql(script)

    def _keys(self) -> int:
        return sum(int(client.dbsize()) for client in (self.slots, self.broker))

    @staticmethod
    def _end(server: EmbeddedPostgres | EmbeddedRedis, how: signal.Signals) -> int:
        pid = server.pid
        assert pid is not None
        process = psutil.Process(pid)
        os.kill(pid, how)
        process.wait(20)
        server.stop()
        return pid
