"""`/v1/admin/users/{user_id}…`: limits, grants, revocation, deletion: for the scope `admin`, each call audited."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, g
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.models import Grants, GrantsReplacement, LimitsReplacement, Revocation, UserDeletion, UserLimits, WaitQuery
from api.operations import json_response, operation
from api.state import api
from shared import audit, models
from shared.context import check_user_id
from shared.deletion import begin, progress
from shared.errors import DeletingError, InvalidError, NotFoundError, UnavailableError
from shared.events import iso
from shared.grants import read_grants, replace_grants
from shared.limits import concurrent_runs, queued_runs
from shared.tokens import Identity

bp = Blueprint("admin", __name__, url_prefix="/v1/admin/users/<user:user_id>")
POLL_S = 0.25
_LIMITS = models.UserLimit


@bp.get("/limits")
@operation("Get a user's limits", {200: UserLimits}, scope="admin", errors=(InvalidError,))
def get_limits(identity: Identity, user_id: str) -> Response:
    """Their own, where they have some, and those that hold."""
    with _audited(identity, user_id, "limits.get", {}) as session:
        view = _limits(session, user_id)
    return json_response(view)


@bp.put("/limits")
@operation("Set a user's limits", {200: UserLimits}, scope="admin", body=LimitsReplacement, errors=(DeletingError,))
def put_limits(identity: Identity, user_id: str, body: LimitsReplacement) -> Response:
    """Parked runs that fit under a raised limit start at once; lowering one stops no run."""
    own = body.model_dump()
    with _audited(identity, user_id, "limits.put", own) as session:
        if any(value is not None for value in own.values()):
            statement = insert(_LIMITS).values(user_id=user_id, **own)
            session.execute(statement.on_conflict_do_update(index_elements=["user_id"], set_=own))
        else:
            session.execute(delete(_LIMITS).where(_LIMITS.user_id == user_id))
        view = _limits(session, user_id)
    api().services.dispatcher.start_or_leave(user_id)
    return json_response(view)


@bp.get("/grants")
@operation("List a user's grants", {200: Grants}, scope="admin", errors=(InvalidError,))
def get_grants(identity: Identity, user_id: str) -> Response:
    """The tools that need a grant and that the user has one for now."""
    with _audited(identity, user_id, "grants.get", {}) as session:
        view = _grants(session, user_id)
    return json_response(view)


@bp.put("/grants")
@operation("Replace a user's grants", {200: Grants}, scope="admin", body=GrantsReplacement, errors=(DeletingError,))
def put_grants(identity: Identity, user_id: str, body: GrantsReplacement) -> Response:
    """The whole list. It takes effect for every attempt of a run that begins from now on, not for one under way."""
    grants = _checked(body)
    with _audited(
        identity, user_id, "grants.put", {"tools": {tool: iso(end) for tool, end in grants.items()}}
    ) as session:
        replace_grants(session, user_id, grants, identity.user_id)
        view = _grants(session, user_id)
    return json_response(view)


@bp.post("/revoke")
@operation("Revoke a user's tokens", {200: Revocation}, scope="admin", errors=(InvalidError,))
def revoke(identity: Identity, user_id: str) -> Response:
    """Tokens that were issued until now are refused, by every process within a second, and what they opened is closed.

    A token counts by its `iat`, which has whole seconds as a rule: one of the same second is refused, whichever was
    first, and so is one without an `iat`.
    """
    with _audited(identity, user_id, "tokens.revoke", {}) as session:
        revoked_at = _revoke(session, user_id)
    api().revocations.learn(user_id, revoked_at)
    return json_response({"user_id": user_id, "revoked_at": iso(revoked_at)})


@bp.delete("")
@operation("Delete a user", {200: UserDeletion, 202: UserDeletion}, scope="admin", query=WaitQuery)
def delete_user(identity: Identity, user_id: str, query: WaitQuery) -> Response:
    """All that the user has, everywhere; only the audit trail stays, and that older tokens are refused.

    From now on nothing new of the user is accepted (409 `being_deleted`), and tokens that were issued until now are
    refused. Runs are cancelled; when they have ended a worker removes everything. 200 if that is done within
    `timeout_s`, else 202, and it goes on. Once it is done the id is that of a new user, who has nothing.
    """
    until = time.monotonic() + query.timeout_s
    with _audited(identity, user_id, "user.delete", {}) as session:
        begin(session, user_id)
        revoked_at = _revoke(session, user_id)
        view = _deletion(session, user_id)
    api().revocations.learn(user_id, revoked_at)
    while view["finished_at"] is None and time.monotonic() < until and not api().draining:
        time.sleep(POLL_S)
        # What was ordered is ordered, whether Postgres can say how far it is or not.
        with suppress(UnavailableError), api().services.database.user_session(user_id) as session:
            view = _deletion(session, user_id)
    return json_response(view, 202 if view["finished_at"] is None else 200)


@bp.get("/deletion")
@operation("Get how far a user's deletion is", {200: UserDeletion}, scope="admin", errors=(InvalidError, NotFoundError))
def get_deletion(identity: Identity, user_id: str) -> Response:
    """The one under way, else the last one, as long as the audit trail knows it."""
    with _audited(identity, user_id, "deletion.get", {}) as session:
        view = _deletion(session, user_id)
        if not view:
            raise NotFoundError("no deletion of this user")
    return json_response(view)


@contextmanager
def _audited(identity: Identity, user_id: str, action: str, detail: dict[str, Any]) -> Iterator[Session]:
    """Yields a session for the user's rows; the audit row is written in the same transaction."""
    check_user_id(user_id)
    with api().services.database.user_session(user_id) as session:
        yield session
        audit.record(
            session,
            user_id=user_id,
            actor=f"user:{identity.user_id}",
            action=f"admin.{action}",
            target=user_id,
            correlation_id=g.correlation_id,
            detail=detail,
        )


