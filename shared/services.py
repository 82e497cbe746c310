"""What a process of the fleet holds: settings and connections, and nothing that belongs to a user."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Self

import redis
import structlog

from shared import audit
from shared.broker import Application, make_celery
from shared.database import Database
from shared.dispatch import Dispatcher
from shared.events import StoredEvent, publish
from shared.messages import PURPOSE
from shared.redis import Keys, RedisError, connect
from shared.settings import Settings
from shared.signing import Signer
from shared.slots import Slots

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Services:
    """Shared between the users of a process: classes, configuration and connection pools."""

    settings: Settings
    database: Database
    redis: redis.Redis
    keys: Keys
    slots: Slots
    signer: Signer
    celery: Application
    dispatcher: Dispatcher

    @classmethod
    def open(cls, settings: Settings, *, celery: Application | None = None, pool_size: int = 5) -> Self:
        """Returns the services; nothing is connected before it is used.

        Args:
            celery: the process's Celery application, if it has one already.
            pool_size: database connections kept open.
        """
        database = Database(
            settings.database_url.get_secret_value(),
            pool_size=pool_size,
            overflow=2 * pool_size,
            audit_keys=audit.keys_of(settings),
        )
        client = connect(settings.redis_url.get_secret_value())
        keys = Keys(settings.deployment)
        slots = Slots(client, keys, settings.lease_s)
        signer = Signer(settings.secrets, PURPOSE, settings.deployment)
        celery = celery or make_celery(settings)
        dispatcher = Dispatcher(settings, database, slots, celery, signer, publish=partial(_publish, client, keys))
        return cls(settings, database, client, keys, slots, signer, celery, dispatcher)

    def publish(self, stored: Iterable[StoredEvent]) -> None:
        """Tells subscribers about committed events; with Redis away they find them in the log."""
        _publish(self.redis, self.keys, stored)

    def tell_worker(self, worker_id: str, run_id: str, attempt: int) -> None:
        """Has a worker hear at once of a stored intent to cancel; its heartbeat carries it, too."""
        try:
            self.redis.publish(self.keys.control(worker_id), json.dumps({"cancel": run_id, "attempt": attempt}))
        except RedisError as error:
            log.warning("the worker hears of a cancel by its heartbeat: redis is away", run_id=run_id, error=str(error))

    def close(self) -> None:
        """Closes every connection."""
        self.database.close()
        self.redis.close()
        self.celery.close()


def _publish(client: redis.Redis, keys: Keys, stored: Iterable[StoredEvent]) -> None:
    try:
        publish(client, keys, stored)
    except RedisError as error:
        log.warning("events are not published: redis is away", error=str(error))
