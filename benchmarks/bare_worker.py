"""The worker that runs the bare Celery tasks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from benchmarks.fleet import ROOT, STOP_S, Fleet, child_environment


@contextmanager
def bare_worker(fleet: Fleet, slots: int) -> Iterator[dict[str, str]]:
    """Runs a worker with a threads pool, on an empty database of the fleet's Redis.

    Yields:
        the environment in which to send tasks.
    """
    broker = fleet.redis_url.rpartition("/")[0] + "/9"
    with redis.Redis.from_url(broker) as client:
        client.flushdb()
    environment = child_environment(BENCH_BROKER_URL=broker)
    pool = ("-P", "threads", "-c", str(slots), "--without-mingle", "--without-gossip", "-l", "WARNING")
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "benchmarks.bare_celery", "worker", *pool],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=environment,
    )
    try:
        yield environment
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
