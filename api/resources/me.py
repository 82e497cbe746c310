"""`/v1/me`."""

from __future__ import annotations

from flask import Blueprint, Response
from sqlalchemy import func, select

from api.models import Me
from api.operations import json_response, operation
from api.state import Api, api
from shared.events import iso
from shared.limits import concurrent_runs, queued_runs
from shared.models import Run
from shared.redis import RedisError
from shared.states import LIVE, ExecutionState
from shared.tokens import Identity

bp = Blueprint("me", __name__)


@bp.get("/v1/me")
@operation("Get the caller's limits and use", {200: Me})
def me(identity: Identity) -> Response:
    """Slots are counted in Redis, runs in Postgres."""
    state, user_id = api(), identity.user_id
    counts = select(Run.status, func.count()).where(Run.user_id == user_id, Run.status.in_(LIVE)).group_by(Run.status)
    with state.services.database.user_session(user_id) as session:
        by_status = dict(session.execute(counts).all())
        limits = {
            "concurrent_runs": concurrent_runs(session, user_id, state.services.settings),
            "queued_runs": queued_runs(session, user_id, state.services.settings),
        }
    return json_response(
        {
            "user_id": user_id,
            "scopes": sorted(identity.scopes),
            "expires_at": iso(identity.expires_at),
            "limits": limits,
            "slots_held": _slots_held(state, user_id),
            "queued": by_status.get(ExecutionState.QUEUED, 0),
            "running": by_status.get(ExecutionState.RUNNING, 0),
        }
    )


def _slots_held(state: Api, user_id: str) -> int | None:
    try:
        return len(state.services.slots.held(user_id))
    except RedisError:
        return None
