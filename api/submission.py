"""Submitting a run: the one way, for REST and WebSocket alike. Thin: check, store in one transaction, admit, answer."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sqlalchemy import select

from api.catalogue import AgentCatalogue
from api.ids import known_id
from api.metrics import Metrics
from api.models import RunSubmission
from api.rate import SubmissionRate
from api.reading import RunReader
from shared import models
from shared.acceptance import Accepted, IdempotencyKey, Refused, accept
from shared.context import UserExecutionContext
from shared.errors import ConflictError, InvalidError, KeyReusedError, LanewiseError, NotFoundError, QuotaError
from shared.ids import new_id
from shared.jsonvalue import check_json
from shared.models import Agent
from shared.queueing import queue_view
from shared.retrying import accept_retry, check_retryable
from shared.runs import run_view
from shared.services import Services
from shared.threads import find_run
from shared.tokens import Identity

OTHER_BODY = "this Idempotency-Key was used with another body"
MAX_INPUT_BYTES = 256 * 1024
MAX_METADATA_BYTES = 16 * 1024
QUOTA_RETRY_AFTER_S = 5


class Submissions:
    """Accepts runs.

    Args:
        services: the stores.
        catalogue: the agents.
        runs: for the answer to a key that was used before.
        metrics: counts what was accepted.
        rate: of each user.
    """

    def __init__(
        self, services: Services, catalogue: AgentCatalogue, runs: RunReader, metrics: Metrics, rate: SubmissionRate
    ) -> None:
        self._services = services
        self._runs = runs
        self._catalogue = catalogue
        self._metrics = metrics
        self._rate = rate

    def submit(
        self,
        identity: Identity,
        request: RunSubmission,
        key: IdempotencyKey | None,
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
            RateLimitedError: the user submits too fast.
            QuotaError: too many runs are queued.
            ConflictError: the same key is being handled.
            UnavailableError: Postgres is away; nothing was accepted.
        """
        user_id = identity.user_id
        self._rate.count(user_id)
        try:
            agent, time_limit_s = self._check(request)
        except InvalidError:
            if key is not None and (view := self._earlier(user_id, key)) is not None:
                return view  # accepted when the agent was there
            raise
        answer = accept(
            self._services.database.once(user_id),
            _context(user_id, request.thread_id, correlation_id, connection_id),
            agent,
            request.input,
            metadata=request.metadata,
            time_limit_s=time_limit_s,
            new_thread=request.thread_id is None,
            quota=self._services.settings.user_queued_runs,
            slots=self._services.settings.user_concurrent_runs,
            key=key,
        )
        return self._answer(user_id, answer, "websocket" if connection_id else "rest")

    def retry(self, identity: Identity, run_id: str, key: IdempotencyKey | None, correlation_id: str) -> dict[str, Any]:
        """Stores a new run in place of one that failed, timed out or was cancelled, and returns its public form.

        It has the agent, input, metadata, thread and time limit of the old one, and goes on after its recorded steps.

        Args:
            identity: whose run it is.
            run_id: of the ended run.
            key: the same key again answers with the first retry.
            correlation_id: of the request, and from now on of the new run.

        Raises:
            NotFoundError: the user has no such run.
            NotRetryableError: it has not ended, or it completed.
            LanewiseError: as `submit`: agent and input are checked as they would be today.
        """
        user_id, settings = identity.user_id, self._services.settings
        self._rate.count(user_id)
        with self._services.database.user_session(user_id) as session:
            old = find_run(session, user_id, known_id(run_id, "run"))
            check_retryable(old)
            session.expunge(old)
        try:
            agent = self._catalogue.get(old.agent)
            self._catalogue.check_input(agent, old.input)
        except InvalidError:
            if key is not None and (view := self._earlier(user_id, key)) is not None:
                return view
            raise
        context = _context(user_id, old.thread_id, correlation_id, None)
        with self._services.database.user_session(user_id) as session:
            answer = accept_retry(
                session,
                old,
                context,
                agent,
                time_limit_s=min(old.time_limit_s, settings.run_time_limit_s),
                quota=settings.user_queued_runs,
                slots=settings.user_concurrent_runs,
                key=key,
            )
        return self._answer(user_id, answer, "rest")

    def _answer(self, user_id: str, answer: Accepted | Refused, way: str) -> dict[str, Any]:
        if isinstance(answer, Refused):
            return self._refuse(user_id, answer)
        self._metrics.submissions.labels(way).inc()
        self._services.publish(answer.stored)
        started = self._services.dispatcher.start_or_leave(user_id)
        if answer.run.id in started:
            return run_view(answer.run, queue_view(0, "fleet_busy", None))
        position = max(1, answer.parked + 1 - len(started))
        if position == 1:  # next in line: the sweep, or a run that ended, may have started it just now
            with suppress(LanewiseError):
                return self._runs.view(user_id, answer.run.id)
        eta_s = None if answer.run_s is None else round(answer.run_s * position / answer.slots, 1)
        reason = "redis_unavailable" if self._runs.redis_away else "user_limit"
        return run_view(answer.run, queue_view(position, reason, eta_s))

    def _earlier(self, user_id: str, key: IdempotencyKey) -> dict[str, Any] | None:
        """Returns the run that the key made before, None if it made none.

        Raises:
            KeyReusedError: with another body.
        """
        query = select(models.IdempotencyKey.run_id, models.IdempotencyKey.fingerprint).where(
            models.IdempotencyKey.user_id == user_id, models.IdempotencyKey.key == key.value
        )
        with self._services.database.user_session(user_id) as session:
            row = session.execute(query).first()
        if row is None:
            return None
        if row.fingerprint != key.fingerprint:
            raise KeyReusedError(OTHER_BODY)
        return self._runs.view(user_id, row.run_id)

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

    def _refuse(self, user_id: str, answer: Refused) -> dict[str, Any]:
        match answer:
            case Refused("earlier", run_id=str(run_id)):
                return self._runs.view(user_id, run_id)
            case Refused("other_body"):
                raise KeyReusedError(OTHER_BODY)
            case Refused("in_flight"):
                raise ConflictError("a request with this Idempotency-Key is being handled; try again", retry_after_s=1)
            case Refused("quota"):
                problem = f"{answer.queued} runs are queued; the limit is {answer.quota}"
                raise QuotaError(problem, retry_after_s=QUOTA_RETRY_AFTER_S)
            case _:
                raise NotFoundError("no such thread")


def _context(
    user_id: str, thread_id: str | None, correlation_id: str, connection_id: str | None
) -> UserExecutionContext:
    thread = new_id() if thread_id is None else known_id(thread_id, "thread")
    if connection_id is None:
        return UserExecutionContext.from_request(user_id, thread, new_id(), correlation_id=correlation_id)
    return UserExecutionContext.from_websocket_request(
        user_id, thread, new_id(), connection_id=connection_id, correlation_id=correlation_id
    )
