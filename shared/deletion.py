"""Deleting a user: all that the user has, everywhere. A row in `deletions` says so; the leader works it off.

While the row is there, Postgres refuses whatever would begin something new of the user (`refuse_deleted.sql`). First
the user's runs end, the running ones as by a cancel: nobody who worked for them can write any more then, because each
write asks the run's row for the attempt, and finds it over or gone. Then table after table is emptied, in short
transactions, and last the row itself goes. What a leader that dies has not done, the next one does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice, takewhile

import structlog
from sqlalchemy import LargeBinary, Row, delete, exists, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared import audit
from shared.events import iso
from shared.models import SCHEMA, AuditEntry, Base, Deletion, Run
from shared.redis import RedisError
from shared.repairs import LOCK_TIMEOUT_S, one_by_one
from shared.services import Services
from shared.states import LIVE, ExecutionState

DELETED = "user.delete"  # the audit record of the end
# A token from before a deletion must not be good for a new user of the same id: its revocation stays.
KEPT = {"audit_log", "revocations", "deletions"}
TABLES = [t for t in reversed(Base.metadata.sorted_tables) if "user_id" in t.columns and t.name not in KEPT]
ROWS = 500  # in a transaction
FILES = 10  # in a transaction; one may have 32 MiB
MOST_S = 2.0  # in a sweep: its leader has other things to do
MOST_USERS = 100  # in a sweep
KEYS = 1000  # of Redis at once
# Gateways that follow the user's stream see within `api.gateway.hub.SWEEP_S` that it is gone, and forget its frames.
# Who has the id next begins a stream at 1: until then they would take its events for old ones.
SETTLE_S = 5.0

_ALONE = text("SELECT pg_advisory_xact_lock(hashtextextended('deletion:' || :user_id, 0))")  # see `refuse_deleted.sql`
_UNSYNCED = {"synchronize_session": False}

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a deletion has come.

    Args:
        finished_at: None: it goes on.
        live_runs: that have not ended yet.
        removed: how many rows are gone, by table.
    """

    requested_at: str | None
    finished_at: str | None
    live_runs: int
    removed: Mapping[str, int]


def begin(session: Session, user_id: str) -> None:
    """Has a user deleted; one whose deletion is under way is deleted by that. Writers from before have committed then.

    Raises:
        BusyError: one of them takes long.
    """
    session.execute(_ALONE, {"user_id": user_id})
    session.execute(insert(Deletion).values(user_id=user_id).on_conflict_do_nothing())


def progress(session: Session, user_id: str) -> Progress | None:
    """Returns how far the user's deletion is; if none is under way, how the last one ended; None if there was none."""
    # What has ended is known from the audit trail alone: nothing else remains.
    deletion = session.scalars(select(Deletion).where(Deletion.user_id == user_id)).one_or_none()
    if deletion is not None:
        live = select(func.count()).where(Run.user_id == user_id, Run.status.in_(LIVE))
        return Progress(iso(deletion.requested_at), None, session.scalar(live) or 0, deletion.removed)
    ends = select(AuditEntry.at, AuditEntry.detail).where(AuditEntry.user_id == user_id, AuditEntry.action == DELETED)
    end = session.execute(ends.order_by(AuditEntry.id.desc()).limit(1)).one_or_none()
    return None if end is None else Progress(end.detail["requested_at"], iso(end.at), 0, end.detail["removed"])


