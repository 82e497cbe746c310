"""Ends the database sessions that dead sandboxes have left in the midst of a statement."""

from __future__ import annotations

import threading

import structlog
from sqlalchemy import make_url

from shared import linux, sandbox_login, sandbox_sessions
from shared.database import POSTGRES_PORT
from shared.loop import Loop
from shared.sandbox_sessions import DatabaseSession
from shared.services import Services
from worker import metrics

log = structlog.get_logger(__name__)

BETWEEN_LOOKS_S = 0.05
# After a forced end: processes that the sandbox had started, and that hold its socket, die a little later than itself.
AFTER_FORCED_END_S = (0.0, 0.1, 0.2, 0.4)


class Sessions(Loop):
    """Has Postgres end sessions whose client is gone. By itself it notices that within a second, unless told not to.

    A session is judged by what the kernel knows, not by what it says of itself. First Postgres lists the sessions that
    come from our address, then we read the kernel's table of sockets connected to its port: a session that was there
    and has no socket has lost its client. What that client was, and whose worker's, makes no difference.

    A pooler on this machine is as good as no pooler: the sockets are its own then, and it closes that of a session
    whose client died in the midst of a transaction.

    If the service's own sessions have no socket either, the address is not ours alone: it is that of a pooler
    elsewhere, or other machines or containers come from it too (NAT). Then nothing is ended.
    """

    name = "sessions"

    def __init__(self, services: Services) -> None:
        super().__init__(BETWEEN_LOOKS_S)
        self._database = services.database
        given = (services.settings.database_url, services.settings.run_database_url)
        urls = [make_url(url.get_secret_value()) for url in given if url is not None]
        self._has_sessions = services.settings.run_database_url is not None
        self._login = urls[-1].username or ""
        self._ports = {url.port or POSTGRES_PORT for url in urls}
        self._every_s = services.settings.lease_s / 3
        self._wake = threading.Event()
        self._wake.set()  # the first look: there may be sessions of a worker that died
        self._checked = self._warned = False

    def start(self) -> None:
        """Starts the thread, if the deployment gives sandboxes sessions at all."""
        if self._has_sessions:
            super().start()

    def look_soon(self) -> None:
        """A sandbox was killed or died: looks now rather than when the next look is due. Returns at once."""
        self._wake.set()

    def stop(self, timeout_s: float = 5) -> None:
        """Looks a last time and ends."""
        self._stopping.set()
        self._wake.set()
        super().stop(timeout_s)

    def tick(self) -> None:
        """Waits until a look is due, and looks."""
        woken = self._wake.wait(self._every_s)
        self._wake.clear()
        for pause_s in AFTER_FORCED_END_S if woken else (0.0,):
            self._stopping.wait(pause_s)
            self.end_orphans()
        if not self._checked:
            self.check()

    def end_orphans(self) -> int:
        """Ends the sessions that had no socket in two looks, and returns how many; one look may miss a socket.

        Raises:
            UnavailableError: Postgres is away.
        """
        lost = self._without_socket()
        if not any(not session.own for session in lost):
            return 0
        self._stopping.wait(BETWEEN_LOOKS_S)
        lost &= self._without_socket()
        if any(session.own for session in lost):
            self._warn("the address is not this machine's alone: a pooler elsewhere or NAT is in between")
            return 0
        ended = sandbox_sessions.end(self._database.once_for_all(), lost)
        if ended:
            metrics.REPAIRED.labels("session_of_dead_sandbox").inc(ended)
            log.info("sessions of dead sandboxes are ended", sessions=ended)
        return ended

    def check(self) -> None:
        """Says in the log if there are sessions that cannot be ended, and what sandboxes may do though they must not.

        Raises:
            UnavailableError: Postgres is away.
        """
        if not sandbox_sessions.may_end(self._database.once_for_all()):
            self._warn("a login of sandboxes is not the one of the last `lanewise migrate`")
        with self._database.system_session() as session:
            for gap in sandbox_login.gaps(session.connection(), self._login):
                log.warning("sandboxes may do in the database what they must not", may=gap)
        self._checked = True

    def _without_socket(self) -> set[DatabaseSession]:
        sessions = sandbox_sessions.listed(self._database.once_for_all())
        if all(session.own for session in sessions):
            return set()
        ports = self._ports | {session.server_port for session in sessions}
        connected = linux.connected_addresses(ports)  # only now: whoever is listed was connected before
        return {session for session in sessions if (session.address, session.port) not in connected}

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("sessions of killed sandboxes end by Postgres' own check only", reason=reason)
