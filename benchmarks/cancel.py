"""How long a cancelled run goes on, as the operating system sees it: until none of its processes is there any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import psutil

from benchmarks.fleet import Fleet, Lab
from benchmarks.report import Figure
from lanewise import Client
from lanewise.process import wait_until

SLOTS = 4
GRACE_S = 1
AT_MOST_S = GRACE_S + 6.0  # what takes longer counts as that long
POLL_S = 0.005
AGENTS = "benchmarks.agents,benchmarks.stubborn"
CASES = {
    "bench_wait": ("async agent that waits", "< 0.5"),
    "bench_sleeper": ("time.sleep(600) in its loop", f"< {GRACE_S + 1}"),
    "bench_cruncher": ("one endless call in C", f"< {GRACE_S + 1}"),
    "bench_querier": ("pg_sleep(600) in its session", f"< {GRACE_S + 1}"),
    "bench_parent": ("grandchild that ignores SIGTERM", f"< {GRACE_S + 1}"),
    "bench_runaway": ("grandchild that called setsid", f"< {GRACE_S + 1}"),
}
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND usename <> current_user"


class Remains(NamedTuple):
    """What a run consists of outside of Lanewise.

    Args:
        processes: the sandbox and all its descendants.
        session: whether its statement is still being executed by Postgres.
    """

    processes: list[psutil.Process]
    session: Callable[[], bool]

    @property
    def there(self) -> bool:
        """Whether anything is left; a process that was not reaped yet counts."""
        return any(process.is_running() for process in self.processes) or self.session()


def measure(lab: Lab) -> list[Figure]:
    """From just before `POST /v1/runs/{id}/cancel`, with a grace of 1 s. Takes about a minute.

    Each case is repeated, beside a run of another user that must not notice.
    """
    repeats = 2 if lab.quick else 5
    settings = {"LANEWISE_AGENTS": AGENTS, "LANEWISE_CANCEL_GRACE_S": str(GRACE_S)}
    with Fleet(SLOTS, env=settings) as fleet:
        neighbour, client = fleet.client("neighbour"), fleet.client("canceller")
        beside = neighbour.submit("bench_wait", {})["id"]
        fleet.event(beside, "agent_thinking")
        figures = []
        for agent, (name, target) in CASES.items():
            samples = [_stops_s(fleet, client, agent) for _ in range(repeats)]
            figures.append(Figure(f"cancel -> gone: {name}", samples, "s", target))
        run = neighbour.run(beside)
        if (run["status"], run["attempt"]) != ("running", 1):
            raise RuntimeError(f"a neighbour's run was disturbed: {run}")
        neighbour.cancel(beside)
    return figures


def _stops_s(fleet: Fleet, client: Client, agent: str) -> float:
    run_id = client.submit(agent, {})["id"]
    pids = [int(word) for word in fleet.event(run_id, "agent_thinking").data["text"].split()]
    processes = [psutil.Process(pid) for pid in pids]
    found = {*processes, *processes[0].children(recursive=True)}
    remains = Remains(list(found), lambda: agent == "bench_querier" and bool(fleet.rows(SESSIONS)))
    if agent == "bench_querier" and not wait_until(remains.session, AT_MOST_S):
        raise TimeoutError("the session did not begin to sleep")
    began = time.perf_counter()
    client.cancel(run_id)
    while remains.there and time.perf_counter() < began + AT_MOST_S:
        time.sleep(POLL_S)
    seconds = time.perf_counter() - began
    client.wait(run_id, AT_MOST_S)
    for process in found:
        if process.is_running():
            process.kill()
    if agent == "bench_querier":
        fleet.rows(SESSIONS.replace("SELECT pid", "SELECT pg_terminate_backend(pid)"))
    return seconds
