"""The event log: numbered and stored in Postgres first, published to Redis after."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

import redis
from sqlalchemy import Row, Select, Text, cast, func, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from shared import audit
from shared.audit import Deed
from shared.database import Executor
from shared.event_types import EventType
from shared.models import Run, RunEvent, UserStream
from shared.redis import Keys
from shared.states import ExecutionState

MAX_MESSAGE_BYTES = 256 * 1024  # Redis cuts off a subscriber for whom 32 MiB wait
MAX_PAGE_BYTES = 1024 * 1024  # of data; a page of the log ends where its events reach it

_APPEND = text("""
    SELECT e.*, record_audit(CASE WHEN e.seq IS NOT NULL THEN CAST(:records AS jsonb) -> CAST(e.n AS text) END)
    FROM append_events(CAST(:events AS jsonb)) e
""")

TERMINAL = {
    ExecutionState.COMPLETED: EventType.RUN_COMPLETED,
    ExecutionState.FAILED: EventType.RUN_FAILED,
    ExecutionState.CANCELLED: EventType.RUN_CANCELLED,
    ExecutionState.TIMED_OUT: EventType.RUN_TIMED_OUT,
}


class Attempt(NamedTuple):
    """One attempt of a run: whoever is late with what belongs to it must not touch the next one's."""

    run_id: str
    number: int


@dataclass(frozen=True)
class Event:
    """Something that happened in one attempt of a run, not yet numbered.

    Args:
        data: JSON, at most 64 KiB.
        ordinal: of a sandbox's event: the how-manieth of its attempt, from 1, so that none is stored twice.
        deed: what the audit trail is to say of it, if the event is stored.
    """

    user_id: str
    run_id: str
    attempt: int
    type: EventType
    agent: str
    data: dict[str, Any] = field(default_factory=dict)
    ordinal: int | None = None
    deed: Deed | None = None

    @property
    def of(self) -> Attempt:
        """Whose event it is."""
        return Attempt(self.run_id, self.attempt)

    @cached_property
    def size(self) -> int:
        """Bytes of its data as JSON."""
        return len(json.dumps(self.data))


@dataclass(frozen=True)
class StoredEvent:
    """An event with its numbers, as the log has it."""

    event: Event
    seq: int
    run_seq: int
    thread_id: str
    correlation_id: str
    at: datetime

    def view(self) -> dict[str, Any]:
        """Returns the public form, the same over REST, SSE and WebSocket."""
        return _view(self, self.event)


class Appended(NamedTuple):
    """What became of a batch of events.

    Args:
        stored: those that this call stored. What an earlier call had stored, whose answer was lost, is not among them.
        refused: attempts that are over: nothing of theirs was stored.
    """

    stored: list[StoredEvent]
    refused: set[Attempt]


def append(executor: Executor, events: Sequence[Event]) -> Appended:
    """Stores events in the present transaction and gives them their numbers.

    Args:
        executor: a session of the events' one user, or a system session.
        events: in the order of their emission.
    """
    if not events:
        return Appended([], set())
    rows = list(executor.execute(_APPEND, {"events": to_json(events), "records": records(executor, events)}))
    taken = {events[row.n].of for row in rows}
    return Appended(numbered(events, rows), {event.of for event in events} - taken)


def to_json(events: Sequence[Event]) -> str:
    """Returns events as the database functions take them."""
    items = [
        {"n": n, "user_id": e.user_id, "run_id": e.run_id, "attempt": e.attempt, "type": e.type, "agent": e.agent,
         "data": e.data, "ordinal": e.ordinal}
        for n, e in enumerate(events)
    ]  # fmt: skip
    return json.dumps(items)


def records(recorder: audit.Recorder, events: Sequence[Event]) -> str:
    """Returns the signed audit records of those events that have one, by their number in `to_json`."""
    return audit.by_number(recorder, [event.deed for event in events])


def numbered(events: Sequence[Event], rows: Iterable[Row[Any]]) -> list[StoredEvent]:
    """Returns the events that were stored, with the numbers that the database answered."""
    return [
        StoredEvent(events[r.n], r.seq, r.run_seq, r.thread_id, r.correlation_id, r.at)
        for r in rows
        if r.seq is not None
    ]


