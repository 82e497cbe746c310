"""What the leader sees to in the lanes: that slots are held and used as Postgres says, and that who waits is told."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

import structlog
from sqlalchemy import exists, select, tuple_, update

from shared import lanes
from shared.database import load_sql
from shared.limits import concurrent_runs
from shared.models import Run, Worker
from shared.redis import RedisError
from shared.repairs import one_by_one
from shared.services import Services
from shared.slots import member, run_of
from shared.states import ExecutionState
from worker import metrics

log = structlog.get_logger(__name__)

MAX_USERS = 500  # in a sweep; the next one goes on with others
SERVED = exists().where(Run.agent == Worker.agents.any_(), Run.queue == Worker.queues.any_())
RUNNING = Run.status == ExecutionState.RUNNING
GRANTED = (Run.status == ExecutionState.QUEUED, Run.granted_at.is_not(None))
_FREE = load_sql("users_with_free_slots")
_MOVED = load_sql("users_whose_runs_moved")
_COUNTS = load_sql("count_lanes")


class Lanes:
    """The users' lanes, all of them. See `Recovery` for what is said of repairs; with Redis away they wait."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._database = services.database
        self._lease_s = services.settings.lease_s
        self._renewed_at = -self._lease_s
        self._suspects: dict[str, set[str]] = {}

    def keep_granted(self) -> None:
        """Renews the slots of granted runs that nobody has claimed yet; from the claim on their worker does.

        One that is gone is taken again if the user's limit allows it; else the claim will park the run. What all users
        with live runs hold is counted on this occasion.
        """
        if time.monotonic() - self._renewed_at < self._lease_s / 3:
            return
        by_user: dict[str, list[str]] = defaultdict(list)
        with self._database.system_session() as session:
            for user_id, run_id, attempt in session.execute(select(Run.user_id, Run.id, Run.attempt).where(*GRANTED)):
                by_user[user_id].append(member(run_id, attempt + 1))
            users = {*by_user, *session.scalars(select(Run.user_id).where(RUNNING).distinct())}
        try:
            missing = list(self._services.slots.renew(by_user).items())
            for user_id, members in missing[:MAX_USERS]:
                self._take_again(user_id, members)
            metrics.SLOTS_HELD.set(self._services.slots.count(users))
        except RedisError as error:
            log.warning("granted slots are not renewed: redis is away", error=str(error))
            return
        if len(missing) <= MAX_USERS:  # else the next sweep goes on
            self._renewed_at = time.monotonic()

    def park_unserved(self) -> int:
        """Parks granted runs whose agent no worker has any more, so that they hold no slot; returns how many."""
        with self._database.system_session() as session:
            query = select(Run.user_id, Run.id, Run.attempt).where(*GRANTED, ~SERVED).limit(MAX_USERS)
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

    def admit_parked(self) -> int:
        """Starts parked runs that have a free slot, whatever should have started them; returns how many.

        Where Postgres sees a free slot and Redis none, slots are held that nobody has a right to. Those that still are
        one sweep later (an admission under way holds a slot before it is stored) are freed.
        """
        with self._database.system_session() as session:
            users = session.scalars(
                _FREE, {"slots": self._services.settings.user_concurrent_runs, "most": MAX_USERS}
            ).all()
        suspects: dict[str, set[str]] = {}

        def admit(user_id: str) -> int:
            admitted = self._services.dispatcher.admit(user_id)
            if not admitted and (leaked := self._leaked(user_id)):
                freed = self._free(user_id, leaked & self._suspects.get(user_id, set()))
                suspects[user_id] = leaked - freed
                admitted = self._services.dispatcher.admit(user_id) if freed else 0
            return admitted

        started = one_by_one(users, admit)
        self._suspects = suspects
        return sum(started)

    def tell_positions(self) -> None:
        """Tells parked runs that have moved where they stand now, if nothing else has told them since."""
        with self._database.system_session() as session:
            users = session.scalars(_MOVED, {"most": MAX_USERS}).all()
        one_by_one(users, self._tell_positions)

    def count(self) -> None:
        """Counts for the metrics what all lanes hold and wait for."""
        with self._database.system_session() as session:
            rows = session.execute(_COUNTS).all()
        metrics.OLDEST_GRANTED.clear()
        for row in rows:
            if row.queue is not None:
                metrics.OLDEST_GRANTED.labels(row.queue).set(row.oldest_s)
                continue
            for where in ("granted", "parked", "running"):
                metrics.LANES.labels(where).set(getattr(row, where))

    def count_nothing(self) -> None:
        """Forgets the counts of a time when this worker led: the leader alone tells them."""
        metrics.LANES.clear()
        metrics.OLDEST_GRANTED.clear()
        metrics.SLOTS_HELD.set(0)

    def _tell_positions(self, user_id: str) -> None:
        once = self._database.once(user_id)
        self._services.publish(lanes.tell_positions(once, user_id, self._services.settings.user_concurrent_runs))

    def _take_again(self, user_id: str, missing: Sequence[str]) -> None:
        with self._database.user_session(user_id) as session:
            limit = concurrent_runs(session, user_id, self._services.settings)
        taken = self._services.dispatcher.take(user_id, missing, limit)
        ended = self._services.dispatcher.free_idle(user_id, taken)  # or claimed, since they were read
        metrics.REPAIRED.labels("slot_of_granted_run").inc(len(taken) - len(ended))

    def _leaked(self, user_id: str) -> set[str]:
        try:
            held = set(self._services.slots.held(user_id))
        except RedisError:
            return set()
        return held - lanes.holders(self._database.once(user_id), user_id)

    def _free(self, user_id: str, leaked: set[str]) -> set[str]:
        try:
            freed = set(self._services.dispatcher.free_idle(user_id, leaked))
        except RedisError:
            return set()
        for name in freed:
            log.warning("a leaked slot is freed", run_id=run_of(name))
            metrics.REPAIRED.labels("slot_leaked").inc()
        return freed
