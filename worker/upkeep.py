"""`AuditUpkeep`: what the leader does for the audit trail in each sweep: seals what is new, removes what is old."""

from __future__ import annotations

import time

import structlog

from shared import audit
from shared.audit_chain import AuditChain
from shared.services import Services
from worker import metrics

log = structlog.get_logger(__name__)

REMOVE_EVERY_S = 60.0


class AuditUpkeep:
    """Each method is a repair, as those of `Recovery` are, and may raise `UnavailableError`: Postgres is away."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        self._chain = AuditChain(services.database, audit.keys_of(settings), settings.audit_retention_days)
        self._remove_at = 0.0

    def seal_audit(self) -> None:
        """Seals the records that are not sealed yet."""
        number = self._chain.seal()
        if number is not None:
            metrics.AUDIT_SEAL.set(number)

    def remove_old_audit(self) -> None:
        """Removes some of what is past retention; goes on in the next sweep if there may be more, else in a minute."""
        if time.monotonic() < self._remove_at:
            return
        removed = self._chain.remove_old()
        if removed:
            log.info("removed audit records past retention", seals=removed)
        else:
            self._remove_at = time.monotonic() + REMOVE_EVERY_S
