"""`/v1/threads`."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g
from sqlalchemy import insert, select

from api.cancellation import tell
from api.ids import known_id
from api.models import PageQuery, Thread, ThreadCreation, Threads
from api.operations import json_response, operation
from api.pages import make_cursor, page, read_id_cursor
from api.state import api
from api.submission import MAX_METADATA_BYTES
from shared import models
from shared.errors import DeletingError, NotFoundError, RateLimitedError, TooLargeError
from shared.events import iso
from shared.ids import new_id
from shared.jsonvalue import check_json
from shared.threads import cancel_live_runs, delete_thread, find_thread
from shared.tokens import Identity

bp = Blueprint("threads", __name__, url_prefix="/v1/threads")
MAX_TITLE_BYTES = 4096
CANCELS_AT_ONCE = 100


@bp.post("")
@operation(
    "Make a thread",
    {201: Thread},
    body=ThreadCreation,
    body_required=False,
    located=True,
    errors=(TooLargeError, RateLimitedError, DeletingError),
)
def create(identity: Identity, body: ThreadCreation) -> Response:
    """A run without `thread_id` makes one by itself. One without a run goes as ended runs do."""
    api().rate.count(identity.user_id)
    check_json(body.title, "title", MAX_TITLE_BYTES)
    check_json(body.metadata, "metadata", MAX_METADATA_BYTES)
    values = {"user_id": identity.user_id, "id": new_id(), "title": body.title, "meta": body.metadata}
    with api().services.database.user_session(identity.user_id) as session:
        view = _view(session.execute(insert(models.Thread).returning(models.Thread), values).scalar_one())
    return json_response(view, 201, {"Location": f"/v1/threads/{view['id']}"})


@bp.get("")
@operation("List threads, newest first", {200: Threads}, query=PageQuery)
def list_threads(identity: Identity, query: PageQuery) -> Response:
    """Only the caller's own."""
    own = select(models.Thread).where(models.Thread.user_id == identity.user_id, models.Thread.deleted_at.is_(None))
    before = read_id_cursor(query.cursor)
    if before is not None:
        own = own.where(models.Thread.id < before)
    with api().services.database.user_session(identity.user_id) as session:
        found = session.scalars(own.order_by(models.Thread.id.desc()).limit(query.limit + 1)).all()
        items, more = page(found, query.limit)
        body = {
            "items": [_view(thread) for thread in items],
            "next_cursor": make_cursor(items[-1].id) if more else None,
        }
    return json_response(body)


@bp.get("/<thread_id>")
@operation("Get a thread", {200: Thread}, errors=(NotFoundError,))
def get(identity: Identity, thread_id: str) -> Response:
    """Its runs: `GET /v1/runs?thread_id=`."""
    with api().services.database.user_session(identity.user_id) as session:
        thread = find_thread(session, identity.user_id, known_id(thread_id, "thread"))
        if thread is None:
            raise NotFoundError("no such thread")
        view = _view(thread)
    return json_response(view)


@bp.delete("/<thread_id>")
@operation("Delete a thread", {204: None}, errors=(NotFoundError,))
def delete(identity: Identity, thread_id: str) -> Response:
    """It is gone from now on; its live runs are cancelled, and when they have ended their data is removed."""
    services, user_id = api().services, identity.user_id
    with services.database.user_session(user_id) as session:
        if not delete_thread(session, user_id, known_id(thread_id, "thread"), g.correlation_id):
            raise NotFoundError("no such thread")
    asked = True
    while asked:  # a transaction for some at a time: a thread may have thousands
        with services.database.user_session(user_id) as session:
            runs, stored = cancel_live_runs(session, user_id, thread_id, CANCELS_AT_ONCE)
        asked = bool(runs)
        services.publish(stored)
        for run in runs:
            tell(services, run)
    return Response(status=204)


def _view(thread: models.Thread) -> dict[str, Any]:
    return {"id": thread.id, "title": thread.title, "metadata": thread.meta, "created_at": iso(thread.created_at)}
