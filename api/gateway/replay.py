"""What a client that comes (back) is told first: the events after its cursor, or a snapshot and why not."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy.orm import Session

from api.reading import RunReader
from shared.database import Database
from shared.events import head as stream_head
from shared.events import read_stream, trimmed_to
from shared.states import LIVE

PAGE = 500
SNAPSHOT_LIVE = 200
SNAPSHOT_RECENT = 20


@dataclass(frozen=True)
class Opening:
    """How a stream begins.

    Args:
        position: the `seq` after which events follow.
        welcome: what the welcome frame says about it.
    """

    position: int
    welcome: dict[str, Any]


class Replay:
    """Reads one user's log for one connection.

    Args:
        database: where the log is.
        user_id: whose.
        runs: for the snapshot.
    """

    def __init__(self, database: Database, user_id: str, runs: RunReader) -> None:
        self._database = database
        self._user_id = user_id
        self._runs = runs

    def open(self, after: int | None) -> Opening:
        """Decides whether the client can go on after `after`; else it gets a snapshot as of the head.

        Raises:
            UnavailableError: Postgres is away.
        """
        with self._database.user_session(self._user_id, repeatable=True) as session:
            head = stream_head(session, self._user_id)  # all that is read here is as of this head, without any lock
            reason = None if after is None else self._obstacle(session, after, head)
            welcome: dict[str, Any]
            if after is not None and reason is None:
                welcome = {"head": head, "recovered": True, "reason": None, "replay": head - after, "snapshot": None}
                return Opening(after, welcome)
            snapshot = {"runs": self._snapshot(session)}
            welcome = {"head": head, "recovered": after is None, "reason": reason, "replay": 0, "snapshot": snapshot}
            return Opening(head, welcome)

    def read(self, after: int) -> list[dict[str, Any]]:
        """Returns the next page of events."""
        with self._database.user_session(self._user_id) as session:
            return read_stream(session, self._user_id, after, PAGE)

    def _obstacle(self, session: Session, after: int, head: int) -> str | None:
        if after > head:
            return "ahead"
        return "trimmed" if after < trimmed_to(session, self._user_id) else None

    def _snapshot(self, session: Session) -> list[dict[str, Any]]:
        live, _ = self._runs.page(session, self._user_id, SNAPSHOT_LIVE, statuses=list(LIVE))
        recent, _ = self._runs.page(session, self._user_id, SNAPSHOT_RECENT)
        return sorted({run["id"]: run for run in (*live, *recent)}.values(), key=itemgetter("id"), reverse=True)
