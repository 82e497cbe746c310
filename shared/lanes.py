"""A user's lane in Postgres: what may start next, what holds a slot, and who is told where they stand.

Each function is one statement, in the caller's transaction; see `shared.dispatch` for how they work together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import text

from shared.context import UserExecutionContext
from shared.database import Executor
from shared.event_types import EventType
from shared.events import Event, StoredEvent
from shared.messages import RunMessage
from shared.slots import member, run_of

_NEXT = text("SELECT * FROM next_runs(:user_id, :slots)")
_GRANT = text("""
    WITH locked AS MATERIALIZED ( -- in the order in which all locks are taken
        SELECT r.id FROM runs r
        WHERE r.user_id = :user_id AND r.id = ANY (:run_ids) AND r.id || ':' || (r.attempt + 1)::text = ANY (:members)
            AND r.status = 'queued' AND r.granted_at IS NULL
            AND (r.not_before IS NULL OR r.not_before <= clock_timestamp())
        ORDER BY r.id FOR NO KEY UPDATE
    )
    UPDATE runs r SET granted_at = clock_timestamp(), sent_at = clock_timestamp(), sends = 1
    FROM locked l WHERE r.user_id = :user_id AND r.id = l.id
    RETURNING r.context, r.attempt, r.queue, r.created_at, r.id
""")
_HOLDERS = text("""
    SELECT id, attempt FROM runs WHERE user_id = :user_id AND status = 'running'
    UNION ALL
    SELECT id, attempt + 1 FROM runs WHERE user_id = :user_id AND status = 'queued' AND granted_at IS NOT NULL
""")
_TELL = text("SELECT * FROM tell_positions(:user_id, :slots)")
_PARK = text("""
    UPDATE runs SET granted_at = NULL, sent_at = NULL
    WHERE user_id = :user_id AND id = :run_id AND attempt = :attempt AND status = 'queued' AND granted_at IS NOT NULL
    RETURNING id
""")


class NextRuns(NamedTuple):
    """What may start next of a user.

    Args:
        members: the slots that its runs would hold, oldest run first.
        slots: the user's limit.
        tell: whether others stay parked and may be told their new place.
    """

    members: list[str]
    slots: int
    tell: bool


def next_runs(executor: Executor, user_id: str, slots: int) -> NextRuns:
    """Returns the user's oldest parked runs that wait for a slot alone, as many as the user may have in progress.

    Args:
        slots: the limit of a user who has none of their own.
    """
    rows = list(executor.execute(_NEXT, {"user_id": user_id, "slots": slots}))
    if not rows:
        return NextRuns([], slots, tell=False)
    return NextRuns([member(row.id, row.attempt) for row in rows], rows[0].slots, rows[0].tell)


def grant(executor: Executor, user_id: str, members: Sequence[str]) -> list[tuple[RunMessage, str]]:
    """Marks parked runs as granted; returns the message for each one that this call marked, with its queue.

    Args:
        members: the slots that are held for them. An attempt that is not the next one any more, or that has to wait, is
            left out.
    """
    wanted = {"user_id": user_id, "run_ids": [run_of(name) for name in members], "members": list(members)}
    rows = executor.execute(_GRANT, wanted)
    ordered = sorted(rows, key=lambda row: (row.created_at, row.id))
    return [(RunMessage(UserExecutionContext.from_dict(row.context), row.attempt), row.queue) for row in ordered]


def park(executor: Executor, message: RunMessage) -> bool:
    """Takes a grant back: the run waits for a slot again. False if it was claimed, granted no more, or ended."""
    context = message.context
    values = {"user_id": context.user_id, "run_id": context.run_id, "attempt": message.attempt}
    return bool(list(executor.execute(_PARK, values)))


def holders(executor: Executor, user_id: str) -> set[str]:
    """Returns the members of all slots that the user's runs have a right to: of the granted and the running."""
    return {member(row.id, row.attempt) for row in executor.execute(_HOLDERS, {"user_id": user_id})}


def tell_positions(executor: Executor, user_id: str, slots: int) -> list[StoredEvent]:
    """Stores `run_position` for those of the user's first ten parked runs that have moved, at most once a second.

    Args:
        slots: the limit of a user who has none of their own.
    """
    rows = executor.execute(_TELL, {"user_id": user_id, "slots": slots})
    return [
        StoredEvent(
            Event(user_id, row.run_id, row.attempt, EventType.RUN_POSITION, row.agent, row.data),
            row.seq, row.run_seq, row.thread_id, row.correlation_id, row.at,
        )
        for row in rows
    ]  # fmt: skip
