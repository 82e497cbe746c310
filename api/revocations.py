"""Revoked users: whose tokens are refused that were issued up to a moment. Postgres has them, each process knows them.

To look each token up would cost every request a round trip. So a process reads all revocations once, and then the new
ones twice a second, in one look-up of an index: a request asks its memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from sqlalchemy import text

from shared.database import Database
from shared.errors import UnauthorizedError
from shared.loop import Loop
from shared.tokens import Identity

TICK_S = 0.5
MAX_KNOWN = 100_000  # users; about 25 MB
OVERLAP = timedelta(minutes=5)  # a transaction that commits late has a `revoked_at` from before others were read
REVOKED = "the token was revoked; sign in again"
_NEW = text("""
    SELECT r.user_id, r.revoked_at, now() AS read_at
    FROM (SELECT 1) AS once LEFT JOIN revocations r ON r.revoked_at >= CAST(:since AS timestamptz)
    ORDER BY r.revoked_at DESC NULLS LAST LIMIT :most
""")
_OF_USER = text("SELECT revoked_at FROM revocations WHERE user_id = :user_id")


class Revocations(Loop):
    """Checks identities, and has the connections of a revoked user ended.

    Args:
        end: called with a user and a moment, again and again for some minutes: connections of tokens that were issued
            up to then are to end, whenever they were opened.
        most: how many users are kept in memory; of others, old tokens are looked up one by one.
    """

    name: ClassVar[str] = "revocations"

    def __init__(self, database: Database, end: Callable[[str, datetime], None], most: int = MAX_KNOWN) -> None:
        super().__init__(TICK_S)
        self._database = database
        self._end = end
        self._most = most
        self._lock = threading.Lock()
        self._beginning = threading.Lock()
        self._known: dict[str, datetime] = {}  # the longest unchanged first
        self._floor = datetime.min.replace(tzinfo=UTC)  # all revocations after it are known
        self._read_at: datetime | None = None

    def check(self, identity: Identity) -> None:
        """Lets an identity pass whose token was issued after its user was revoked.

        Raises:
            UnauthorizedError: it was issued before, or in the same second.
            UnavailableError: Postgres is away, and was never read or has to be asked.
        """
        if self._read_at is None:
            self._begin()
        revoked_at = self._known.get(identity.user_id)
        if revoked_at is None and identity.issued_at <= self._floor:
            rows = self._database.once(identity.user_id).execute(_OF_USER, {"user_id": identity.user_id})
            revoked_at = rows[0].revoked_at if rows else None
        if revoked_at is not None and identity.issued_at <= revoked_at:
            raise UnauthorizedError(REVOKED)

    def tick(self) -> None:
        """Reads what is new."""
        since = "-infinity" if self._read_at is None else (self._read_at - OVERLAP).isoformat()
        rows = self._database.once_for_all().execute(_NEW, {"since": since, "most": self._most})
        for row in reversed(rows):
            if row.user_id is not None:
                self.learn(row.user_id, row.revoked_at)
        if len(rows) == self._most:  # perhaps there were more
            self._floor = max(self._floor, rows[-1].revoked_at or self._floor)
        self._read_at = rows[0].read_at

    def learn(self, user_id: str, revoked_at: datetime) -> None:
        """Takes notice of a revocation that is committed."""
        with self._lock:
            known = self._known.get(user_id)
            if known is None or known < revoked_at:  # `tick` may have read before what `learn` knows was committed
                self._known.pop(user_id, None)
                self._known[user_id] = revoked_at
            if len(self._known) > self._most:
                self._floor = max(self._floor, self._known.pop(next(iter(self._known))))
        self._end(user_id, revoked_at)

    def _begin(self) -> None:
        with self._beginning:
            if self._read_at is None:
                self.tick()
                self.start()
