"""`/v1/runs`."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g, request
from sqlalchemy import Select

from api.cancellation import cancel
from api.idempotency import make_key
from api.ids import known_id
from api.models import Events, EventsQuery, Run, Runs, RunsQuery, RunSubmission, WaitQuery
from api.operations import json_response, operation
from api.pages import before_cursor, id_cursor, newest_runs, number_cursor, page
from api.state import api
from api.waiting import wait_for_end
from shared import models, runs
from shared.errors import ConflictError, NotFoundError, QuotaError, TooLargeError
from shared.events import read_run
from shared.queueing import queue_views
from shared.threads import find_run, visible_runs
from shared.tokens import Identity

bp = Blueprint("runs", __name__, url_prefix="/v1/runs")


@bp.post("")
@operation(
    "Submit a run",
    {202: Run},
    body=RunSubmission,
    request_headers={"Idempotency-Key": "1 to 255 printable ASCII characters: the same key and body are the same run"},
    errors=(NotFoundError, ConflictError, TooLargeError, QuotaError),
)
def submit(identity: Identity, body: RunSubmission) -> Response:
    """Accepted means stored: whatever happens from here on, the run reaches its end."""
    asked = request.headers.get("Idempotency-Key")
    key = None if asked is None else make_key(asked, body.model_dump(exclude_unset=True))
    view = api().submissions.submit(identity, body, key, g.correlation_id)
    return json_response(view, 202, {"Location": f"/v1/runs/{view['id']}"})


@bp.get("")
@operation("List runs, newest first", {200: Runs}, query=RunsQuery)
def list_runs(identity: Identity, query: RunsQuery) -> Response:
    """Only the caller's own."""
    state, user_id = api(), identity.user_id
    with state.services.database.user_session(user_id) as session:
        asked = before_cursor(models.Run, _filtered(user_id, query), query.cursor)
        items, more = newest_runs(session, asked, query.limit)
        queues = queue_views(session, user_id, items, state.catalogue.all(), redis_away=state.redis_away)
        views = [runs.run_view(run, queues.get(run.id)) for run in items]
    return json_response({"items": views, "next_cursor": id_cursor(items) if more else None})


@bp.get("/<run_id>")
@operation("Get a run", {200: Run}, errors=(NotFoundError,))
def get_run(identity: Identity, run_id: str) -> Response:
    """As it is now."""
    state, user_id = api(), identity.user_id
    with state.services.database.user_session(user_id) as session:
        run = find_run(session, user_id, known_id(run_id, "run"))
        queues = queue_views(session, user_id, [run], state.catalogue.all(), redis_away=state.redis_away)
        view = runs.run_view(run, queues.get(run.id))
    return json_response(view)


@bp.get("/<run_id>/wait")
@operation("Get a run as soon as it has ended", {200: Run}, query=WaitQuery, errors=(NotFoundError, QuotaError))
def wait(identity: Identity, run_id: str, query: WaitQuery) -> Response:
    """As it is after `timeout_s`, if it has not ended by then."""
    return json_response(wait_for_end(api(), identity.user_id, known_id(run_id, "run"), query.timeout_s))


@bp.post("/<run_id>/cancel")
@operation("Cancel a run", {202: Run, 200: Run}, errors=(NotFoundError,))
def cancel_run(identity: Identity, run_id: str) -> Response:
    """The intent is stored before the answer; a run that has ended stays as it is."""
    state = api()
    view, had_ended = cancel(state.services, identity.user_id, run_id, state.catalogue.all())
    return json_response(view, 200 if had_ended else 202)


@bp.get("/<run_id>/events")
@operation("List the events of a run", {200: Events}, query=EventsQuery, errors=(NotFoundError,))
def list_events(identity: Identity, run_id: str, query: EventsQuery) -> Response:
    """In their order. `next_cursor` is the last `run_seq`, while there is more."""
    user_id = identity.user_id
    after = max(query.after, number_cursor(query.cursor))
    with api().services.database.user_session(user_id) as session:
        find_run(session, user_id, known_id(run_id, "run"))
        found = read_run(session, user_id, run_id, after, query.limit + 1)
    items, more = page(found, query.limit)
    return json_response({"items": items, "next_cursor": str(items[-1]["run_seq"]) if more else None})


def _filtered(user_id: str, query: RunsQuery) -> Select[Any]:
    own = visible_runs(user_id)
    if query.status is not None:
        own = own.where(models.Run.status == query.status)
    if query.thread_id is not None:
        own = own.where(models.Run.thread_id == query.thread_id)
    if query.agent is not None:
        own = own.where(models.Run.agent == query.agent)
    return own
