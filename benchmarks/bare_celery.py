"""What Lanewise is compared with: bare Celery tasks. Nothing about them is durable."""

from __future__ import annotations

import os
import time
from typing import Any

import redis
from celery import Celery, Task

KEY = "bench:done"
GATE = "bench:gate"
GATE_S = 60
RETRY_S = 1

app = Celery("bare", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)
counter = redis.Redis.from_url(os.environ["BENCH_BROKER_URL"], decode_responses=True, socket_timeout=None)


@app.task(name="bench.noop")
def noop() -> None:
    """Counts itself, so that its end can be seen."""
    counter.incr(KEY)


@app.task(name="bench.nap", bind=True, max_retries=None)
def nap(self: Task[..., Any], user: str, seconds: float, limit: int, ended: str) -> None:
    """The usual limit per user: a counter in Redis; who finds it full tries again later.

    Args:
        self: the task, to be retried.
        user: whose counter.
        seconds: to sleep.
        limit: of the user's tasks at once.
        ended: the list in Redis that gets the user's name at the end.
    """
    running = f"bench:running:{user}"
    if counter.incr(running) > limit:
        counter.decr(running)
        raise self.retry(countdown=RETRY_S)
    try:
        time.sleep(seconds)
    finally:
        counter.decr(running)
    counter.rpush(ended, user)


@app.task(name="bench.plug")
def plug() -> None:
    """Occupies a slot until the gate gets an element."""
    counter.blpop([GATE], timeout=GATE_S)
