"""Runs per second through the whole way, against bare Celery tasks on the same Redis, in turn."""

from __future__ import annotations

from collections import defaultdict

from benchmarks.bare_worker import bare_worker
from benchmarks.fleet import KINDS, Lab, put_load
from benchmarks.report import Figure

USERS = 4
CONNECTIONS = 2  # of each user, to submit by
OUTSTANDING = 6  # runs of each user that are submitted and have not ended
PUBLISHERS = 4  # threads that send bare tasks


def measure(lab: Lab) -> list[Figure]:
    """Lanewise: REST to the terminal event over one WebSocket per user. Celery: `delay` to a counter in Redis."""
    rounds, runs, tasks = (2, 200, 600) if lab.quick else (5, 600, 3000)
    tokens = lab.tokens(USERS)
    ours, bare = [], []
    cost: dict[str, list[float]] = defaultdict(list)
    with bare_worker(lab.fleet, lab.SLOTS) as environment:
        _complete(lab, tokens, 100)  # warm
        put_load("bare", environment, count=100, threads=PUBLISHERS)
        for _ in range(rounds):
            per_s, used_s = _complete(lab, tokens, runs)
            ours.append(per_s)
            for kind, seconds in used_s.items():
                cost[kind].append(seconds / runs * 1e3)
            done = put_load("bare", environment, count=tasks, threads=PUBLISHERS)
            bare.append(tasks / done["result"]["seconds"])
    shown = [*KINDS, "load generator"]
    return [
        Figure("runs through the whole way", ours, "runs/s", ">= 100"),
        Figure("bare Celery tasks", bare, "tasks/s"),
        Figure("bare Celery / Lanewise", [b / a for a, b in zip(ours, bare, strict=True)], "times"),
        Figure(
            "processor time per run, the fleet's", [sum(c) for c in zip(*(cost[k] for k in KINDS), strict=True)], "ms"
        ),
        *(Figure(f"  {kind}", cost[kind], "ms") for kind in shown),
    ]


def _complete(lab: Lab, tokens: list[str], runs: int) -> tuple[float, dict[str, float]]:
    """Returns runs/s, and the processor time of each kind of process."""
    before = lab.fleet.cpu_s()
    done = put_load(
        "runs", url=lab.fleet.url, tokens=tokens, count=runs, outstanding=OUTSTANDING, connections=CONNECTIONS
    )
    used = {kind: seconds - before[kind] for kind, seconds in lab.fleet.cpu_s().items()}
    used["load generator"] = done["cpu_s"]
    return runs / done["result"]["seconds"], used