def publish(client: redis.Redis, keys: Keys, stored: Iterable[StoredEvent]) -> None:
    """Sends committed events to their users' channels, as JSON arrays in the order of `seq`.

    A message has at most 256 KiB, or a single event.

    Raises:
        redis.RedisError: subscribers will find the events in the log when they compare heads.
    """
    by_user: dict[str, list[str]] = {}
    for item in stored:
        by_user.setdefault(item.event.user_id, []).append(json.dumps(item.view(), separators=(",", ":")))
    if by_user:
        with client.pipeline(transaction=False) as pipeline:
            for user_id, views in by_user.items():
                for message in _messages(views):
                    pipeline.publish(keys.events(user_id), message)
            pipeline.execute()


def _messages(views: Iterable[str]) -> Iterator[str]:
    together: list[str] = []
    size = 1  # of the brackets and commas there is one more than views
    for view in views:
        if together and size + len(view) + 1 > MAX_MESSAGE_BYTES:
            yield f"[{','.join(together)}]"
            together, size = [], 1
        together.append(view)
        size += len(view) + 1
    yield f"[{','.join(together)}]"


def head(session: Session, user_id: str) -> int:
    """Returns the last `seq` given to the user, 0 before the first."""
    return session.scalar(select(UserStream.head).where(UserStream.user_id == user_id)) or 0


def trimmed_to(session: Session, user_id: str) -> int:
    """Returns the `seq` up to which events of the user were removed; some before it may be there still."""
    return session.scalar(select(UserStream.trimmed).where(UserStream.user_id == user_id)) or 0


def last_run_seq(session: Session, user_id: str, run_id: str) -> int:
    """Returns the `run_seq` of the run's last event, 0 if there is no such run."""
    query = select(Run.last_run_seq).where(Run.user_id == user_id, Run.id == run_id)
    return session.scalar(query) or 0


def read_stream(session: Session, user_id: str, after: int, limit: int) -> list[dict[str, Any]]:
    """Returns the public form of the user's events with `seq` above `after`, in order; fewer if they are large."""
    query = select(RunEvent).where(RunEvent.user_id == user_id, RunEvent.seq > after)
    return _page(session, query, RunEvent.seq, limit)


def read_run(session: Session, user_id: str, run_id: str, after: int, limit: int) -> list[dict[str, Any]]:
    """Returns the public form of one run's events with `run_seq` above `after`, in order; fewer if they are large."""
    query = select(RunEvent).where(RunEvent.user_id == user_id, RunEvent.run_id == run_id, RunEvent.run_seq > after)
    return _page(session, query, RunEvent.run_seq, limit)


def iso(moment: datetime | None) -> str | None:
    """Returns RFC 3339 in UTC with milliseconds, as all public times are."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _page(
    session: Session, query: Select[RunEvent], number: InstrumentedAttribute[int], limit: int
) -> list[dict[str, Any]]:
    """Returns the first events of a query, at least one if there are any."""
    rows = aliased(RunEvent, query.order_by(number).limit(limit).subquery())
    size = func.octet_length(cast(rows.data, Text))
    sized = select(rows, func.sum(size).over(order_by=rows.seq, rows=(None, -1)).label("bytes_before")).subquery()
    event = aliased(RunEvent, sized)
    fitting = select(event).where(func.coalesce(sized.c.bytes_before, 0) < MAX_PAGE_BYTES).order_by(event.seq)
    return [_view(row, row) for row in session.scalars(fitting)]


def _view(numbers: StoredEvent | RunEvent, event: Event | RunEvent) -> dict[str, Any]:
    return {
        "t": "event",
        "seq": numbers.seq,
        "run_id": event.run_id,
        "run_seq": numbers.run_seq,
        "thread_id": numbers.thread_id,
        "attempt": event.attempt,
        "type": str(event.type),
        "agent": event.agent,
        "at": iso(numbers.at),
        "correlation_id": numbers.correlation_id,
        "data": event.data,
    }
