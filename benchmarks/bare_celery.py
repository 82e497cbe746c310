"""What Lanewise is compared with: a Celery task that does nothing but count itself. Nothing about it is durable."""

from __future__ import annotations

import os

import redis
from celery import Celery

KEY = "bench:done"

app = Celery("bare", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)
counter = redis.Redis.from_url(os.environ["BENCH_BROKER_URL"])


@app.task(name="bench.noop")
def noop() -> None:
    """Counts itself, so that its end can be seen."""
    counter.incr(KEY)
