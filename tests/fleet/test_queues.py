"""Which queues a worker serves: those of the setting, or those of `-Q`, which wins."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from lanewise.process import Process, ProcessSpec
from shared.models import Worker
from shared.services import Services
from shared.settings import Settings
from tests.fleet.fleet import READY_S, ROOT, until
from tests.integration.conftest import *  # noqa: F403 - the stores' fixtures

CELERY = (sys.executable, "-m", "celery", "-A", "worker", "worker", "-P", "threads", "-c", "1", "--without-mingle",
          "--without-gossip", "-l", "WARNING")  # fmt: skip


@pytest.fixture
def env(settings: Settings) -> dict[str, str]:
    return {
        **os.environ, "PYTHONPATH": str(ROOT), "LANEWISE_DATABASE_URL": settings.database_url.get_secret_value(),
        "LANEWISE_REDIS_URL": settings.redis_url.get_secret_value(), "LANEWISE_SECRET_KEY": settings.secrets[0],
        "LANEWISE_DEPLOYMENT": settings.deployment,
    }  # fmt: skip


def served(services: Services, spec: ProcessSpec) -> Iterator[list[str]]:
    process = Process(spec)

    def announced() -> list[str] | None:
        assert process.exit_code is None, process.last_lines()
        with services.database.system_session() as session:
            return session.scalar(sa.select(Worker.queues))

    try:
        yield until(announced, READY_S, process.last_lines)
    finally:
        process.stop()


@pytest.mark.parametrize(
    ("setting", "options", "queues"),
    [
        (None, (), ["default"]),
        ("special,extra", (), ["extra", "special"]),
        ("special", ("-Q", "other"), ["other"]),
    ],
)
def test_a_worker_serves_what_it_is_told_to(  # noqa: PLR0913, PLR0917 - parameters and fixtures
    services: Services,
    env: dict[str, str],
    tmp_path: Path,
    setting: str | None,
    options: tuple[str, ...],
    queues: list[str],
) -> None:
    given = env if setting is None else {**env, "LANEWISE_QUEUES": setting}
    spec = ProcessSpec(name="worker", argv=(*CELERY, *options), env=given, log=tmp_path / "log", stop_timeout_s=20)
    for found in served(services, spec):
        assert sorted(found) == queues
