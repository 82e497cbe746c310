"""`WorkerNode`: everything that one worker process holds, from its start to its drain."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence

import structlog
from prometheus_client import start_http_server
from sqlalchemy import delete, update

from shared import catalogue
from shared.errors import UnavailableError
from shared.events import Attempt
from shared.ids import new_id
from shared.models import Worker
from shared.services import Services
from worker.alarm import Alarm
from worker.claims import Claims
from worker.heartbeat import Control, Heartbeat
from worker.leader import Leader
from worker.live import LiveRun
from worker.runner import HANDED_BACK, Runner
from worker.sessions import Sessions
from worker.tracker import AgentExecutionTracker
from worker.upkeep import AuditSealing
from worker.walls import Confinement
from worker.writer import EventWriter
from worker.zygote_client import ZygoteClient

log = structlog.get_logger(__name__)

HAND_BACK_S = 10.0


class WorkerNode:
    """The parts of a worker and their order.

    Args:
        services: of this process.
        queues: which ones it serves.
        slots: how many runs at once.
    """

    def __init__(self, services: Services, queues: Sequence[str], slots: int) -> None:
        self.id = new_id()
        self.services = services
        self._queues = list(queues)
        self._slots = slots
        self.live: dict[str, LiveRun] = {}
        self.tracker = AgentExecutionTracker()
        settings = services.settings
        confinement = Confinement(
            settings.sandbox_memory_mb, settings.sandbox_readable, settings.sandbox_writable, settings.sandbox_closed
        )
        self.zygote = ZygoteClient(confinement, settings.sandbox_env)
        self.writer = EventWriter(services, self._refused)
        self.heartbeat = Heartbeat(services, self.id, self.live, self._announce)
        self.leader = Leader(services, self.id)
        self.sealing = AuditSealing(services)
        self._control = Control(services, self.id, self.live, self.heartbeat.check_silence)
        self._alarm = Alarm(services.dispatcher.admit)
        self.sessions = Sessions(services)
        self._closing = threading.Event()
        self._handing_back = threading.Event()
        self._draining: threading.Thread | None = None
        self.runner = Runner(
            services,
            worker_id=self.id,
            zygote=self.zygote,
            writer=self.writer,
            live=self.live,
            tracker=self.tracker,
            claims=Claims(services, self.id, lambda: [agent["name"] for agent in self.zygote.agents], self._alarm),
            is_closing=self._closing.is_set,
            must_hand_back=self._handing_back.is_set,
            after_forced_end=self.sessions.look_soon,
        )

    def start(self) -> None:
        """Imports the agents, says that the worker is there, and begins to beat.

        Raises:
            ConfigurationError: an agent is unsound; naming it.
            UnavailableError: Postgres is away.
        """
        self.zygote.start()
        self._announce()
        self.writer.start()
        self._alarm.start()
        for loop in (self.heartbeat, self._control, self.leader, self.sealing, self.sessions):
            loop.start()
        port = self.services.settings.metrics_port
        if port is not None:
            start_http_server(port, addr="127.0.0.1")

    def drain(self) -> None:
        """Begins to end: no new runs; what has not finished after `drain_s` seconds is handed back. Returns at once."""
        if self._draining is None:
            self._draining = threading.Thread(target=self._drain, name="lanewise-drain", daemon=True)
            self._draining.start()

    def hand_back_all(self) -> None:
        """Stops every run now; each goes on elsewhere, and the attempt does not count."""
        self._handing_back.set()
        for run in list(self.live.values()):
            run.stop(HANDED_BACK)

    def close(self) -> None:
        """Stops all parts. What is still under way is given up to recovery."""
        self._closing.set()
        for loop in (self.leader, self._control, self.heartbeat):
            loop.stop()
        self._alarm.stop()
        self.writer.stop()
        self.zygote.stop()
        self.sealing.stop()
        self.sessions.stop()  # last: a sandbox has just been killed
        try:
            with self.services.database.system_session() as session:
                session.execute(delete(Worker).where(Worker.id == self.id))
        except UnavailableError:  # the leader removes the row when its lease is over
            log.warning("the worker's row stays: the database is away")
        self.services.close()

    def _drain(self) -> None:
        try:
            with self.services.database.system_session() as session:
                session.execute(update(Worker).where(Worker.id == self.id).values(draining=True))
        except UnavailableError:  # its heartbeat's end says the same a little later
            log.warning("the drain is not announced: the database is away")
        log.info("draining", runs=len(self.live), drain_s=self.services.settings.drain_s)
        if not self._closing.wait(self.services.settings.drain_s):
            self.hand_back_all()
        if not self._closing.wait(HAND_BACK_S):
            self._closing.set()  # a store is away: what cannot be written is left to recovery

    def _announce(self) -> None:
        if self._closing.is_set():  # a beat that hung finds the row gone, and nobody would remove it a second time
            return
        worker = {
            "id": self.id,
            "name": f"{socket.gethostname()}:{os.getpid()}",
            "queues": self._queues,
            "slots": self._slots,
            "lease_s": self.services.settings.lease_s,
        }
        with self.services.database.system_session() as session:
            catalogue.announce(session, worker, self.zygote.agents)

    def _refused(self, attempt: Attempt) -> None:
        run = self.live.get(attempt.run_id)
        if run is not None and run.run.attempt == attempt.number:  # not the next one, which may be here already
            run.supersede()
