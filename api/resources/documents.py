"""`/v1/documents`: the body is the content."""

from __future__ import annotations

import hashlib
import re
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, request
from sqlalchemy import ColumnElement, delete, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, defer

from api import bodies
from api.models import Document, Documents, PageQuery
from api.operations import json_response, operation
from api.pages import make_cursor, page, read_cursor
from api.state import api
from shared import models
from shared.errors import DeletingError, InvalidError, NotFoundError, QuotaError
from shared.events import iso
from shared.tokens import Identity

bp = Blueprint("documents", __name__, url_prefix="/v1/documents")
MAX_BYTES = 32 * 1024 * 1024
MAX_DOCUMENTS = 10_000  # of a user
DEFAULT_TYPE = "application/octet-stream"
_NAME = re.compile(r"[^/\\]{1,200}")
_TYPE = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,254}")
_WHOLE = models.Document


@bp.get("")
@operation("List documents by name", {200: Documents}, query=PageQuery)
def list_documents(identity: Identity, query: PageQuery) -> Response:
    """Without their contents."""
    own = select(_WHOLE).where(_WHOLE.user_id == identity.user_id).options(defer(_WHOLE.content))
    last = read_cursor(query.cursor)
    if last is not None:
        own = own.where(_WHOLE.name > last)
    with api().services.database.user_session(identity.user_id) as session:
        found = session.scalars(own.order_by(_WHOLE.name).limit(query.limit + 1)).all()
        items, more = page(found, query.limit)
        body = {"items": [_view(item) for item in items], "next_cursor": make_cursor(items[-1].name) if more else None}
    return json_response(body)


@bp.put("/<name>")
@operation(
    "Store a document",
    {201: Document, 200: Document},
    body="*/*",
    body_required=False,
    located=True,
    errors=(InvalidError, DeletingError),
)
def put(identity: Identity, name: str) -> Response:
    """201 if it is new, 200 if it replaced one."""
    _check_name(name)
    with bodies.room(identity.user_id, bodies.announced(MAX_BYTES)):
        return _store(identity, name, bodies.read(MAX_BYTES))


def _store(identity: Identity, name: str, content: bytes) -> Response:
    kind = request.headers.get("Content-Type", DEFAULT_TYPE)
    if _TYPE.fullmatch(kind) is None:
        message = "must be 1 to 255 printable ASCII characters"
        raise InvalidError(f"Content-Type {message}", errors=[{"field": "Content-Type", "message": message}])
    values = {"user_id": identity.user_id, "name": name, "content_type": kind, "size": len(content),
              "sha256": hashlib.sha256(content).hexdigest(), "content": content}  # fmt: skip
    statement = insert(_WHOLE).values(values)
    replaced = {column: statement.excluded[column] for column in ("content_type", "size", "sha256", "content")}
    statement = statement.on_conflict_do_update(
        index_elements=["user_id", "name"], set_={**replaced, "updated_at": func.now()}
    )
    # A row version that no transaction has updated was inserted.
    is_new: ColumnElement[bool] = literal_column("(xmax = 0)")
    columns = (_WHOLE.name, _WHOLE.content_type, _WHOLE.size, _WHOLE.sha256, _WHOLE.created_at, _WHOLE.updated_at)
    with bodies.turn(len(content)), api().services.database.user_session(identity.user_id) as session:
        _check_place(session, identity.user_id, name, len(content))
        row = session.execute(statement.returning(*columns, is_new.label("is_new"))).one()
    return json_response(_view(row), 201 if row.is_new else 200, {"Location": quote(request.path)})


@bp.get("/<name>")
@operation("Get a document's content", {200: "*/*"}, errors=(NotFoundError, QuotaError))
def get(identity: Identity, name: str) -> Response:
    """With the content type that it was stored with, as a download."""
    database = api().services.database
    with database.user_session(identity.user_id) as session:
        size = session.execute(_own(identity, name, _WHOLE.size)).scalar_one_or_none()
    if size is None:
        raise NotFoundError("no such document")
    with ExitStack() as held:
        held.enter_context(bodies.room(identity.user_id, size))
        with bodies.turn(size), database.user_session(identity.user_id) as session:
            row = session.execute(_own(identity, name, _WHOLE.content, _WHOLE.content_type)).one_or_none()
        if row is None:
            raise NotFoundError("no such document")
        disposition = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
        headers = {"Content-Type": row.content_type, "Content-Disposition": disposition}
        response = bodies.download(bytes(row.content), headers)
        response.call_on_close(held.pop_all().close)
    return response


@bp.delete("/<name>")
@operation("Delete a document", {204: None}, errors=(NotFoundError,))
def remove(identity: Identity, name: str) -> Response:
    """At once and for good."""
    _find_name(name)
    statement = delete(_WHOLE).where(_WHOLE.user_id == identity.user_id, _WHOLE.name == name).returning(_WHOLE.name)
    with api().services.database.user_session(identity.user_id) as session:
        if session.execute(statement.execution_options(synchronize_session=False)).first() is None:
            raise NotFoundError("no such document")
    return Response(status=204)


def _own(identity: Identity, name: str, *columns: Any) -> Any:
    _find_name(name)
    return select(*columns).where(_WHOLE.user_id == identity.user_id, _WHOLE.name == name)


def _check_place(session: Session, user_id: str, name: str, size: int) -> None:
    """Sees that the user may have the document besides the others; what comes at the same time waits for this one."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"documents:{user_id}", 0))))
    others = select(func.count(), func.coalesce(func.sum(_WHOLE.size), 0))
    number, total = session.execute(others.where(_WHOLE.user_id == user_id, _WHOLE.name != name)).one()
    if number >= MAX_DOCUMENTS:
        raise QuotaError(f"a user may have {MAX_DOCUMENTS} documents; delete some first")
    limit = api().services.settings.user_documents_mb
    if total + size > limit * 2**20:
        raise QuotaError(f"the documents of the user would have {total + size} bytes; the limit is {limit} MiB")


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name.isprintable() and name == name.strip() and name not in {".", ".."}


def _check_name(name: str) -> None:
    if not _is_name(name):
        message = "must be 1 to 200 printable characters without / and \\ and without surrounding space"
        raise InvalidError(f"name {message}", errors=[{"field": "name", "message": message}])


def _find_name(name: str) -> None:
    if not _is_name(name):
        raise NotFoundError("no such document")


def _view(document: Any) -> dict[str, Any]:
    return {
        "name": document.name,
        "content_type": document.content_type,
        "size": document.size,
        "sha256": document.sha256,
        "created_at": iso(document.created_at),
        "updated_at": iso(document.updated_at),
    }