class Deletions:
    """What one leader deletes; several at once, or a new one, change nothing wrong."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._database = services.database

    def work_off(self) -> None:
        """Goes on with the deletions that are under way, for about two seconds.

        Raises:
            UnavailableError: Postgres is away.
        """
        until = time.monotonic() + MOST_S
        with self._database.system_session() as session:
            users = session.scalars(select(Deletion.user_id).order_by(func.random()).limit(MOST_USERS)).all()
        in_time = takewhile(lambda user_id: user_id is users[0] or time.monotonic() < until, users)
        one_by_one(in_time, partial(self._go_on, until))

    def _go_on(self, until: float, user_id: str) -> None:
        try:
            while self.step(user_id) and time.monotonic() < until:
                pass
        except RedisError as error:
            log.warning("a deletion waits: redis is away", error=str(error))

    def step(self, user_id: str) -> bool:
        """Does, in one transaction, the next thing that can be done; True if another one can follow at once.

        Raises:
            UnavailableError: Postgres is away.
            BusyError: others hold the user's rows.
            redis.RedisError: Redis is away, and nothing else is left to do.
        """
        with self._database.user_session(user_id, lock_timeout_s=LOCK_TIMEOUT_S) as session:
            own = select(Deletion).where(Deletion.user_id == user_id)
            deletion = session.scalars(own.with_for_update(skip_locked=True)).one_or_none()
            if deletion is None:
                return False  # done, or another leader is at it
            finishing = False
            ended, stopping = _end_queued(session, user_id), _cancel_running(session, user_id)
            if session.scalar(select(exists().where(Run.user_id == user_id, Run.status.in_(LIVE)))):
                again = ended == ROWS
            elif (gone := _remove_some(session, user_id)) is not None:
                table, rows = gone
                deletion.removed = deletion.removed | {table: deletion.removed.get(table, 0) + rows}
                deletion.emptied_at = None
                again = True
            else:
                finishing = _settle(session, deletion)
                again = False
        for run in stopping:
            self._services.tell_worker(run.worker_id, run.id, run.attempt)
        if finishing:
            self._finish(user_id)
        return again

    def _finish(self, user_id: str) -> None:
        """Clears Redis and records the end."""
        with self._database.user_session(user_id, lock_timeout_s=LOCK_TIMEOUT_S) as session:
            own = delete(Deletion).where(Deletion.user_id == user_id)
            gone = session.execute(own.returning(Deletion.requested_at, Deletion.removed)).one_or_none()
            if gone is None:  # another leader was faster; the id may be a new user's
                return
            self._clear_redis(user_id)  # until the commit nothing new comes, and no other leader gets here
            detail = {"requested_at": iso(gone.requested_at), "removed": gone.removed}
            audit.record(session, user_id=user_id, actor="leader", action=DELETED, target=user_id, detail=detail)
        log.info("a user is deleted", user_id=user_id, removed=gone.removed)

    def _clear_redis(self, user_id: str) -> None:
        names = self._services.redis.scan_iter(self._services.keys.all_of(user_id), count=KEYS)
        while some := list(islice(names, KEYS)):
            self._services.redis.unlink(*some)


def _end_queued(session: Session, user_id: str) -> int:
    """Ends some runs that wait; no event tells of it, and no record: their rows go next. Returns how many."""
    queued = select(Run.id).where(Run.user_id == user_id, Run.status == ExecutionState.QUEUED)
    some = queued.order_by(Run.id).limit(ROWS).with_for_update(key_share=True, skip_locked=True).scalar_subquery()
    ended = update(Run).where(Run.user_id == user_id, Run.id.in_(some))
    values = {"status": ExecutionState.CANCELLED, "finished_at": func.clock_timestamp()}
    return len(session.execute(ended.values(values).returning(Run.id), execution_options=_UNSYNCED).all())


def _cancel_running(session: Session, user_id: str) -> Sequence[Row[str, str | None, int]]:
    """Stores the intent to cancel of those runs that have none; returns them."""
    running = Run.status == ExecutionState.RUNNING
    own = select(Run.id).where(Run.user_id == user_id, running, Run.cancel_requested_at.is_(None))
    some = own.order_by(Run.id).with_for_update(key_share=True, skip_locked=True).scalar_subquery()
    asked = update(Run).where(Run.user_id == user_id, Run.id.in_(some))
    values = {"cancel_requested_at": func.clock_timestamp()}
    returned = asked.values(values).returning(Run.id, Run.worker_id, Run.attempt)
    return session.execute(returned, execution_options=_UNSYNCED).all()


def _settle(session: Session, deletion: Deletion) -> bool:
    """Notes since when nothing is left in Postgres; tells whether by now nobody remembers any of what was removed."""
    if not deletion.removed:
        return True
    own = Deletion.user_id == deletion.user_id
    settled = Deletion.emptied_at < func.clock_timestamp() - timedelta(seconds=SETTLE_S)
    if deletion.emptied_at is None:
        session.execute(update(Deletion).where(own).values(emptied_at=func.clock_timestamp()))
    return bool(session.scalar(select(settled).where(own)))


def _remove_some(session: Session, user_id: str) -> tuple[str, int] | None:
    """Removes rows of the first table that has any; returns its name and how many, None if no table has."""
    for table in TABLES:
        has_files = any(isinstance(column.type, LargeBinary) for column in table.columns)
        name = f"{SCHEMA}.{table.name}"
        some = f"SELECT ctid FROM {name} WHERE user_id = :user_id LIMIT :most"  # noqa: S608 - a name from the models
        statement = f"DELETE FROM {name} WHERE ctid = ANY (ARRAY({some})) RETURNING 1"  # noqa: S608
        rows = session.execute(text(statement), {"user_id": user_id, "most": FILES if has_files else ROWS}).all()
        if rows:
            return table.name, len(rows)
    return None
