"""Which queues a worker serves: those of the setting, or those of `-Q`, which wins."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from lanewise.process import Process, ProcessSpec, wait_until
from shared.models import Worker
from shared.services import Services
from shared.settings import Settings
from tests.fleet.fleet import READY_S, ROOT
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


def test_workers_serve_what_they_are_told_to(services: Services, env: dict[str, str], tmp_path: Path) -> None:
    told: dict[int, list[str]] = {}
    with ExitStack() as stack:
        for setting, options, queues in (
            (None, (), ["default"]),
            ("special,extra", (), ["extra", "special"]),
            ("special", ("-Q", "other"), ["other"]),
        ):
            given = env if setting is None else {**env, "LANEWISE_QUEUES": setting}
            argv, log = (*CELERY, "-n", f"worker{len(told)}@%h", *options), tmp_path / str(len(told))
            process = Process(ProcessSpec(name="worker", argv=argv, env=given, log=log, stop_timeout_s=20))
            stack.callback(process.stop)
            stack.callback(process.signal, signal.SIGTERM)  # to all before any is waited for
            told[process.pid] = queues

        def served() -> dict[int, list[str]]:
            with services.database.system_session() as session:
                rows = session.execute(sa.select(Worker.name, Worker.queues))
                return {int(name.rpartition(":")[2]): sorted(queues) for name, queues in rows}

        assert wait_until(lambda: len(served()) == len(told), READY_S), [log.read_text() for log in tmp_path.iterdir()]
        assert served() == told
