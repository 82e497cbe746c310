"""Cancelling a run: the intent is stored first, then everybody who can act on it is told."""

from __future__ import annotations

from typing import Any

import structlog

from api.ids import known_id
from shared import runs
from shared.errors import LanewiseError, NotFoundError
from shared.models import Run
from shared.services import Services
from shared.states import ExecutionState
from shared.threads import find_run

log = structlog.get_logger(__name__)


def cancel(services: Services, user_id: str, run_id: str) -> tuple[dict[str, Any], bool]:
    """Returns the run and whether it had already ended before.

    Raises:
        NotFoundError: the user has no such run.
        UnavailableError: Postgres is away; nothing was stored.
    """
    with services.database.user_session(user_id) as session:
        find_run(session, user_id, known_id(run_id, "run"))
        answer = runs.request_cancel(session, user_id, run_id)
        if answer is None:
            raise NotFoundError("no such run")
        run, stored = answer
        ended = ExecutionState(run.status).is_end
        view = runs.run_view(run)  # what was queued has ended
        session.expunge_all()
    services.publish(stored)
    tell(services, run)
    return view, ended and not stored


def tell(services: Services, run: Run) -> None:
    """Acts on a stored intent: the slot of a run that ended in the queue is free, the worker of a running one stops it.

    Nothing here can fail the request: the sweep frees slots and the heartbeat carries the intent, too.
    """
    if run.status == ExecutionState.RUNNING and run.worker_id is not None:
        services.tell_worker(run.worker_id, run.id, run.attempt)
    elif run.status == ExecutionState.CANCELLED and run.granted_at is not None:
        try:
            services.dispatcher.release(run.user_id, run.id, run.attempt + 1)
        except LanewiseError as error:
            log.warning("a slot is left to its lease", run_id=run.id, error=error.message)
