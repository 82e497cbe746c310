"""What a step of a workflow costs, beside a run of its own: ten of each, one after the other, in turn."""

from __future__ import annotations

from statistics import median

from benchmarks.fleet import Lab, put_load
from benchmarks.report import Figure

ROUNDS = 3
STEPS = 10


def measure(lab: Lab) -> list[Figure]:
    """Each step is recorded before the next begins, so a workflow can go on after any of them; so are ten runs."""
    count = 10 if lab.quick else 40
    token = lab.fleet.token("bench-workflow")

    def median_ms(agent: str, times: int) -> float:
        done = put_load("latency", url=lab.fleet.url, token=token, count=times, agent=agent)["result"]
        return float(median(run["run_completed"] for run in done)) * 1e3

    median_ms("bench_workflow", 5)  # warm
    workflow, ten_runs = [], []
    for _ in range(ROUNDS):
        workflow.append(median_ms("bench_workflow", count))
        ten_runs.append(STEPS * median_ms("bench_noop", count))
    return [
        Figure("a workflow of ten steps, submit -> run_completed", workflow, "ms"),
        Figure("ten runs, one after the other", ten_runs, "ms"),
        Figure("workflow / ten runs", [w / r for w, r in zip(workflow, ten_runs, strict=True)], "times"),
    ]
