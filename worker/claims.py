"""`Claims`: what a worker does with a run before its sandbox and after it: takes it, and lets go of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from shared import lanes, runs
from shared.errors import UnavailableError
from shared.events import StoredEvent
from shared.limits import concurrent_runs
from shared.messages import RunMessage
from shared.models import Run
from shared.redis import RedisError
from shared.services import Services
from shared.slots import member
from worker import metrics
from worker.alarm import Alarm

log = structlog.get_logger(__name__)


class Claims:
    """Makes runs this worker's, and gives their slots back.

    Args:
        worker_id: who claims.
        agents: the names of those that the worker has.
        alarm: admits a user's runs when the pause before an attempt is over.
    """

    def __init__(self, services: Services, worker_id: str, agents: Callable[[], Sequence[str]], alarm: Alarm) -> None:
        self._services = services
        self._worker_id = worker_id
        self._agents = agents
        self._alarm = alarm

    def take(self, message: RunMessage) -> runs.Claimed | None:
        """Returns the run that a message asks for, if it is this worker's now."""
        try:
            if not self._hold_slot(message):
                return None
            once = self._services.database.once(message.context.user_id)
            claimed = runs.claim(once, message, self._worker_id, self._agents())
            if claimed is None:
                metrics.STALE_MESSAGES.inc()
                # It was granted when its slot was looked at, or taken again, and may be over since.
                self._services.dispatcher.free_idle(message.context.user_id, [_slot(message)])
                return None
        except (UnavailableError, RedisError) as error:
            # If the claim was committed all the same, the heartbeat finds a run of ours that is not under way.
            log.warning("not claimed: a store is away", error=str(error))
            return None
        run = claimed.run
        self._services.publish(claimed.stored)
        metrics.CLAIMED.labels(run.queue).inc()
        if run.claimed_at and run.granted_at:
            metrics.DISPATCH_SECONDS.labels(run.queue).observe((run.claimed_at - run.granted_at).total_seconds())
        return claimed

    def settle(self, run: Run, stored: Sequence[StoredEvent] | None) -> None:
        """Frees the slot and starts the user's next run; later this one again, if its next attempt has to wait.

        Args:
            run: as claimed.
            stored: the events of its attempt's end; None or none: not known to be written by this worker.
        """
        after_s = stored[-1].event.data.get("after_s") if stored else None
        if after_s:
            self._alarm.set(run.user_id, after_s)
        try:
            # If it is not known to be over (an answer was lost, or Postgres is away) the slot may still be ours.
            if stored or member(run.id, run.attempt) not in lanes.holders(
                self._services.database.once(run.user_id), run.user_id
            ):
                self._services.dispatcher.release(run.user_id, run.id, run.attempt)
        except UnavailableError:
            log.warning("a slot is left to its lease: the database is away")

    def _hold_slot(self, message: RunMessage) -> bool:
        """Renews the slot that was granted; takes it again if it got lost; parks the run if there is none."""
        user_id, slot = message.context.user_id, _slot(message)
        if self._services.slots.keep(user_id, slot):
            return True
        once = self._services.database.once(user_id)
        if slot not in lanes.holders(once, user_id):
            metrics.STALE_MESSAGES.inc()
            return False
        with self._services.database.user_session(user_id) as session:
            limit = concurrent_runs(session, user_id, self._services.settings)
        if self._services.dispatcher.take(user_id, [slot], limit):
            metrics.REPAIRED.labels("slot_of_granted_run").inc()
            return True
        if lanes.park(once, message):
            metrics.REPAIRED.labels("granted_without_slot").inc()
        return False


def _slot(message: RunMessage) -> str:
    return member(message.context.run_id, message.attempt + 1)
