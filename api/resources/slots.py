"""`/v1/admin/slots`: slots held against live runs, for the scope `admin`. Each call is audited."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g

from api.models import PageQuery, Slots
from api.operations import json_response, operation
from api.pages import make_cursor, page, read_cursor
from api.state import api
from shared import audit
from shared.survey import Survey, UserSlots, survey
from shared.tokens import Identity

bp = Blueprint("slots", __name__, url_prefix="/v1/admin/slots")


@bp.get("")
@operation("Compare slots held with live runs", {200: Slots}, scope="admin", query=PageQuery)
def list_slots(identity: Identity, query: PageQuery) -> Response:
    """Every user who has live runs or slots, by id. A run that begins or ends just now may show as a difference."""
    after = read_cursor(query.cursor) or ""
    services = api().services
    found = survey(services)
    with services.database.user_session(identity.user_id) as session:
        audit.record(
            session,
            user_id=identity.user_id,
            actor=f"user:{identity.user_id}",
            action="admin.slots.get",
            target="slots",
            correlation_id=g.correlation_id,
        )
    users, more = page([user for user in found.users if _place(user) > after][: query.limit + 1], query.limit)
    return json_response(
        {
            "items": [_view(user) for user in users],
            "next_cursor": make_cursor(_place(users[-1])) if more else None,
            "totals": _totals(found),
            "redis": "ok" if found.redis else "away",
            "complete": found.complete,
        }
    )


def _place(user: UserSlots) -> str:
    """Returns what the list is sorted by: users by id, then the keys of nobody."""
    return f"u{user.user_id}" if user.user_id is not None else f"~{user.key}"


def _view(user: UserSlots) -> dict[str, Any]:
    return {
        "user_id": user.user_id,
        "limit": user.limit,
        "slots_held": None if user.held is None else len(user.held),
        "granted": user.granted,
        "running": user.running,
        "parked": user.parked,
        "leaked": list(user.leaked),
        "missing": list(user.missing),
    }


def _totals(found: Survey) -> dict[str, Any]:
    return {
        "users": len(found.users),
        "slots_held": found.held,
        **{name: sum(getattr(user, name) for user in found.users) for name in ("granted", "running", "parked")},
        "leaked": found.leaked,
        "missing": found.missing,
    }
