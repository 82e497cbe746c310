"""Slots held against live runs: what Redis counts beside what Postgres knows, for all users at one moment."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared.models import Run, UserLimit, UserStream
from shared.redis import RedisError
from shared.services import Services
from shared.slots import member
from shared.states import ExecutionState

MAX_SCANS = 1000  # round trips through the names of a Redis that others may fill, too
SCAN_COUNT = 1000
BATCH = 500

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class UserSlots:
    """One user's slots and live runs.

    Args:
        user_id: None: nobody that Postgres knows, by `key`.
        key: of the slots in Redis.
        limit: how many runs may be in progress.
        held: members of the slots, `run:attempt`; None: Redis does not answer.
        granted: runs that have a slot and no worker yet.
        running: runs that a worker has.
        parked: runs that wait for a slot.
        leaked: slots of no live run.
        missing: slots that live runs should hold and don't.
    """

    user_id: str | None
    key: str
    limit: int
    held: tuple[str, ...] | None
    granted: int = 0
    running: int = 0
    parked: int = 0
    leaked: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """All users with live runs or slots.

    Args:
        users: known ones by id, then slots of nobody.
        redis: whether Redis answered.
        complete: whether all keys of Redis were looked at; else there may be more slots without a run.
    """

    users: tuple[UserSlots, ...]
    redis: bool
    complete: bool

    @property
    def leaked(self) -> int:
        """Slots of no live run."""
        return sum(len(user.leaked) for user in self.users)

    @property
    def missing(self) -> int:
        """Slots that live runs should hold and don't."""
        return sum(len(user.missing) for user in self.users)

    @property
    def held(self) -> int | None:
        """Slots; None: Redis does not answer."""
        return sum(len(user.held or ()) for user in self.users) if self.redis else None


def survey(services: Services) -> Survey:
    """Compares all slots with all live runs.

    Slots and runs change while they are read. What differs is read in Redis once more; what differs still is a run that
    just begins or ends, or a difference that the leases and the leader are about to end.

    Raises:
        UnavailableError: Postgres is away.
    """
    try:
        first, complete = _all_slots(services)
    except RedisError as error:
        log.warning("slots cannot be compared: redis is away", error=str(error))
        return Survey(tuple(_known_users(services, None)), redis=False, complete=False)
    users = _known_users(services, first)
    users += _strangers(services, first, {user.key for user in users})
    try:
        users = _confirmed(services, users)
    except RedisError as error:
        log.warning("slots are compared by one reading only: redis went away", error=str(error))
    return Survey(tuple(users), redis=True, complete=complete)


def _known_users(services: Services, slots: dict[str, tuple[str, ...]] | None) -> list[UserSlots]:
    """Returns the users with live runs, by id."""
    with services.database.system_session() as session:
        expected, parked = _expected(session), _parked(session)
        ids = sorted(expected.keys() | parked.keys())
        limits = _limits(session, ids, services.settings.user_concurrent_runs)
    users = []
    for user_id in ids:
        key = services.keys.slots(user_id)
        running = sum(expected[user_id].values())
        users.append(
            _compare(
                UserSlots(
                    user_id=user_id,
                    key=key,
                    limit=limits[user_id],
                    held=None if slots is None else slots.get(key, ()),
                    granted=len(expected[user_id]) - running,
                    running=running,
                    parked=parked.get(user_id, 0),
                ),
                expected[user_id],
            )
        )
    return users


def _compare(user: UserSlots, expected: Iterable[str]) -> UserSlots:
    if user.held is None:
        return user
    held, due = set(user.held), set(expected)
    return _with(user, leaked=held - due, missing=due - held)


def _with(user: UserSlots, *, leaked: Iterable[str], missing: Iterable[str]) -> UserSlots:
    return UserSlots(**{**vars(user), "leaked": tuple(sorted(leaked)), "missing": tuple(sorted(missing))})


