"""`/v1/runs/{id}/artifacts`: files that the agents of a run saved for its user."""

from __future__ import annotations

from contextlib import ExitStack
from urllib.parse import quote

from flask import Blueprint, Response
from sqlalchemy import select
from sqlalchemy.orm import defer

from api import bodies
from api.ids import known_id
from api.models import Artifacts
from api.operations import json_response, operation
from api.state import api
from shared.errors import NotFoundError, QuotaError
from shared.events import iso
from shared.models import Artifact
from shared.threads import find_run
from shared.tokens import Identity

bp = Blueprint("artifacts", __name__, url_prefix="/v1/runs/<run_id>/artifacts")
# What an agent made may hold anything: a browser that is led to it must neither run it nor take it for our own page.
NOTHING_ALLOWED = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
ANY_TYPE = "application/octet-stream"


@bp.get("")
@operation("List the artifacts of a run", {200: Artifacts}, errors=(NotFoundError,))
def list_artifacts(identity: Identity, run_id: str) -> Response:
    """By name, all at once: a run has at most 32."""
    own = select(Artifact).where(Artifact.user_id == identity.user_id, Artifact.run_id == known_id(run_id, "run"))
    with api().services.database.user_session(identity.user_id) as session:
        find_run(session, identity.user_id, run_id)
        found = session.scalars(own.order_by(Artifact.name).options(defer(Artifact.content))).all()
    items = [
        {
            "name": item.name,
            "content_type": item.content_type,
            "size": item.size,
            "sha256": item.sha256,
            "created_at": iso(item.created_at),
        }
        for item in found
    ]
    return json_response({"items": items, "next_cursor": None})


@bp.get("/<name>")
@operation("Get an artifact", {200: "*/*"}, errors=(NotFoundError, QuotaError))
def get(identity: Identity, run_id: str, name: str) -> Response:
    """As a download, with the content type that the agent gave it."""
    own = Artifact.user_id == identity.user_id, Artifact.run_id == known_id(run_id, "run"), Artifact.name == name
    with ExitStack() as held:
        with api().services.database.user_session(identity.user_id) as session:
            find_run(session, identity.user_id, run_id)
            size = session.scalar(select(Artifact.size).where(*own)) if "\0" not in name else None
            if size is None:
                raise NotFoundError("no such artifact")
            held.enter_context(bodies.room(identity.user_id, size))
            row = session.execute(select(Artifact.content, Artifact.content_type).where(*own)).one()
        kind = row.content_type
        headers = {
            # What a header cannot carry would fail only when the answer is sent.
            "Content-Type": kind if kind.isascii() and kind.isprintable() and kind.strip() else ANY_TYPE,
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
            "Content-Security-Policy": NOTHING_ALLOWED,
        }
        response = bodies.download(bytes(row.content), headers)
        response.call_on_close(held.pop_all().close)
    return response