def _revoke(session: Session, user_id: str) -> datetime:
    """Returns until when tokens of the user are refused."""
    statement = insert(models.Revocation).values(user_id=user_id, revoked_at=func.clock_timestamp())
    latest = func.greatest(models.Revocation.revoked_at, statement.excluded.revoked_at)
    stored = statement.on_conflict_do_update(index_elements=["user_id"], set_={"revoked_at": latest})
    return session.execute(stored.returning(models.Revocation.revoked_at)).scalar_one()


def _deletion(session: Session, user_id: str) -> dict[str, Any]:
    found = progress(session, user_id)
    if found is None:
        return {}
    status = "deleting" if found.finished_at is None else "deleted"
    return {"user_id": user_id, "status": status, **vars(found)}


def _checked(body: GrantsReplacement) -> dict[str, datetime | None]:
    grants: dict[str, datetime | None] = {}
    problems = []
    for number, grant in enumerate(body.tools):
        if grant.tool in grants:
            problems.append({"field": f"tools.{number}.tool", "message": "is given more than once"})
        expires_at = grant.expires_at
        if expires_at is not None and expires_at <= datetime.now(UTC):
            problems.append({"field": f"tools.{number}.expires_at", "message": "is not in the future"})
        elif expires_at is not None:
            try:
                expires_at = expires_at.astimezone(UTC)  # Postgres takes no zone beyond 15:59
            except OverflowError:
                problems.append({"field": f"tools.{number}.expires_at", "message": "is later than the year 9999"})
        grants[grant.tool] = expires_at
    if problems:
        raise InvalidError(f"{problems[0]['field']} {problems[0]['message']}", errors=problems)
    return grants


def _limits(session: Session, user_id: str) -> dict[str, Any]:
    own = session.execute(
        select(_LIMITS.concurrent_runs, _LIMITS.queued_runs).where(_LIMITS.user_id == user_id)
    ).one_or_none()
    settings = api().services.settings
    return {
        "user_id": user_id,
        "concurrent_runs": own and own.concurrent_runs,
        "queued_runs": own and own.queued_runs,
        "effective": {
            "concurrent_runs": concurrent_runs(session, user_id, settings),
            "queued_runs": queued_runs(session, user_id, settings),
        },
    }


def _grants(session: Session, user_id: str) -> dict[str, Any]:
    items = [
        {
            "tool": grant.tool,
            "expires_at": iso(grant.expires_at),
            "granted_by": grant.granted_by,
            "granted_at": iso(grant.granted_at),
        }
        for grant in read_grants(session, user_id)
    ]
    return {"items": items}
