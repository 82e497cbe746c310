"""What the leader finds lost, and has go on: runs of dead workers, messages, deleted threads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

import structlog
from kombu.exceptions import OperationalError
from sqlalchemy import Select, delete, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from shared import runs
from shared.context import UserExecutionContext
from shared.messages import RunMessage
from shared.models import Run, Worker
from shared.outcomes import Lost
from shared.redis import RedisError
from shared.repairs import LOCK_TIMEOUT_S, one_by_one
from shared.retention import Retention
from shared.services import Services
from shared.states import ExecutionState
from shared.threads import cancel_live_runs, deleted_but_live, remove_deleted_threads
from worker import metrics
from worker.lanes import GRANTED, SERVED

log = structlog.get_logger(__name__)

MAX_DOUBLINGS = 8
REMOVE_EVERY_S = 60.0
MAX_REPAIRS = 500  # of each kind in a sweep; the next one goes on


class Recovery:
    """Each method is a repair: it may be made at any time, by several leaders at once, and does nothing without need.

    Each may raise `UnavailableError`: Postgres is away.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._database = services.database
        self._lease_s = services.settings.lease_s
        self._empty_queues: set[str] = set()
        self._retention = Retention(services.database, services.settings.retention_days)
        self._remove_at = 0.0

    def recover_dead_workers(self) -> int:
        """Ends the attempts of workers that gave no sign of life for a lease; returns how many."""
        with self._database.system_session() as session:
            dead = Worker.heartbeat_at < func.clock_timestamp() - timedelta(seconds=self._lease_s)
            alive = select(Worker.id).where(~dead)
            query = select(Run).where(Run.status == ExecutionState.RUNNING, Run.worker_id.not_in(alive))
            lost = _detached(session, query.limit(MAX_REPAIRS))
            if not lost:
                session.execute(delete(Worker).where(dead))
        return len(one_by_one(lost, self._lose))

    def send_again(self) -> int:
        """Sends granted runs again whose message was lost; returns how many.

        A message counts as lost if its queue was empty for a whole sweep, or if it is very old: the wait doubles with
        each sending, so that a long queue is not filled with copies. A doubled message does nothing: the claim decides.
        """
        empty = self._queues_empty_for_a_sweep()
        wait_s = self._lease_s * 4 * func.power(2, func.least(Run.sends - 1, MAX_DOUBLINGS))
        age_s = func.extract("epoch", func.clock_timestamp() - Run.sent_at)
        with self._database.system_session() as session:
            overdue = or_(Run.queue.in_(empty), age_s > wait_s) if empty else age_s > wait_s
            lost = select(Run.user_id, Run.id).where(
                *GRANTED,
                age_s > self._services.settings.sweep_s,
                SERVED,
                overdue,
            )
            # Skipped are those that another leader marks now; a run is sent by whoever marked it, and once.
            marked = (
                update(Run)
                .where(tuple_(Run.user_id, Run.id).in_(lost.limit(MAX_REPAIRS).with_for_update(skip_locked=True)))
                .values(sent_at=func.clock_timestamp(), sends=Run.sends + 1)
                .returning(Run.context, Run.attempt, Run.queue)
                .execution_options(synchronize_session=False)
            )
            messages = [
                (RunMessage(UserExecutionContext.from_dict(row.context), row.attempt), row.queue)
                for row in session.execute(marked)
            ]
        for message, queue in messages:
            metrics.REPAIRED.labels("message_lost").inc()
            self._services.dispatcher.send(message, queue)
        return len(messages)

    def clear_threads(self) -> None:
        """Cancels what still lives in deleted threads, and removes those in which nothing does."""
        with self._database.system_session() as session:
            users = deleted_but_live(session)
        one_by_one(users, self._cancel_thread)
        remove_deleted_threads(self._database)

    def remove_old(self) -> None:
        """Removes some of what is past retention; goes on in the next sweep if there is more, else in a minute."""
        if time.monotonic() < self._remove_at:
            return
        removed = self._retention.remove_old(MAX_REPAIRS)
        if not removed.more:
            self._remove_at = time.monotonic() + REMOVE_EVERY_S
        if removed.runs or removed.threads:
            log.info(
                "removed what is past retention", runs=removed.runs, events=removed.events, threads=removed.threads
            )

    def _cancel_thread(self, thread: tuple[str, str]) -> None:
        user_id, thread_id = thread
        with self._database.user_session(user_id, lock_timeout_s=LOCK_TIMEOUT_S) as session:
            asked, stored = cancel_live_runs(session, user_id, thread_id, MAX_REPAIRS)
        self._services.publish(stored)
        for run in asked:
            if ExecutionState(run.status).is_end and run.granted_at is not None:
                self._services.dispatcher.release(user_id, run.id, run.attempt + 1)

    def _lose(self, run: Run) -> None:
        outcome = Lost("worker_lost", "the worker gave no sign of life")
        with self._database.user_session(run.user_id, lock_timeout_s=LOCK_TIMEOUT_S) as session:
            stored = runs.finish(session, run, outcome, "leader")
        if stored:
            log.warning("a run is recovered from a dead worker", run_id=run.id, worker_id=run.worker_id)
            metrics.REPAIRED.labels("worker_lost").inc()
            self._services.publish(stored)
            self._services.dispatcher.release(run.user_id, run.id, run.attempt)

    def _queues_empty_for_a_sweep(self) -> set[str]:
        with self._database.system_session() as session:
            waiting = select(Run.queue).where(*GRANTED)
            queues = set(session.scalars(waiting.distinct()))
        if not queues:
            self._empty_queues = set()
            return set()
        now_empty: set[str] = set()
        for queue in queues:
            length = self._length(queue)
            if length is None:  # to ask for the others would take as long again
                break
            if length == 0:
                now_empty.add(queue)
        both, self._empty_queues = now_empty & self._empty_queues, now_empty
        return both

    def _length(self, queue: str) -> int | None:
        try:
            return self._services.celery.queue_length(queue)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("the length of a queue is not known: the broker is away", queue=queue, error=str(error))
            return None


def _detached(session: Session, query: Select[Run]) -> Sequence[Run]:
    found = session.scalars(query).all()
    session.expunge_all()
    return found
