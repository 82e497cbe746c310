"""The life of a thread in Postgres: deleted at once for its user, removed when its last run has ended."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.orm import Session

from shared import audit, runs
from shared.database import Database
from shared.errors import NotFoundError
from shared.events import StoredEvent
from shared.models import Run, RunEvent, Thread
from shared.repairs import LOCK_TIMEOUT_S, one_by_one
from shared.states import LIVE

# Deleted, and nothing lives in it any more.
_GONE = (
    Thread.deleted_at.is_not(None),
    ~exists().where(Run.user_id == Thread.user_id, Run.thread_id == Thread.id, Run.status.in_(LIVE)),
)


def find_thread(session: Session, user_id: str, thread_id: str) -> Thread | None:
    """Returns the user's thread, unless it is deleted."""
    query = select(Thread).where(Thread.user_id == user_id, Thread.id == thread_id, Thread.deleted_at.is_(None))
    return session.scalars(query).one_or_none()


def find_run(session: Session, user_id: str, run_id: str) -> Run:
    """Returns the user's run.

    Raises:
        NotFoundError: there is none, or its thread is deleted.
    """
    kept = exists().where(Thread.user_id == Run.user_id, Thread.id == Run.thread_id, Thread.deleted_at.is_(None))
    run = session.scalars(select(Run).where(Run.user_id == user_id, Run.id == run_id, kept)).one_or_none()
    if run is None:
        raise NotFoundError("no such run")
    return run


def delete_thread(session: Session, user_id: str, thread_id: str, correlation_id: str | None = None) -> bool:
    """Marks the thread as deleted; False if the user has no such thread. Its live runs are to be cancelled next."""
    statement = (
        update(Thread)
        .where(Thread.user_id == user_id, Thread.id == thread_id, Thread.deleted_at.is_(None))
        .values(deleted_at=func.clock_timestamp())
        .returning(Thread.id)
        .execution_options(synchronize_session=False)
    )
    if session.execute(statement).first() is None:
        return False
    audit.record(session, user_id=user_id, actor=f"user:{user_id}", action="thread.delete", target=thread_id,
                 correlation_id=correlation_id)  # fmt: skip
    return True


def cancel_live_runs(
    session: Session, user_id: str, thread_id: str, limit: int
) -> tuple[Sequence[Run], list[StoredEvent]]:
    """Asks for the end of the first `limit` live runs of a thread, in the order of their ids, as all locks are taken.

    Returns:
        the runs as they are now, none if all were asked before, and what was appended.
    """
    query = select(Run.id).where(
        Run.user_id == user_id, Run.thread_id == thread_id, Run.status.in_(LIVE), Run.cancel_requested_at.is_(None)
    )
    asked: list[Run] = []
    stored: list[StoredEvent] = []
    # All are locked before the first is changed: changing one locks the stream, and streams come after runs.
    for run_id in session.scalars(query.order_by(Run.id).limit(limit).with_for_update(key_share=True)).all():
        answer = runs.request_cancel(session, user_id, run_id)
        if answer is not None:
            asked.append(answer[0])
            stored += answer[1]
            session.expunge(answer[0])
    return asked, stored


def deleted_but_live(session: Session, limit: int = 100) -> list[tuple[str, str]]:
    """Returns deleted threads, as (user, thread), with live runs that nobody has asked to end: a deletion broke off."""
    query = (
        select(Thread.user_id, Thread.id)
        .join(Run, (Run.user_id == Thread.user_id) & (Run.thread_id == Thread.id))
        .where(Thread.deleted_at.is_not(None), Run.status.in_(LIVE), Run.cancel_requested_at.is_(None))
    )
    return [(row.user_id, row.id) for row in session.execute(query.distinct().limit(limit))]


def remove_deleted_threads(database: Database, limit: int = 100) -> int:
    """Removes deleted threads without live runs, with all data of their runs; returns how many. For the leader.

    The numbers of their events stay, emptied: the user's stream has no gaps, and a client that comes back goes on.

    Args:
        limit: of threads at once; each goes in a transaction of its own.

    Raises:
        UnavailableError: Postgres is away.
    """
    with database.system_session() as session:
        query = select(Thread.user_id, Thread.id).where(*_GONE).limit(limit)
        gone = [(row.user_id, row.id) for row in session.execute(query)]
    return sum(one_by_one(gone, partial(_remove_deleted_thread, database)))


def _remove_deleted_thread(database: Database, thread: tuple[str, str]) -> bool:
    user_id, thread_id = thread
    with database.user_session(user_id, lock_timeout_s=LOCK_TIMEOUT_S) as session:
        query = select(Thread.id).where(Thread.user_id == user_id, Thread.id == thread_id, *_GONE)
        if session.execute(query.with_for_update(skip_locked=True)).first() is None:
            return False  # another leader has it
        run_ids = select(Run.id).where(Run.user_id == user_id, Run.thread_id == thread_id)
        session.execute(
            update(RunEvent)
            .where(RunEvent.user_id == user_id, RunEvent.run_id.in_(run_ids))
            .values(data={})
            .execution_options(synchronize_session=False)
        )
        session.execute(
            delete(Thread)
            .where(Thread.user_id == user_id, Thread.id == thread_id)
            .execution_options(synchronize_session=False)
        )
        return True
