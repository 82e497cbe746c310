"""Admission: a user's oldest parked runs take that user's free slots. Whatever frees or needs one calls `admit`."""

from __future__ import annotations

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from shared import broker, runs
from shared.database import Database
from shared.messages import RunMessage
from shared.redis import RedisError
from shared.settings import Settings
from shared.signing import Signer
from shared.slots import Slots

log = structlog.get_logger(__name__)


class Dispatcher:
    """Grants slots and sends what was granted.

    Args:
        app: the process's Celery application.
        signer: for messages.
    """

    def __init__(self, settings: Settings, database: Database, slots: Slots, app: Celery, signer: Signer) -> None:
        self._settings = settings
        self._database = database
        self._slots = slots
        self._app = app
        self._signer = signer

    def admit(self, user_id: str) -> int:
        """Starts as many of the user's parked runs as there are free slots; returns how many.

        With Redis away nothing starts and nothing fails: the runs stay parked and the leader's sweep admits them later.

        Raises:
            UnavailableError: Postgres is away.
        """
        once = self._database.once(user_id)
        waiting, limit = runs.oldest_parked(once, user_id, self._settings.user_concurrent_runs)
        if not waiting:
            return 0
        try:
            holding = self._slots.acquire(user_id, waiting, limit)
            if not holding:
                return 0
            granted = runs.grant(once, user_id, holding)
            if len(granted) < len(holding):
                # Somebody else granted a run meanwhile (the slot is rightly that run's), or it has ended.
                entitled = runs.live(once, user_id, holding)
                self._slots.release(user_id, [run_id for run_id in holding if run_id not in entitled])
        except RedisError as error:
            log.warning("admission waits: redis is away", error=str(error))
            return 0
        for message, queue in granted:
            self.send(message, queue)
        return len(granted)

    def release(self, user_id: str, run_id: str) -> None:
        """Frees the slot of a run that ended or was queued again, and starts the user's next.

        Raises:
            UnavailableError: Postgres is away.
        """
        try:
            self._slots.release(user_id, [run_id])
        except RedisError as error:
            log.warning("a slot is left to its lease: redis is away", error=str(error))
            return
        self.admit(user_id)

    def send(self, message: RunMessage, queue: str) -> None:
        """Puts a granted run on its queue; if the broker is away the leader will send it again."""
        try:
            broker.send(self._app, message, queue, self._signer)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("a run was not sent: the broker is away", run_id=message.context.run_id, error=str(error))
