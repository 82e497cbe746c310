"""What an api process holds for all its requests; nothing in it belongs to a user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, cast

import structlog
from flask import current_app

from api.catalogue import AgentCatalogue
from api.gateway.hub import Hub
from api.gateway.manager import ConnectionManager
from api.gateway.tickets import Tickets
from api.metrics import Metrics
from api.rate import SubmissionRate
from api.reading import RunReader
from api.refusals import Refusals
from api.revocations import Revocations
from api.submission import Submissions
from shared import linux
from shared.services import Services
from shared.settings import Settings
from shared.tokens import TokenVerifier

EXTENSION = "lanewise"
POOL_SIZE = 10
SPARE_FILES = 5500  # for requests (see `gunicorn_conf`), stores and whatever else is open

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Api:
    """Services, caches and the gateway of one process."""

    services: Services
    metrics: Metrics
    verifier: TokenVerifier
    catalogue: AgentCatalogue
    runs: RunReader
    rate: SubmissionRate
    submissions: Submissions
    revocations: Revocations
    tickets: Tickets
    hub: Hub
    manager: ConnectionManager
    refusals: Refusals

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Returns the state; nothing is connected before it is used."""
        services = Services.open(settings, pool_size=POOL_SIZE)
        metrics = Metrics()
        catalogue = AgentCatalogue(services.database, settings.lease_s)
        hub = Hub(services, metrics)
        runs = RunReader(services, hub)
        manager = ConnectionManager(metrics, _places(settings), settings.address_sockets)
        rate = SubmissionRate(services)
        revocations = Revocations(services.database, manager.revoke)
        return cls(
            services=services,
            metrics=metrics,
            verifier=TokenVerifier(settings),
            catalogue=catalogue,
            runs=runs,
            rate=rate,
            submissions=Submissions(services, catalogue, runs, metrics, rate),
            revocations=revocations,
            tickets=Tickets(services, revocations),
            hub=hub,
            manager=manager,
            refusals=Refusals(services.database),
        )

    @property
    def draining(self) -> bool:
        """Whether the process is about to end."""
        return self.manager.draining

    def drain(self) -> None:
        """Sends every socket and every waiting request home; what is being handled ends by itself."""
        self.manager.drain()
        self.hub.release()

    def close(self) -> None:
        """Stops what runs in the background and closes every connection."""
        self.drain()
        self.hub.stop()
        self.revocations.stop()
        self.refusals.close()
        self.services.close()


def _places(settings: Settings) -> int:
    """Returns how many clients may follow: as the settings say, if the operating system lets us open so many files."""
    wanted = settings.gateway_sockets + SPARE_FILES
    files = linux.raise_file_limit(wanted)
    places = min(settings.gateway_sockets, max(files - SPARE_FILES, files // 2))
    if places < settings.gateway_sockets:
        log.warning("the limit of open files allows fewer sockets", files=files, wanted=wanted, sockets=places)
    return places


def api() -> Api:
    """Returns the state of the present request's process."""
    return cast("Api", current_app.extensions[EXTENSION])
