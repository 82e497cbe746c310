"""The worker's sign of life, and what it hears back: cancels, superseded attempts, runs that slipped through."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog
from sqlalchemy import func, select

from shared import catalogue, runs
from shared.errors import UnavailableError
from shared.loop import Loop
from shared.models import Run
from shared.outcomes import Lost
from shared.redis import RedisError
from shared.services import Services
from shared.slots import member
from shared.states import ExecutionState
from worker import metrics
from worker.live import LiveRun

log = structlog.get_logger(__name__)

SLIPPED_AFTER_S = 10.0


class Heartbeat(Loop):
    """Renews the worker's row and the slots of its runs, three times in a lease, from a thread that no run can block.

    Args:
        live: runs under way here, by id.
        announce: stores the worker's row again, should it be gone.
    """

    name = "heartbeat"

    def __init__(
        self, services: Services, worker_id: str, live: dict[str, LiveRun], announce: Callable[[], None]
    ) -> None:
        super().__init__(services.settings.lease_s / 3)
        self._services = services
        self._worker_id = worker_id
        self._live = live
        self._announce = announce
        self._heard_at = time.monotonic()

    def tick(self) -> None:
        """Beats once: Postgres first, because it decides; then the slots."""
        live = dict(self._live)
        metrics.RUNNING.set(len(live))
        try:
            self._hear(live)
        except UnavailableError:
            self.check_silence()
            return
        self._heard_at = time.monotonic()
        by_user: dict[str, list[str]] = defaultdict(list)
        for run in live.values():
            if not run.superseded:
                by_user[run.run.user_id].append(member(run.run.id, run.run.attempt))
        try:
            for user_id, missing in self._services.slots.renew(by_user).items():
                self._restore(user_id, missing)
        except RedisError as error:
            log.warning("slots are not renewed: redis is away", error=str(error))

    def check_silence(self) -> None:
        """Stops all runs if Postgres has not answered for a lease; asked from another thread too, as a beat may hang.

        Others may count this worker as dead then: its runs must not go on beside their successors.
        """
        if time.monotonic() - self._heard_at > self._services.settings.lease_s:
            for run in list(self._live.values()):
                run.stop(Lost("store_outage", "the worker lost its database", counted=False))

    def _restore(self, user_id: str, missing: Sequence[str]) -> None:
        """Puts back slots that Redis lost, but not of runs that have ended since: their runner leaves `live` first."""

        def here() -> set[str]:
            return {member(live.run.id, live.run.attempt) for live in list(self._live.values())}

        lost = sorted(here().intersection(missing))
        metrics.REPAIRED.labels("slot_of_running_run").inc(self._services.slots.restore(user_id, lost))
        self._services.slots.release(user_id, sorted(set(lost) - here()))

    def _hear(self, live: dict[str, LiveRun]) -> None:
        with self._services.database.system_session() as session:
            if not catalogue.beat(session, self._worker_id):
                self._announce()
            query = select(Run).where(Run.worker_id == self._worker_id, Run.status == ExecutionState.RUNNING)
            owned = {run.id: run for run in session.scalars(query)}
            slipped = set(
                session.scalars(
                    query.with_only_columns(Run.id).where(
                        Run.claimed_at < func.clock_timestamp() - timedelta(seconds=SLIPPED_AFTER_S)
                    )
                )
            )
            session.expunge_all()
        for run_id, run in live.items():
            row = owned.get(run_id)
            # A run that has just ended is not in the table either; to stop it then does nothing.
            if row is None or row.attempt != run.run.attempt:
                run.supersede()
            elif row.cancel_requested_at is not None:
                run.cancel()
        for run_id in slipped - live.keys() - self._live.keys():
            self._hand_back(owned[run_id])

    def _hand_back(self, run: Run) -> None:
        """A run that is ours by the table and not under way: its claim was committed and the answer got lost."""
        outcome = Lost("claim_lost", "the claim's answer was lost", counted=False)
        with self._services.database.user_session(run.user_id) as session:
            stored = runs.finish(session, run, outcome, f"worker:{self._worker_id}")
        if stored:
            self._services.publish(stored)
            self._services.dispatcher.release(run.user_id, run.id, run.attempt)
            metrics.REPAIRED.labels("claim_lost").inc()


class Control(Loop):
    """Hears at once what a heartbeat would hear later: cancels, over this worker's channel.

    Args:
        live: runs under way here, by id.
        check_silence: called about once a second, see `Heartbeat`.
    """

    name = "control"

    def __init__(
        self, services: Services, worker_id: str, live: dict[str, LiveRun], check_silence: Callable[[], None]
    ) -> None:
        super().__init__(interval_s=0.5)
        self._check_silence = check_silence
        self._services = services
        self._channel = services.keys.control(worker_id)
        self._live = live

    def tick(self) -> None:
        """Listens until the loop is stopped or Redis goes away; then the next tick subscribes anew."""
        self._check_silence()
        try:
            with self._services.redis.pubsub(  # type: ignore[no-untyped-call]
                ignore_subscribe_messages=True
            ) as channel:
                channel.subscribe(self._channel)
                while not self._stopping.is_set():
                    message = channel.get_message(timeout=1.0)
                    self._check_silence()
                    if message is not None:
                        self._handle(message["data"])
        except RedisError as error:
            log.warning("the control channel is away", error=str(error))

    def _handle(self, text: str) -> None:
        try:
            run = self._live.get(json.loads(text)["cancel"])
        except (ValueError, KeyError, TypeError):
            log.warning("a control message is not understood")
            return
        if run is not None:
            run.cancel()
