"""`/v1/runs`."""

from __future__ import annotations

from flask import Blueprint, Response, g, request

from api.cancellation import cancel
from api.gateway import sse
from api.idempotency import make_key, read_header
from api.ids import known_id
from api.models import Events, EventsQuery, Run, Runs, RunsQuery, RunSubmission, WaitQuery
from api.operations import Header, json_response, operation
from api.pages import make_cursor, read_id_cursor, read_number_cursor
from api.state import api
from api.waiting import wait_for_end
from shared.errors import ConflictError, InvalidError, NotFoundError, QuotaError, TooLargeError
from shared.events import read_run
from shared.threads import find_run
from shared.tokens import Identity

KEY = "1 to 255 printable ASCII characters, bare or as a string in double quotes (RFC 8941): the same key and "
KEPT = ", for as long as that run is kept"
KEY_SCHEMA = {
    "type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$",
}  # fmt: skip
BAD_LAST_EVENT_ID = "Last-Event-ID must be the id of an event: a whole number of at most 9 digits"
LAST_EVENT_ID = Header(
    "as `after`; clients of server-sent events send it by themselves", {"type": "string", "pattern": "^[0-9]{1,9}$"}
)
FORMS = ("application/json", sse.CONTENT_TYPE)  # the first one for who has no preference

bp = Blueprint("runs", __name__, url_prefix="/v1/runs")


@bp.post("")
@operation(
    "Submit a run",
    {202: Run},
    body=RunSubmission,
    located=True,
    request_headers={"Idempotency-Key": Header(f"{KEY}body are the same run{KEPT}", KEY_SCHEMA)},
    errors=(NotFoundError, ConflictError, TooLargeError, QuotaError),
)
def submit(identity: Identity, body: RunSubmission) -> Response:
    """Accepted means stored: whatever happens from here on, the run reaches its end."""
    asked = request.headers.get("Idempotency-Key")
    key = None if asked is None else make_key(read_header(asked), body.model_dump(exclude_unset=True))
    view = api().submissions.submit(identity, body, key, g.correlation_id)
    return json_response(view, 202, {"Location": f"/v1/runs/{view['id']}"})


@bp.post("/<run_id>/retry")
@operation(
    "Retry a run",
    {202: Run},
    located=True,
    request_headers={"Idempotency-Key": Header(f"{KEY}run are the same retry{KEPT}", KEY_SCHEMA)},
    errors=(InvalidError, NotFoundError, ConflictError, QuotaError),
)
def retry(identity: Identity, run_id: str) -> Response:
    """Makes a new run of one that failed, timed out or was cancelled, with its agent, input, metadata and thread.

    The new run, whose `retry_of` is the old one's id, goes on after the steps that the old one recorded. Agent and
    input are checked as for a submission of today. A run that has not ended, or has completed, is refused with 409 and
    the code `not_retryable`.
    """
    asked = request.headers.get("Idempotency-Key")
    key = None if asked is None else make_key(read_header(asked), ["retry", run_id])
    view = api().submissions.retry(identity, run_id, key, g.correlation_id)
    return json_response(view, 202, {"Location": f"/v1/runs/{view['id']}"})


@bp.get("")
@operation("List runs, newest first", {200: Runs}, query=RunsQuery)
def list_runs(identity: Identity, query: RunsQuery) -> Response:
    """Only the caller's own."""
    views, more = api().runs.list(
        identity.user_id,
        query.limit,
        before=read_id_cursor(query.cursor),
        statuses=None if query.status is None else [query.status],
        thread_id=query.thread_id,
        agent=query.agent,
    )
    return json_response({"items": views, "next_cursor": make_cursor(views[-1]["id"]) if more else None})


@bp.get("/<run_id>")
@operation("Get a run", {200: Run}, errors=(NotFoundError,))
def get_run(identity: Identity, run_id: str) -> Response:
    """As it is now."""
    return json_response(api().runs.view(identity.user_id, known_id(run_id, "run")))


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
    view, had_ended = cancel(state.services, identity.user_id, run_id)
    return json_response(view, 200 if had_ended else 202)


@bp.get("/<run_id>/events")
@operation(
    "List or follow the events of a run",
    {200: (Events, sse.CONTENT_TYPE), 204: None},
    query=EventsQuery,
    request_headers={"Last-Event-ID": LAST_EVENT_ID},
    errors=(NotFoundError, QuotaError),
)
def list_events(identity: Identity, run_id: str, query: EventsQuery) -> Response:
    """In their order; a page ends early at 1 MiB. `next_cursor` is the last `run_seq`, while there is more.

    With `Accept: text/event-stream` they come as server-sent events, `id` being the `run_seq`, up to the run's last
    one, and `limit` has no meaning; 204 if the run has ended and the client has had all of it.
    """
    user_id, run_id = identity.user_id, known_id(run_id, "run")
    last_event_id = read_number_cursor(request.headers.get("Last-Event-ID"), BAD_LAST_EVENT_ID)
    after = max(query.after, read_number_cursor(query.cursor), last_event_id)
    if request.method == "GET" and request.accept_mimetypes.best_match(FORMS, FORMS[0]) == sse.CONTENT_TYPE:
        return sse.respond(api(), identity, run_id, after)
    with api().services.database.user_session(user_id) as session:
        run = find_run(session, user_id, run_id)
        items = read_run(session, user_id, run_id, after, query.limit)
    more = bool(items) and items[-1]["run_seq"] < run.last_run_seq
    return json_response({"items": items, "next_cursor": str(items[-1]["run_seq"]) if more else None})
