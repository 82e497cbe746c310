"""What one user may have at once."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.models import UserLimit
from shared.settings import Settings


def concurrent_runs(session: Session, user_id: str, settings: Settings) -> int:
    """Returns how many runs of the user may be in progress."""
    own = session.scalar(select(UserLimit.concurrent_runs).where(UserLimit.user_id == user_id))
    return own or settings.user_concurrent_runs


def queued_runs(session: Session, user_id: str, settings: Settings) -> int:
    """Returns how many runs of the user may be queued."""
    own = session.scalar(select(UserLimit.queued_runs).where(UserLimit.user_id == user_id))
    return own or settings.user_queued_runs
