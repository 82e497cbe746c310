"""What workers do for the audit trail: each seals what is new, the leader removes what is old."""

from __future__ import annotations

import time
from typing import ClassVar

import structlog

from shared import audit
from shared.audit_chain import AuditChain
from shared.loop import Loop
from shared.services import Services
from worker import metrics

log = structlog.get_logger(__name__)

SEAL_EVERY_S = 2.0
REMOVE_EVERY_S = 60.0


class AuditSealing(Loop):
    """Seals in a thread of its own: the leader's repairs wait for rows that somebody holds, and leaders die.

    So a record is sealed within seconds as long as any worker lives. Several at once change nothing wrong.
    """

    name: ClassVar[str] = "sealing"

    def __init__(self, services: Services) -> None:
        super().__init__(SEAL_EVERY_S)
        self._chain = _chain(services)

    def tick(self) -> None:
        """Seals the records that are not sealed yet.

        Raises:
            UnavailableError: Postgres is away.
        """
        number = self._chain.seal()
        if number is not None:
            metrics.AUDIT_SEAL.set(number)


class AuditRetention:
    """What the leader does in its sweeps."""

    def __init__(self, services: Services) -> None:
        self._chain = _chain(services)
        self._remove_at = 0.0

    def remove_old_audit(self) -> None:
        """Removes some of what is past retention; goes on in the next sweep if there may be more, else in a minute.

        Raises:
            UnavailableError: Postgres is away.
        """
        if time.monotonic() < self._remove_at:
            return
        removed = self._chain.remove_old()
        if removed:
            log.info("removed audit records past retention", seals=removed)
        else:
            self._remove_at = time.monotonic() + REMOVE_EVERY_S


def _chain(services: Services) -> AuditChain:
    settings = services.settings
    return AuditChain(services.database, audit.keys_of(settings), settings.audit_retention_days)
