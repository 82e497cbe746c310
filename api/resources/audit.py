"""`/v1/admin/audit`: who did what, for the scope `admin`. Each call is audited, too."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g
from sqlalchemy import select

from api.models import AuditQuery, AuditRecords
from api.operations import json_response, operation
from api.pages import make_cursor, page, read_id_cursor
from api.state import api
from shared import audit
from shared.context import check_user_id
from shared.events import iso
from shared.models import AuditEntry
from shared.tokens import Identity

bp = Blueprint("audit", __name__, url_prefix="/v1/admin/audit")


@bp.get("")
@operation("List the audit trail, newest first", {200: AuditRecords}, scope="admin", query=AuditQuery)
def list_audit(identity: Identity, query: AuditQuery) -> Response:
    """Of all users, or of one. Whether it is as it was written, `lanewise audit verify` tells."""
    wanted = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(query.limit + 1)
    if query.user_id is not None:
        wanted = wanted.where(AuditEntry.user_id == check_user_id(query.user_id))
    if query.action is not None:
        wanted = wanted.where(AuditEntry.action == query.action)
    before = read_id_cursor(query.cursor)
    if before is not None:
        wanted = wanted.where(AuditEntry.id < before)
    with api().services.database.system_session() as session:
        items, more = page([_view(entry) for entry in session.scalars(wanted)], query.limit)
        audit.record(
            session,
            user_id=query.user_id or identity.user_id,
            actor=f"user:{identity.user_id}",
            action="admin.audit.get",
            target=query.user_id or "audit",
            correlation_id=g.correlation_id,
        )
    return json_response({"items": items, "next_cursor": make_cursor(items[-1]["id"]) if more else None})


def _view(entry: AuditEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": iso(entry.at),
        "user_id": entry.user_id,
        "actor": entry.actor,
        "action": entry.action,
        "object": entry.object,
        "outcome": entry.outcome,
        "correlation_id": entry.correlation_id,
        "detail": entry.detail,
        "seal": entry.seal,
    }
