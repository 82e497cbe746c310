"""The part `audit`: ten thousand random tamperings with a trail in a real Postgres, each verified from there."""

from __future__ import annotations

import time
from contextlib import closing

from shared import audit
from shared.services import Services
from tests.audit_trails import TAMPERINGS, tamper_in_postgres
from tests.chaos.part import Options, say
from tests.services import Servers, superuser_engine

TIMES = 10_000


def run(options: Options) -> bool:
    """Tampers at least 10,000 times, as the seed decides; tells whether each was found."""
    say(f"audit: seed {options.seed}, {TIMES} tamperings")
    began = time.monotonic()
    with Servers.start() as servers, servers.new_database() as name:
        settings = servers.settings(name)
        with closing(Services.open(settings)) as services, superuser_engine(servers.url(name)).connect() as superuser:
            try:
                tried = tamper_in_postgres(services.database, superuser, audit.keys_of(settings), options.seed, TIMES)
            except AssertionError as error:
                say(f"audit: NOT FOUND: {error}")
                return False
    refused = tried.pop("refused", 0)
    for how, times in sorted(tried.items()):
        say(f"  {how:32} {times:6}")
    say(f"audit: {tried.total()} found, {refused} not taken by Postgres; {time.monotonic() - began:.0f} s")
    return tried.keys() == {way.__name__ for way in TAMPERINGS}
