"""Refused sign-ins and calls, and administrators' calls that failed: counted in memory and written now and then.

The audit trail has them. So no flood of them costs a write each, or fills the table.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import structlog

from shared import audit
from shared.database import Database
from shared.errors import LanewiseError
from shared.loop import Loop

WRITE_EVERY_S = 2.0
MAX_KINDS = 50  # that are told apart in one writing; what is above that is one more

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Refusal:
    """What was refused; equal ones are counted.

    Args:
        action: `sign_in`, `call`, or `admin` for what an administrator may do and could not.
        target: the scope that was asked for, or the administrator's call.
        reason: why.
        user_id: who asked, if a token said so.
    """

    action: str
    target: str
    reason: str
    user_id: str = audit.NOBODY


OTHERS = Refusal("others", "", "too many kinds to tell them apart")


class Refusals(Loop):
    """Counts what one api process refuses; its thread starts with the first refusal.

    A record stands for all equal refusals of two seconds, and says how many. So a process writes at most 51 records in
    two seconds, in one transaction, whatever comes; one that is killed loses those of its last two seconds.
    """

    name = "refusals"

    def __init__(self, database: Database) -> None:
        super().__init__(WRITE_EVERY_S)
        self._database = database
        self._lock = threading.Lock()
        self._counted: dict[Refusal, tuple[int, str]] = {}
        self._started = False

    def count(self, refusal: Refusal, correlation_id: str) -> None:
        """Counts a refusal; of equal ones the first one's correlation id is kept."""
        with self._lock:
            self._add(refusal, 1, correlation_id)
            if not self._started:
                self._started = True
                self.start()

    def tick(self) -> None:
        """Writes what was counted.

        Raises:
            UnavailableError: Postgres is away; it is written later.
        """
        with self._lock:
            counted, self._counted = self._counted, {}
        if not counted:
            return
        try:
            with self._database.system_session() as session:
                for refusal, (count, correlation_id) in counted.items():
                    audit.record(
                        session,
                        user_id=refusal.user_id,
                        actor=f"user:{refusal.user_id}" if refusal.user_id else "anonymous",
                        action=f"{refusal.action}.refuse",
                        target=refusal.target,
                        outcome=refusal.reason,
                        correlation_id=correlation_id,
                        detail={"count": count},
                    )
        except LanewiseError:
            with self._lock:
                for refusal, (count, correlation_id) in counted.items():
                    self._add(refusal, count, correlation_id)
            raise

    def close(self) -> None:
        """Stops, and writes what is left."""
        self.stop()
        try:
            self.tick()
        except LanewiseError as error:
            log.warning("refusals are not in the audit trail", error=error.message)

    def _add(self, refusal: Refusal, count: int, correlation_id: str) -> None:
        if refusal not in self._counted and len(self._counted) >= MAX_KINDS:
            refusal = OTHERS
        before, first = self._counted.get(refusal, (0, correlation_id))
        self._counted[refusal] = before + count, first
