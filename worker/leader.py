"""The leader: one worker at a time repairs, from Postgres, what died in between. Its every repair is conditional."""

from __future__ import annotations

import time

import structlog
from sqlalchemy import func, select

from shared.database import load_sql
from shared.deletion import Deletions
from shared.errors import BusyError, UnavailableError
from shared.loop import Loop
from shared.services import Services
from worker.lanes import Lanes
from worker.recovery import Recovery
from worker.upkeep import AuditRetention

log = structlog.get_logger(__name__)

PAUSE_S = 2.0  # a tick that comes so much later than planned follows an outage
_TAKE_LEASE = load_sql("take_lease")


class Leader(Loop):
    """Runs in every worker; only the holder of the lease does anything. Two at once change nothing wrong.

    Args:
        worker_id: who holds the lease.
    """

    name = "leader"

    def __init__(self, services: Services, worker_id: str) -> None:
        super().__init__(services.settings.sweep_s)
        self.recovery = Recovery(services)
        self.lanes = Lanes(services)
        self._audit = AuditRetention(services)
        self.deletions = Deletions(services)
        self._database = services.database
        self._worker_id = worker_id
        self._lease_s = services.settings.lease_s
        self._ticked_at: float | None = None
        self._quiet_until = 0.0

    def tick(self) -> None:
        """One sweep.

        Raises:
            UnavailableError: Postgres is away.
        """
        leading, postgres_up_s = self._lead()
        now = time.monotonic()
        late = self._ticked_at is not None and now - self._ticked_at > self._interval_s + PAUSE_S
        if late or postgres_up_s < self._lease_s:
            # Postgres was away, or this process stood still: all heartbeats may be old. Everybody gets one lease.
            self._quiet_until = now + (self._lease_s if late else self._lease_s - postgres_up_s)
        self._ticked_at = now  # a sweep that breaks off is none, but no outage before this tick either
        if leading:
            self._sweep(quiet=now < self._quiet_until)
        else:
            self.lanes.count_nothing()
        self._ticked_at = time.monotonic()  # a sweep that takes long is no outage

    def _sweep(self, *, quiet: bool) -> None:
        lanes, recovery = self.lanes, self.recovery
        repairs = [
            lanes.keep_granted, lanes.park_unserved, recovery.send_again, lanes.admit_parked, lanes.tell_positions,
            recovery.clear_threads, recovery.remove_old, self.deletions.work_off, self._audit.remove_old_audit,
            lanes.count,
        ]  # fmt: skip
        for repair in repairs if quiet else [recovery.recover_dead_workers, *repairs]:
            try:
                repair()
            except BusyError:  # of rows that somebody holds; the other repairs need others
                log.warning("a repair is left to the next sweep: somebody holds its rows", repair=repair.__name__)
            except UnavailableError:
                raise
            except Exception:  # one repair that fails for ever must not keep the others from being made
                log.exception("a repair failed", repair=repair.__name__)

    def _lead(self) -> tuple[bool, float]:
        """Returns whether this worker leads, and for how many seconds Postgres has been up."""
        with self._database.system_session() as session:
            lease = {"name": "leader", "holder": self._worker_id, "lease_s": self._lease_s}
            leads = session.execute(_TAKE_LEASE, lease).scalar() is not None
            up = func.clock_timestamp() - func.pg_postmaster_start_time()
            return leads, float(session.scalar(select(func.extract("epoch", up))) or 0)
