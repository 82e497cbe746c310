"""The stores of a fleet: Postgres and Redis, embedded or given, and the secrets that go with them."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from lanewise.embedded import EmbeddedPostgres, EmbeddedRedis
from lanewise.embedded.server import START_TIMEOUT_S, EmbeddedServer
from lanewise.redis_acl import USERS
from lanewise.secrets import Secrets
from lanewise.supervisor import Supervisor
from shared.errors import ConfigurationError
from shared.migrate import migrate
from shared.models import RUN, SERVICE
from shared.settings import Settings, load_settings, next_redis_database
from shared.signing import derive_key


class Stores:
    """Postgres and Redis.

    Args:
        data_dir: where embedded ones keep their data.
        secrets: those of the folder.
        database_url: of a role that may create roles; None: an embedded server.
        redis_url: None: an embedded server.

    Raises:
        ConfigurationError: a URL or a setting of the environment is wrong, or a secret is missing.
    """

    def __init__(self, data_dir: Path, secrets: Secrets, database_url: str | None, redis_url: str | None) -> None:
        postgres = None if database_url else EmbeddedPostgres(data_dir)
        redis = None if redis_url else EmbeddedRedis(data_dir)
        self._servers: list[EmbeddedServer] = [server for server in (postgres, redis) if server is not None]
        self._admin_url = database_url or (postgres.admin_url if postgres else "")
        secret_key = os.environ.get("LANEWISE_SECRET_KEY") or (secrets.secret_key if postgres else "")
        if not secret_key:
            raise ConfigurationError("with a database URL, LANEWISE_SECRET_KEY must be in the environment")
        roles, service, run = "", secrets.service_password, secrets.run_password
        if not postgres:
            # The same on every machine that starts a fleet on this database; and other names than those of a fleet with
            # another key, for roles belong to a whole server.
            newest = secret_key.split(",")[0].strip()
            service, run = (derive_key(newest, purpose).hex() for purpose in ("role:service", "role:run"))
            roles = f"_{derive_key(newest, 'role').hex()[:8]}"
        if redis:
            api, worker, broker = (redis.url(user) for user in USERS)
        else:
            api = worker = redis_url or ""
            broker = next_redis_database(api)
        self.values = {
            "secret_key": secret_key,
            "database_url": _as_role(self._admin_url, SERVICE + roles, service),
            "run_database_url": _as_role(self._admin_url, RUN + roles, run),
            "redis_url": api,
            "broker_url": broker,
            # Its secrets, the stores' files and the logs, wherever agents may read otherwise.
            "sandbox_closed": ",".join(
                (*filter(None, [os.environ.get("LANEWISE_SANDBOX_CLOSED")]), str(data_dir.absolute()))
            ),
        }
        self._redis_urls = {"api": api, "worker": worker, "flower": broker}  # Flower needs nothing but the broker
        self.settings: Settings = load_settings(None, **self.values)
        if redis:
            redis.deployment = self.settings.deployment

    def env(self, kind: str) -> dict[str, str]:
        """Returns our own environment with the settings that lead a kind of process to these stores.

        Args:
            kind: `api`, `worker` or `flower`.
        """
        values = self.values | {"redis_url": self._redis_urls[kind]}
        return {**os.environ, **{f"LANEWISE_{name.upper()}": value for name, value in values.items()}}

    def start(self, supervisor: Supervisor, stage: int) -> list[str]:
        """Starts what is embedded, waits until it answers, and migrates.

        Args:
            supervisor: what keeps them running.
            stage: when it stops them.

        Returns:
            what sandboxes may do though they must not, see `migrate`.
        """
        for server in self._servers:
            supervisor.start(server.prepare(), stage=stage)
        supervisor.wait(
            lambda: all(server.ready() for server in self._servers),
            START_TIMEOUT_S,
            lambda: "the embedded servers do not answer",
        )
        return migrate(
            self._admin_url,
            self.values["database_url"],
            self.values["run_database_url"],
            self.settings.secrets,
            self.settings.audit_retention_days,
        )

    def close(self) -> None:
        """Gives up the folders of the embedded servers, once these have ended."""
        for server in self._servers:
            server.close()


def _as_role(url: str, role: str, password: str) -> str:
    try:
        parts = make_url(url).set(drivername="postgresql", username=role, password=password)
    except ArgumentError:
        raise ConfigurationError("the database URL is not of the form postgresql://USER:PASSWORD@HOST/NAME") from None
    return parts.render_as_string(hide_password=False)
