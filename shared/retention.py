"""Removes what is past retention, little by little: ended runs with all that is theirs, and empty threads."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import takewhile

from sqlalchemy import ColumnElement, Delete, Exists, delete, exists, func, select, tuple_, update
from sqlalchemy.orm import Session

from shared.database import Database
from shared.models import AgentState, Base, IdempotencyKey, Run, RunEvent, Thread, UserStream
from shared.repairs import LOCK_TIMEOUT_S, one_by_one

MAX_RUNS = 500
MAX_EVENTS = 20_000  # in a transaction, but for a single run that has more
MOST_S = 2.0  # for the runs of a call: its leader has other things to do
THREADS_LOOKED_AT = 1000  # in a call; they are gone through in order


@dataclass(frozen=True)
class Removed:
    """How many rows went.

    Args:
        more: whether there may be more to remove at once.
    """

    runs: int = 0
    events: int = 0
    threads: int = 0
    more: bool = False


@dataclass
class _Batch:
    """Runs of one user that go in one transaction."""

    user_id: str
    events: int = 0
    run_ids: list[str] = field(default_factory=list)


class Retention:
    """What one leader removes; several at once, or a new one, change nothing wrong.

    Documents, the audit trail and the head of each user's stream stay.

    Args:
        retention_days: how long an ended run is kept, from its end.
    """

    def __init__(self, database: Database, retention_days: float) -> None:
        self._database = database
        self._age = timedelta(days=retention_days)
        self._looked_at = ("", "")  # the thread at which the next call goes on

    def remove_old(self, limit: int = MAX_RUNS) -> Removed:
        """Removes up to `limit` runs, the oldest first, in short transactions, each of one user; for about two seconds.

        With a run go its steps, artifacts, state, idempotency key and events; the user's stream begins later then, and
        a cursor before that is told so. A thread goes with its memory when its last run goes, or if it never had one
        and is as old. Call it again soon while it removes `limit` runs.

        Raises:
            UnavailableError: Postgres is away.
        """
        until = time.monotonic() + MOST_S
        batches = self._ended(limit)
        in_time = takewhile(lambda batch: batch is batches[0] or time.monotonic() < until, batches)
        removed = one_by_one(in_time, self._of_user)
        threads = sum(item.threads for item in removed) + self._empty_threads()
        runs = sum(item.runs for item in removed)
        more = runs == limit or len(removed) < len(batches)
        return Removed(runs, sum(item.events for item in removed), threads, more=more)

    def _ended(self, limit: int) -> list[_Batch]:
        query = select(Run.user_id, Run.id, Run.last_run_seq).where(Run.finished_at < self._past())
        batches: list[_Batch] = []
        last: dict[str, _Batch] = {}  # of each user
        with self._database.system_session() as session:
            for user_id, run_id, events in session.execute(query.order_by(Run.finished_at).limit(limit)):
                batch = last.get(user_id)
                if batch is None or batch.events + events > MAX_EVENTS:
                    batch = last[user_id] = _Batch(user_id)
                    batches.append(batch)
                batch.run_ids.append(run_id)
                batch.events += events
        return batches

    def _of_user(self, batch: _Batch) -> Removed:
        user_id, run_ids = batch.user_id, batch.run_ids
        # As everywhere: runs in the order of their ids, then the stream.
        with self._database.user_session(user_id, lock_timeout_s=LOCK_TIMEOUT_S) as session:
            query = select(Run.id, Run.thread_id).where(Run.user_id == user_id, Run.id.in_(run_ids)).order_by(Run.id)
            runs = session.execute(query.with_for_update(skip_locked=True)).all()
            if not runs:
                return Removed()  # another leader has them
            ours = [run.id for run in runs]
            for table in (IdempotencyKey, AgentState):  # steps and artifacts go with their run by themselves
                session.execute(_delete(table, table.user_id == user_id, table.run_id.in_(ours)))
            session.execute(_delete(Run, Run.user_id == user_id, Run.id.in_(ours)))
            threads = _remove_threads(session, user_id, {run.thread_id for run in runs})
            return Removed(len(ours), _trim(session, user_id, ours), threads)

    def _empty_threads(self) -> int:
        """Looks at the next threads for such as never had a run and are past retention."""
        place = tuple_(Thread.user_id, Thread.id)
        query = select(Thread.user_id, Thread.id, Thread.created_at < self._past(), ~_has_runs())
        with self._database.system_session() as session:
            found = session.execute(
                query.where(place > self._looked_at).order_by(Thread.user_id, Thread.id).limit(THREADS_LOOKED_AT)
            ).all()
        self._looked_at = (found[-1].user_id, found[-1].id) if len(found) == THREADS_LOOKED_AT else ("", "")
        by_user: dict[str, set[str]] = defaultdict(set)
        for user_id, thread_id, old, empty in found:
            if old and empty:
                by_user[user_id].add(thread_id)
        return sum(one_by_one(by_user.items(), self._remove_threads))

    def _remove_threads(self, empty: tuple[str, set[str]]) -> int:
        user_id, threads = empty
        with self._database.user_session(user_id, lock_timeout_s=LOCK_TIMEOUT_S) as session:
            return _remove_threads(session, user_id, threads)

    def _past(self) -> ColumnElement[datetime]:
        return func.now() - self._age


def _remove_threads(session: Session, user_id: str, thread_ids: set[str]) -> int:
    """Removes those of the threads that have no run; returns how many."""
    ours = (Thread.user_id == user_id, Thread.id.in_(thread_ids))
    locked = session.scalars(select(Thread.id).where(*ours).with_for_update(skip_locked=True)).all()
    # Looked at once they are locked: a run that was being accepted into one is there by now, and no other can come.
    gone = _delete(Thread, Thread.user_id == user_id, Thread.id.in_(locked), ~_has_runs()).returning(Thread.id)
    return len(session.scalars(gone).all())


def _trim(session: Session, user_id: str, run_ids: Sequence[str]) -> int:
    """Removes the events of runs that are gone; returns how many."""
    removed = _delete(RunEvent, RunEvent.user_id == user_id, RunEvent.run_id.in_(run_ids)).returning(RunEvent.seq)
    seqs = session.scalars(removed).all()
    if not seqs:
        return 0
    stream = update(UserStream).where(UserStream.user_id == user_id)
    trimmed = session.scalar(
        stream.values(trimmed=func.greatest(UserStream.trimmed, max(seqs))).returning(UserStream.trimmed)
    )
    # Deleted threads have left emptied events behind: those before here are as old. The rest goes the next time.
    left = exists().where(Run.user_id == RunEvent.user_id, Run.id == RunEvent.run_id)
    some = select(RunEvent.seq).where(RunEvent.user_id == user_id, RunEvent.seq <= trimmed, ~left).limit(MAX_EVENTS)
    emptied = _delete(RunEvent, RunEvent.user_id == user_id, RunEvent.seq.in_(some)).returning(RunEvent.seq)
    return len(seqs) + len(session.scalars(emptied).all())


def _delete(table: type[Base], *conditions: ColumnElement[bool]) -> Delete:
    return delete(table).where(*conditions).execution_options(synchronize_session=False)


def _has_runs() -> Exists:
    return exists().where(Run.user_id == Thread.user_id, Run.thread_id == Thread.id)
