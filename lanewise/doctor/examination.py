"""All checks, in the order in which one thing depends on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

from lanewise.doctor import fleet, local, stores
from lanewise.doctor.findings import Finding, failed, guarded, warning
from shared.errors import ConfigurationError
from shared.services import Services
from shared.settings import Settings, load_settings

AWAY = {
    "postgres": "start Postgres, or correct LANEWISE_DATABASE_URL",
    "roles": "run `lanewise migrate`",
    "sandbox role": "correct LANEWISE_RUN_DATABASE_URL, then run `lanewise migrate`",
    "redis": "start Redis, or correct LANEWISE_REDIS_URL",
    "broker": "start the broker's Redis, or correct LANEWISE_BROKER_URL",
}
OF_FLEET = (fleet.workers, fleet.agents, fleet.leader, fleet.slots, fleet.waiting)


def examine() -> Iterator[Finding]:
    """Checks what the settings of the environment lead to; yields what was found, one by one.

    Nothing is changed. It takes seconds; if slots and live runs differ, or nobody leads, up to a lease and a sweep.
    """
    yield from local.python()
    yield from local.libraries()
    yield from local.walls()
    try:
        settings = load_settings()
    except ConfigurationError as error:
        yield failed("settings", error.message, "docs/configuration.md lists every setting")
        return
    yield from local.settings(settings)
    with closing(Services.open(settings, pool_size=1)) as services:
        yield from _of_services(settings, services)


def _of_services(settings: Settings, services: Services) -> Iterator[Finding]:
    has_failed = set()

    def run(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
        for finding in guarded(check, look, AWAY.get(check, "see the checks before")):
            if finding.status == "failed":
                has_failed.add(check)
            yield finding

    yield from run("postgres", partial(stores.postgres, services))
    if "postgres" not in has_failed:
        yield from run("schema", partial(stores.schema, services))
    yield from run("redis", partial(stores.redis, "redis", settings.redis_url.get_secret_value()))
    yield from run("broker", partial(stores.redis, "broker", settings.effective_broker_url))
    if has_failed & {"postgres", "schema"}:
        yield warning("fleet", "not looked at: the database cannot be used")
        return
    yield from run("roles", partial(stores.service_role, services))
    yield from run("sandbox role", partial(stores.run_role, settings))
    yield from run("audit trail", partial(stores.audit_retention, services))
    yield from run("clocks", partial(stores.clocks, services))
    for look in OF_FLEET:
        yield from run(look.__name__, partial(look, services))
