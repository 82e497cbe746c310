"""The Celery application: `celery -A worker worker -P threads -c SLOTS`, `celery -A worker flower`."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from functools import partial
from types import FrameType
from typing import Any

import structlog
from celery import signals
from celery.exceptions import SecurityWarning

from shared import linux, logs
from shared.broker import make_celery
from shared.errors import ConfigurationError, LanewiseError
from shared.messages import TASK_NAME
from shared.services import Services
from shared.settings import get_settings
from worker import intake
from worker.node import WorkerNode

log = structlog.get_logger(__name__)

try:
    settings = get_settings()
except LanewiseError as problem:
    raise SystemExit(f"lanewise: {problem.message}") from None

# Celery warns root of pickle, and we accept JSON only.
warnings.filterwarnings("ignore", category=SecurityWarning)

app = make_celery(settings)
node: WorkerNode | None = None


@app.task(name=TASK_NAME)
def run(message: object) -> None:
    """Makes one attempt of one run. A message that carries anything besides has been refused: see `worker.intake`."""
    if node is None:
        raise RuntimeError("runs are made by a worker only")
    node.runner.execute(message)


@signals.setup_logging.connect
def _configure_logs(**_: Any) -> None:
    logs.configure(settings.log_level, "worker")


@signals.celeryd_init.connect
def _begin(instance: Any = None, **_: Any) -> None:
    instance.quiet = True  # no banner: the log is JSON
    app.amqp.queues.select(list(settings.queues))  # `-Q` comes after this, and wins


@signals.worker_init.connect
def _start(sender: Any, **_: Any) -> None:
    global node  # noqa: PLW0603 - Celery makes the process; there is one node in it
    linux.hide_memory()
    intake.harden()
    services = Services.open(settings, celery=app, pool_size=max(5, sender.concurrency))
    sender.consumer_cls = partial(intake.SignedConsumer, signer=services.signer)
    node = WorkerNode(services, list(app.amqp.queues.consume_from), sender.concurrency)
    try:
        node.start()
    except LanewiseError as problem:
        node.close()
        sys.stderr.write(f"lanewise: {problem.message}\n")
        # Whoever supervises the worker need not try again what an author or operator has to put right.
        raise SystemExit(os.EX_CONFIG if isinstance(problem, ConfigurationError) else 1) from None


@signals.worker_ready.connect
def _watch_signals(**_: Any) -> None:
    drain = signal.getsignal(signal.SIGTERM)
    seen = 0

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen == 1 and callable(drain):
            drain(signum, frame)
        elif node is not None:
            node.hand_back_all()

    signal.signal(signal.SIGTERM, handle)


@signals.worker_shutting_down.connect
def _drain(**_: Any) -> None:
    if node is not None:
        node.drain()


@signals.worker_shutdown.connect
def _stop(**_: Any) -> None:
    if node is not None:
        node.close()
