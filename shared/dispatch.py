"""Admission: a user's oldest parked runs take that user's free slots. Whatever frees or needs one calls `admit`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from shared import broker, lanes
from shared.database import Database
from shared.errors import LanewiseError, UnavailableError
from shared.events import StoredEvent
from shared.messages import RunMessage
from shared.redis import RedisError
from shared.settings import Settings
from shared.signing import Signer
from shared.slots import Slots, member

log = structlog.get_logger(__name__)

MOST_ROUNDS = 3  # of an admission that others overtake


class Dispatcher:
    """Grants slots and sends what was granted.

    Args:
        app: the process's Celery application.
        signer: for messages.
        publish: tells the user's watchers of stored events.
    """

    def __init__(  # noqa: PLR0913 - what admission goes through
        self,
        settings: Settings,
        database: Database,
        slots: Slots,
        app: Celery,
        signer: Signer,
        *,
        publish: Callable[[Iterable[StoredEvent]], None],
    ) -> None:
        self._settings = settings
        self._database = database
        self._slots = slots
        self._app = app
        self._signer = signer
        self._publish = publish

    def admit(self, user_id: str) -> int:
        """Starts as many of the user's parked runs as there are free slots; returns how many, see `start`."""
        return len(self.start(user_id))

    def start(self, user_id: str) -> list[str]:
        """Starts as many of the user's parked runs as there are free slots; returns their ids.

        With Redis away nothing starts and nothing fails: the runs stay parked and the leader's sweep admits them later.

        Raises:
            UnavailableError: Postgres is away.
        """
        started: list[str] = []
        for _ in range(MOST_ROUNDS):
            found = lanes.next_runs(self._database.once(user_id), user_id, self._settings.user_concurrent_runs)
            held, granted = self._grant(user_id, found)
            started += granted
            if len(granted) == held:
                break  # else a slot was taken for a run that has ended since, or that another one grants: look again
        if started and found.tell:
            self._tell_positions(user_id)
        return started

    def start_or_leave(self, user_id: str) -> list[str]:
        """Does the same for who has stored something and will say so: what fails here is left to the leader's sweep."""
        try:
            return self.start(user_id)
        except LanewiseError as error:
            log.warning("admission is left to the sweep", error=error.message)
        except Exception:
            log.exception("admission failed and is left to the sweep")
        return []

    def _grant(self, user_id: str, found: lanes.NextRuns) -> tuple[int, list[str]]:
        """Returns how many slots were held, and the runs that were granted and sent."""
        if not found.members:
            return 0, []
        try:
            holding = self.take(user_id, found.members, found.slots)
        except RedisError as error:
            log.warning("admission waits: redis is away", error=str(error))
            return 0, []
        granted = lanes.grant(self._database.once(user_id), user_id, holding) if holding else []
        for message, queue in granted:
            self.send(message, queue)
        if len(granted) < len(holding):
            self._tidy_up(user_id, holding)
        return len(holding), [message.context.run_id for message, _ in granted]

    def take(self, user_id: str, members: Sequence[str], limit: int) -> list[str]:
        """Takes slots as `Slots.acquire` does, which asks Postgres where Redis is in doubt.

        Raises:
            UnavailableError: Postgres is away.
            redis.RedisError: Redis is, or keeps losing what it is given.
        """
        return self._slots.acquire(
            user_id, members, limit, lambda: lanes.holders(self._database.once(user_id), user_id)
        )

    def free_idle(self, user_id: str, members: Iterable[str]) -> list[str]:
        """Frees those of the slots that no live run has a right to; returns them.

        Raises:
            UnavailableError: Postgres is away.
            redis.RedisError: Redis is.
        """
        idle = sorted(set(members) - lanes.holders(self._database.once(user_id), user_id))
        self._slots.release(user_id, idle)
        return idle

    def release(self, user_id: str, run_id: str, attempt: int) -> None:
        """Frees the slot of an attempt that is over, or of a granted one that will not begin, and starts the next run.

        Args:
            attempt: that held it, or would have.

        Raises:
            UnavailableError: Postgres is away.
        """
        try:
            self._slots.release(user_id, [member(run_id, attempt)])
        except RedisError as error:
            log.warning("a slot is left to its lease: redis is away", error=str(error))
            return
        self.admit(user_id)

    def _tidy_up(self, user_id: str, members: Sequence[str]) -> None:
        try:
            self.free_idle(user_id, members)
        except (RedisError, UnavailableError) as error:
            log.warning("slots that nobody needs are left to their lease", error=str(error))

    def _tell_positions(self, user_id: str) -> None:
        try:
            once = self._database.once(user_id)
            self._publish(lanes.tell_positions(once, user_id, self._settings.user_concurrent_runs))
        except UnavailableError as error:  # what was admitted is admitted: the leader tells
            log.warning("positions are told later", error=error.message)

    def send(self, message: RunMessage, queue: str) -> None:
        """Puts a granted run on its queue; if the broker is away the leader will send it again."""
        try:
            broker.send(self._app, message, queue, self._signer)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("a run was not sent: the broker is away", run_id=message.context.run_id, error=str(error))