def _expected(session: Session) -> dict[str, dict[str, bool]]:
    """Returns the slots that should be held, by user, each with whether its run is running."""
    granted = (Run.status == ExecutionState.QUEUED) & Run.granted_at.is_not(None)
    query = select(Run.user_id, Run.id, Run.attempt, Run.status).where((Run.status == ExecutionState.RUNNING) | granted)
    found: dict[str, dict[str, bool]] = defaultdict(dict)
    for row in session.execute(query):
        running = row.status == ExecutionState.RUNNING
        found[row.user_id][member(row.id, row.attempt if running else row.attempt + 1)] = running
    return found


def _parked(session: Session) -> dict[str, int]:
    waiting = (Run.status == ExecutionState.QUEUED) & Run.granted_at.is_(None)
    query = select(Run.user_id, func.count()).where(waiting).group_by(Run.user_id)
    return dict(session.execute(query).all())


def _limits(session: Session, ids: Sequence[str], default: int) -> dict[str, int]:
    query = select(UserLimit.user_id, UserLimit.concurrent_runs).where(UserLimit.concurrent_runs.is_not(None))
    own: dict[str, int | None] = dict(session.execute(query).all())
    return {user_id: own.get(user_id) or default for user_id in ids}


def _strangers(services: Services, slots: dict[str, tuple[str, ...]], known: set[str]) -> list[UserSlots]:
    """Returns those who have slots and no live run; all their slots are leaked."""
    digests = {re.findall(r"{(\w+)}", key)[0]: key for key, held in slots.items() if held and key not in known}
    if not digests:
        return []
    digest = func.left(func.encode(func.sha256(func.convert_to(UserStream.user_id, "UTF8")), "hex"), 32)
    with services.database.system_session() as session:
        query = select(UserStream.user_id).where(digest.in_(list(digests)))
        ids = sorted(session.scalars(query))
        limits = _limits(session, ids, services.settings.user_concurrent_runs)
    named: dict[str, str | None] = {services.keys.slots(user_id): user_id for user_id in ids}
    return [
        UserSlots(
            user_id=(user_id := named.get(key)),
            key=key,
            limit=limits.get(user_id or "", services.settings.user_concurrent_runs),
            held=slots[key],
            leaked=slots[key],
        )
        for key in (*named, *(key for key in sorted(digests.values()) if key not in named))
    ]


def _confirmed(services: Services, users: list[UserSlots]) -> list[UserSlots]:
    """Drops differences that a second reading does not show."""
    again = _read(services, [user.key for user in users if user.leaked or user.missing])
    return [
        _with(user, leaked=set(user.leaked) & again[user.key], missing=set(user.missing) - again[user.key])
        if user.key in again
        else user
        for user in users
    ]


def _all_slots(services: Services) -> tuple[dict[str, tuple[str, ...]], bool]:
    """Returns the members of all slots by key, and whether every key was looked at."""
    keys: set[str] = set()
    cursor = 0
    for _ in range(MAX_SCANS):
        cursor, found = services.redis.scan(cursor, match=services.keys.all_slots, count=SCAN_COUNT)
        keys.update(map(str, found))
        if cursor == 0:
            break
    return {key: tuple(sorted(held)) for key, held in _read(services, sorted(keys)).items()}, cursor == 0


def _read(services: Services, keys: Sequence[str]) -> dict[str, set[str]]:
    """Returns the members of these slots whose lease has not ended, on the clock of Redis."""
    found: dict[str, set[str]] = {}
    for start in range(0, len(keys), BATCH):
        batch = keys[start : start + BATCH]
        seconds, micros = services.redis.time()
        with services.redis.pipeline(transaction=False) as pipeline:
            for key in batch:
                pipeline.zrangebyscore(key, f"({seconds + micros / 1e6}", "(+inf")
            found |= {key: set(map(str, held)) for key, held in zip(batch, pipeline.execute(), strict=True)}
    return found
