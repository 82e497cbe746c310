"""The leader: one worker at a time repairs, from Postgres, what died in between. Its every repair is conditional."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import structlog
from kombu.exceptions import OperationalError
from sqlalchemy import Select, and_, delete, exists, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from shared import catalogue, runs
from shared.context import UserExecutionContext
from shared.database import load_sql
from shared.errors import UnavailableError
from shared.limits import concurrent_runs
from shared.loop import Loop
from shared.messages import RunMessage
from shared.models import Run, Worker
from shared.outcomes import Lost
from shared.redis import RedisError
from shared.services import Services
from shared.slots import member, run_of
from shared.states import ExecutionState
from shared.threads import cancel_live_runs, deleted_but_live, remove_deleted_threads
from worker import metrics

log = structlog.get_logger(__name__)

PAUSE_S = 2.0  # a tick that comes so much later than planned follows an outage
MAX_DOUBLINGS = 8
MAX_REPAIRS = 500  # of each kind in a tick; the next tick goes on
RUNNING = Run.status == ExecutionState.RUNNING
GRANTED = (Run.status == ExecutionState.QUEUED, Run.granted_at.is_not(None))
_TAKE_LEASE = load_sql("take_lease")
_FREE = load_sql("users_with_free_slots")
_MOVED = load_sql("users_whose_runs_moved")
_COUNTS = load_sql("count_lanes")


class Leader(Loop):
    """Runs in every worker; only the holder of the lease does anything. Two at once change nothing wrong.

    Args:
        worker_id: who holds the lease.
    """

    name = "leader"

    def __init__(self, services: Services, worker_id: str) -> None:
        super().__init__(services.settings.sweep_s)
        self._services = services
        self._worker_id = worker_id
        self._lease_s = services.settings.lease_s
        self._database = services.database
        self._ticked_at: float | None = None
        self._quiet_until = 0.0
        self._empty_queues: set[str] = set()
        self._renewed_at = -self._lease_s
        self._suspects: dict[str, set[str]] = {}

    def tick(self) -> None:
        """One sweep.

        Raises:
            UnavailableError: Postgres is away.
        """
        leading = self._lead()
        now = time.monotonic()
        if self._ticked_at is not None and now - self._ticked_at > self._interval_s + PAUSE_S:
            # Postgres was away, or this process stood still: all heartbeats may be old. Everybody gets one lease.
            self._quiet_until = now + self._lease_s
        if leading:
            self._sweep(quiet=now < self._quiet_until)
        self._ticked_at = time.monotonic()

    def _sweep(self, *, quiet: bool) -> None:
        repairs = [
            self.keep_granted, self.park_unserved, self.send_again, self.admit_parked, self.tell_positions,
            self.clear_threads, self.count_lanes,
        ]  # fmt: skip
        for repair in repairs if quiet else [self.recover_dead_workers, *repairs]:
            try:
                repair()
            except UnavailableError:
                raise
            except Exception:  # one repair that fails for ever must not keep the others from being made
                log.exception("a repair failed", repair=repair.__name__)

    def recover_dead_workers(self) -> int:
        """Ends the attempts of workers that gave no sign of life for a lease; returns how many."""
        with self._database.system_session() as session:
            dead = Worker.heartbeat_at < func.clock_timestamp() - timedelta(seconds=self._lease_s)
            alive = select(Worker.id).where(~dead)
            query = select(Run).where(Run.status == ExecutionState.RUNNING, Run.worker_id.not_in(alive))
            lost = _detached(session, query.limit(MAX_REPAIRS))
            if not lost:
                session.execute(delete(Worker).where(dead))
        for run in lost:
            self._lose(run)
        return len(lost)

    def keep_granted(self) -> None:
        """Renews the slots of granted runs that nobody has claimed yet; from the claim on their worker does.

        One that is gone is taken again if the user's limit allows it; else the claim will park the run.
        """
        if time.monotonic() - self._renewed_at < self._lease_s / 3:
            return
        by_user: dict[str, list[str]] = defaultdict(list)
        with self._database.system_session() as session:
            for user_id, run_id, attempt in session.execute(select(Run.user_id, Run.id, Run.attempt).where(*GRANTED)):
                by_user[user_id].append(member(run_id, attempt + 1))
        try:
            for user_id, missing in self._services.slots.renew(by_user).items():
                self._take_again(user_id, missing)
        except RedisError as error:
            log.warning("granted slots are not renewed: redis is away", error=str(error))
        else:
            self._renewed_at = time.monotonic()

    def _take_again(self, user_id: str, missing: Sequence[str]) -> None:
        with self._database.user_session(user_id) as session:
            limit = concurrent_runs(session, user_id, self._services.settings)
        taken = self._services.dispatcher.take(user_id, missing, limit)
        ended = self._services.dispatcher.free_idle(user_id, taken)  # or claimed, since they were read
        metrics.REPAIRED.labels("slot_of_granted_run").inc(len(taken) - len(ended))

    def park_unserved(self) -> int:
        """Parks granted runs whose agent no worker has any more, so that they hold no slot; returns how many."""
        served = exists().where(Run.agent == Worker.agents.any_(), Run.queue == Worker.queues.any_())
        with self._database.system_session() as session:
            query = select(Run.user_id, Run.id, Run.attempt).where(*GRANTED, ~served).limit(MAX_REPAIRS)
            unserved = session.execute(query.with_for_update(skip_locked=True)).all()
            session.execute(
                update(Run)
                .where(tuple_(Run.user_id, Run.id).in_([(user_id, run_id) for user_id, run_id, _ in unserved]))
                .values(granted_at=None, sent_at=None)
                .execution_options(synchronize_session=False)
            )
        for user_id, run_id, attempt in unserved:
            metrics.REPAIRED.labels("granted_without_worker").inc()
            self._services.dispatcher.release(user_id, run_id, attempt + 1)
        return len(unserved)

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
                Run.agent.in_([agent.name for agent in catalogue.running_agents(session, self._lease_s)]),
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

    def admit_parked(self) -> int:
        """Starts parked runs that have a free slot, whatever should have started them; returns how many.

        Where Postgres sees a free slot and Redis none, slots are held that nobody has a right to. Those that still are
        one sweep later (an admission under way holds a slot before it is stored) are freed.
        """
        with self._database.system_session() as session:
            users = session.scalars(
                _FREE, {"slots": self._services.settings.user_concurrent_runs, "most": MAX_REPAIRS}
            ).all()
        suspects: dict[str, set[str]] = {}
        started = 0
        for user_id in users:
            admitted = self._services.dispatcher.admit(user_id)
            if not admitted and (leaked := self._leaked(user_id)):
                freed = self._free(user_id, leaked & self._suspects.get(user_id, set()))
                suspects[user_id] = leaked - freed
                admitted = self._services.dispatcher.admit(user_id) if freed else 0
            started += admitted
        self._suspects = suspects
        return started

    def tell_positions(self) -> None:
        """Tells parked runs that have moved where they stand now, if nothing else has told them since."""
        with self._database.system_session() as session:
            users = session.scalars(_MOVED, {"most": MAX_REPAIRS}).all()
        for user_id in users:
            once = self._database.once(user_id)
            self._services.publish(runs.tell_positions(once, user_id, self._services.settings.user_concurrent_runs))

    def count_lanes(self) -> None:
        """Counts for the metrics what all lanes hold and wait for."""
        with self._database.system_session() as session:
            counts = session.execute(_COUNTS).one()
            users = session.scalars(select(Run.user_id).where(or_(and_(*GRANTED), RUNNING)).distinct()).all()
        metrics.LANES.labels("granted").set(counts.granted)
        metrics.LANES.labels("parked").set(counts.parked)
        metrics.LANES.labels("running").set(counts.running)
        metrics.OLDEST_GRANTED.set(counts.oldest_granted_s)
        try:
            metrics.SLOTS_HELD.set(self._services.slots.count(users))
        except RedisError as error:
            log.warning("held slots are not counted: redis is away", error=str(error))

    def clear_threads(self) -> None:
        """Cancels what still lives in deleted threads, and removes those in which nothing does."""
        with self._database.system_session() as session:
            users = deleted_but_live(session)
        for user_id, thread_id in users:
            with self._database.user_session(user_id) as session:
                asked, stored = cancel_live_runs(session, user_id, thread_id, MAX_REPAIRS)
            self._services.publish(stored)
            for run in asked:
                if ExecutionState(run.status).is_end and run.granted_at is not None:
                    self._services.dispatcher.release(user_id, run.id, run.attempt + 1)
        with self._database.system_session() as session:
            remove_deleted_threads(session)

    def _lead(self) -> bool:
        with self._database.system_session() as session:
            lease = {"name": "leader", "holder": self._worker_id, "lease_s": self._lease_s}
            return session.execute(_TAKE_LEASE, lease).scalar() is not None

    def _lose(self, run: Run) -> None:
        outcome = Lost("worker_lost", "the worker gave no sign of life")
        with self._database.user_session(run.user_id) as session:
            stored = runs.finish(session, run, outcome, "leader")
        if stored:
            log.warning("a run is recovered from a dead worker", run_id=run.id, worker_id=run.worker_id)
            metrics.REPAIRED.labels("worker_lost").inc()
            self._services.publish(stored)
            self._services.dispatcher.release(run.user_id, run.id, run.attempt)

    def _leaked(self, user_id: str) -> set[str]:
        try:
            held = set(self._services.slots.held(user_id))
        except RedisError:
            return set()
        return held - runs.holders(self._database.once(user_id), user_id)

    def _free(self, user_id: str, leaked: set[str]) -> set[str]:
        try:
            freed = set(self._services.dispatcher.free_idle(user_id, leaked))
        except RedisError:
            return set()
        for name in freed:
            log.warning("a leaked slot is freed", run_id=run_of(name))
            metrics.REPAIRED.labels("slot_leaked").inc()
        return freed

    def _queues_empty_for_a_sweep(self) -> set[str]:
        with self._database.system_session() as session:
            waiting = select(Run.queue).where(*GRANTED)
            queues = set(session.scalars(waiting.distinct()))
        if not queues:
            self._empty_queues = set()
            return set()
        now_empty = {queue for queue in queues if self._length(queue) == 0}
        both, self._empty_queues = now_empty & self._empty_queues, now_empty
        return both

    def _length(self, queue: str) -> int | None:
        try:
            with self._services.celery.connection_or_acquire() as connection:
                channel: Any = connection.default_channel
                # Not `passive`: with our key prefix kombu looks for the queue under a wrong name and never finds it.
                return int(channel.queue_declare(queue).message_count)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("the length of a queue is not known: the broker is away", queue=queue, error=str(error))
            return None


def _detached(session: Session, query: Select[Run]) -> Sequence[Run]:
    found = session.scalars(query).all()
    session.expunge_all()
    return found
