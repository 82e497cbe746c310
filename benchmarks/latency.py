"""How long one user waits on an idle fleet: the times of runs that are submitted one after the other."""

from __future__ import annotations

from benchmarks.fleet import Lab, put_load
from benchmarks.report import Figure, percentile

ROUNDS = 3
MOMENTS = {
    "accepted": ("accepted (202)", ""),
    "run_started": ("run_started", ""),
    "agent_started": ("first agent event", "p50 <= 20"),
    "run_completed": ("run_completed", "p50 <= 30"),
}


def measure(lab: Lab) -> list[Figure]:
    """Submits by REST and watches by WebSocket, in one process with one clock."""
    count = 25 if lab.quick else 100
    token = lab.fleet.token("bench-latency")
    put_load("latency", url=lab.fleet.url, token=token, count=20)  # warm
    rounds = [put_load("latency", url=lab.fleet.url, token=token, count=count)["result"] for _ in range(ROUNDS)]
    figures = []
    for moment, (name, target) in MOMENTS.items():
        for percent in (50, 99):
            samples = [percentile([run[moment] * 1e3 for run in runs], percent) for runs in rounds]
            figures.append(Figure(f"submit -> {name}, p{percent}", samples, "ms", target if percent == 50 else ""))
    return figures
