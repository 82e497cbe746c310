"""Grants: which tools, of those that need one, a user may call. The claim of a run hands them to its sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import delete, func, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.models import ToolGrant

MAX_GRANTS = 500
TOOL_NAME = r"^[A-Za-z0-9_-]{1,64}$"  # as the workers' registry wants them

# Two who replace one user's grants at once come one after the other, instead of leaving the union of both.
_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended('grants:' || :user_id, 0))")


def read_grants(session: Session, user_id: str) -> Sequence[ToolGrant]:
    """Returns the user's grants that are valid now, by tool."""
    valid = or_(ToolGrant.expires_at.is_(None), ToolGrant.expires_at > func.clock_timestamp())
    own = select(ToolGrant).where(ToolGrant.user_id == user_id, valid).order_by(ToolGrant.tool)
    return session.scalars(own.execution_options(populate_existing=True)).all()


def replace_grants(session: Session, user_id: str, grants: Mapping[str, datetime | None], granted_by: str) -> None:
    """Makes these the user's grants, and no others; one that stays as it was keeps who granted it and when.

    Args:
        grants: tools, each with the time at which its grant ends, None for one that does not.
        granted_by: the id of the administrator.
    """
    session.execute(_ONE_AT_A_TIME, {"user_id": user_id})
    others = delete(ToolGrant).where(ToolGrant.user_id == user_id, ToolGrant.tool.not_in(list(grants)))
    session.execute(others.execution_options(synchronize_session=False))
    if not grants:
        return
    rows = [
        {"user_id": user_id, "tool": tool, "granted_by": granted_by, "expires_at": expires_at}
        for tool, expires_at in grants.items()
    ]
    statement = insert(ToolGrant)
    new = statement.excluded
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["user_id", "tool"],
            set_={"granted_by": new.granted_by, "granted_at": func.now(), "expires_at": new.expires_at},
            where=ToolGrant.expires_at.is_distinct_from(new.expires_at),
        ),
        rows,
    )
