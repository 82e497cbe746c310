"""Submitting a run: the one way, for REST and WebSocket alike. Thin: check, store in one transaction, admit, answer."""

from __future__ import annotations

from typing import Any

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.catalogue import AgentCatalogue
from api.idempotency import Key
from api.ids import known_id
from api.metrics import Metrics
from api.models import RunSubmission
from shared import limits, runs
from shared.context import UserExecutionContext
from shared.errors import InvalidError, LanewiseError, NotFoundError, QuotaError
from shared.events import StoredEvent
from shared.ids import new_id
from shared.jsonvalue import check_json
from shared.models import Agent, Run, Thread
from shared.queueing import queue_view, queue_views
from shared.services import Services
from shared.states import ExecutionState
from shared.tokens import Identity

MAX_INPUT_BYTES = 256 * 1024
MAX_METADATA_BYTES = 16 * 1024
QUOTA_RETRY_AFTER_S = 5

log = structlog.get_logger(__name__)


class Submissions:
    """Accepts runs.

    Args:
        services: the stores.
        catalogue: the agents.
        metrics: counts what was accepted.
    """

    def __init__(self, services: Services, catalogue: AgentCatalogue, metrics: Metrics) -> None:
        self._services = services
        self._catalogue = catalogue
        self._metrics = metrics

    def submit(
        self,
        identity: Identity,
        request: RunSubmission,
        key: Key | None,
        correlation_id: str,
        connection_id: str | None = None,
    ) -> dict[str, Any]:
        """Stores a run, lets it start if there is a free slot, and returns its public form.

        Args:
            identity: whose run it will be.
            request: what was asked, its form already checked.
            key: the same key again answers with the first run.
            correlation_id: of the request, and from now on of the run.
            connection_id: the WebSocket it came over, if it did.

        Raises:
            InvalidError: the input, the agent or the time limit is wrong, or the key was used with another body.
            NotFoundError: the user has no such thread.
            TooLargeError: input or metadata above its limit.
            QuotaError: too many runs are queued.
            ConflictError: the same key is being handled.
            UnavailableError: Postgres is away; nothing was accepted.
        """
        user_id = identity.user_id
        try:
            agent, time_limit_s = self._check(request)
        except InvalidError:
            if key is not None and (view := self._earlier(user_id, key)) is not None:
                return view  # accepted when the agent was there
            raise
        context = _context(user_id, request.thread_id, correlation_id, connection_id)
        with self._services.database.user_session(user_id) as session:
            if key is not None and (bound := key.reserve(session, user_id, context.run_id)) != context.run_id:
                return self._view(session, user_id, bound)
            parked = self._check_quota(session, user_id)
            if request.thread_id is not None:
                _hold_thread(session, user_id, context.thread_id)
            run, stored = runs.create(
                session,
                context,
                agent,
                request.input,
                metadata=request.metadata,
                time_limit_s=time_limit_s,
                new_thread=request.thread_id is None,
            )
        self._metrics.submissions.labels("websocket" if connection_id else "rest").inc()
        position = max(0, parked + 1 - self._start(user_id, stored))
        return runs.run_view(run, queue_view(position, "user_limit" if position else "fleet_busy"))

    def _check(self, request: RunSubmission) -> tuple[Agent, float]:
        check_json(request.input, "input", MAX_INPUT_BYTES)
        check_json(request.metadata, "metadata", MAX_METADATA_BYTES)
        agent = self._catalogue.get(request.agent)
        self._catalogue.check_input(agent, request.input)
        most = self._services.settings.run_time_limit_s
        if request.time_limit_s is not None and request.time_limit_s > most:
            message = f"must be at most {most:g} seconds"
            raise InvalidError(f"time_limit_s {message}", errors=[{"field": "time_limit_s", "message": message}])
        return agent, request.time_limit_s or min(agent.time_limit_s, most)

    def _check_quota(self, session: Session, user_id: str) -> int:
        """Returns how many runs of the user are parked."""
        queued = select(func.count(), func.count(Run.granted_at)).where(
            Run.user_id == user_id, Run.status == ExecutionState.QUEUED
        )
        total, granted = session.execute(queued).one()
        most = limits.queued_runs(session, user_id, self._services.settings)
        if total >= most:
            raise QuotaError(f"{total} runs are queued; the limit is {most}", retry_after_s=QUOTA_RETRY_AFTER_S)
        return int(total - granted)

    def _start(self, user_id: str, stored: list[StoredEvent]) -> int:
        """Publishes and admits; the run is accepted whatever happens here, for the leader's sweep admits it too."""
        self._services.publish(stored)
        try:
            return self._services.dispatcher.admit(user_id)
        except LanewiseError as error:
            log.warning("admission is left to the sweep", error=error.message)
        except Exception:
            log.exception("admission failed and is left to the sweep")
        return 0

    def _earlier(self, user_id: str, key: Key) -> dict[str, Any] | None:
        with self._services.database.user_session(user_id) as session:
            bound = key.find(session, user_id)
            return None if bound is None else self._view(session, user_id, bound)

    def _view(self, session: Session, user_id: str, run_id: str) -> dict[str, Any]:
        run = runs.find(session, user_id, run_id)
        if run is None:
            raise NotFoundError("the run of this Idempotency-Key was deleted")
        return runs.run_view(run, queue_views(session, user_id, [run], self._catalogue.all()).get(run_id))


def _context(
    user_id: str, thread_id: str | None, correlation_id: str, connection_id: str | None
) -> UserExecutionContext:
    thread = new_id() if thread_id is None else known_id(thread_id, "thread")
    if connection_id is None:
        return UserExecutionContext.from_request(user_id, thread, new_id(), correlation_id=correlation_id)
    return UserExecutionContext.from_websocket_request(
        user_id, thread, new_id(), connection_id=connection_id, correlation_id=correlation_id
    )


def _hold_thread(session: Session, user_id: str, thread_id: str) -> None:
    """Makes sure of the thread until the commit: whoever deletes it meanwhile will see the new run and cancel it."""
    query = select(Thread.id).where(Thread.user_id == user_id, Thread.id == thread_id, Thread.deleted_at.is_(None))
    if session.scalar(query.with_for_update(read=True)) is None:
        raise NotFoundError("no such thread")
