"""Stores and publishes events as a worker's writer does: `python -m benchmarks.publisher`, JSON in and out.

Its environment is that of a worker of the fleet.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from typing import Any

from shared.event_types import EventType
from shared.events import Event, append, publish
from shared.services import Services
from shared.settings import get_settings


def run(runs: list[tuple[str, str]], rate: float, seconds: float, size: int) -> dict[str, Any]:
    """Adds events to each run in turn, whatever becomes of them.

    Args:
        runs: user id and run id; attempt 1 must be in progress.
        rate: events per second, of all runs together.
        seconds: how long; each run gets as many as the others.
        size: of an event's text, in characters.

    Returns:
        when each event of a run was published, by the monotonic clock, after the number of the first; and how late the
        last one was.
    """
    services = Services.open(get_settings())
    total = int(rate * seconds / len(runs)) * len(runs)
    users = itertools.cycle(runs)
    text = "x" * size
    published: dict[str, tuple[int, list[float]]] = {}
    began, done = time.monotonic(), 0
    while done < total:
        due = min(total, int((time.monotonic() - began) * rate) + 1) - done
        if due <= 0:
            time.sleep(1 / rate)
            continue
        batch = [
            Event(user_id, run_id, 1, EventType.AGENT_TOKEN, "bench_wait", {"text": text})
            for user_id, run_id in itertools.islice(
                users, min(due, len(runs))
            )  # one of each, so that a message has one event
        ]
        stored, refused = append(services.database.once_for_all(), batch)
        if refused:
            raise RuntimeError(f"runs are over: {refused}")
        at = time.monotonic()
        publish(services.redis, services.keys, stored)
        for item in stored:
            published.setdefault(item.event.user_id, (item.seq, []))[1].append(at)
        done += len(batch)
    late_s = time.monotonic() - began - total / rate
    services.close()
    return {"published": published, "events": total, "late_s": late_s, "cpu_s": time.process_time()}


if __name__ == "__main__":
    print(json.dumps(run(**json.load(sys.stdin))))
