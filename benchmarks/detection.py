"""How soon a lost attempt is followed by the next one: from the kill to the next `run_started`, by the log's time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psutil

from benchmarks.fleet import Fleet, Lab
from benchmarks.report import Figure
from lanewise import Client
from lanewise.process import wait_until

SLOTS = 4
LEASE_S = 3
BACK_S = 60.0  # until a killed worker is back: the pause before its start grows with each kill
END_S = 20.0


def measure(lab: Lab) -> list[Figure]:
    """Kills by SIGKILL, on fleets of two workers. Takes about two and a half minutes.

    A sandbox is killed while its worker looks on. With a worker its zygote and sandboxes go, too, and sometimes the
    leader; the run goes on in the other worker. `lanewise up` starts the killed one again, after a pause that grows, so
    the kills are shared by several fleets, side by side: these times are spent waiting. One of the fleets has the
    default settings, among them a lease of 15 s.
    """
    sandboxes, fleets, workers, defaults = (5, 1, 3, 0) if lab.quick else (20, 2, 10, 5)
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        short = [
            stack.enter_context(Fleet(SLOTS, workers=2, env={"LANEWISE_LEASE_S": str(LEASE_S)})) for _ in range(fleets)
        ]
        default = stack.enter_context(Fleet(SLOTS, workers=2)) if defaults else None
        of_sandboxes = _kill_sandboxes(short[0], sandboxes)
        short_futures = [pool.submit(_kill_workers, fleet, workers) for fleet in short]
        default_future = pool.submit(_kill_workers, default, defaults) if default else None
        figures = [
            Figure(f"sandbox killed -> next attempt runs ({sandboxes} times)", of_sandboxes, "s", "< 1"),
            Figure(
                f"worker killed, lease {LEASE_S} s -> next attempt runs ({fleets * workers} times)",
                [seconds for future in short_futures for seconds in future.result()],
                "s",
                "< 6",
            ),
        ]
        if default_future:
            name = f"worker killed, default settings -> next attempt runs ({defaults} times)"
            figures.append(Figure(name, default_future.result(), "s", "< 20"))
    return figures


def _kill_sandboxes(fleet: Fleet, times: int) -> list[float]:
    client = fleet.client("victim")
    return [_until_next_attempt_s(fleet, client, lambda sandbox: sandbox) for _ in range(times)]


def _kill_workers(fleet: Fleet, times: int) -> list[float]:
    client = fleet.client("victim")
    dead: list[str] = []
    samples = []
    for _ in range(times):
        _await_two_workers(fleet, dead)
        samples.append(_until_next_attempt_s(fleet, client, _worker_of, dead))
    return samples


def _worker_of(sandbox: psutil.Process) -> psutil.Process:
    zygote = psutil.Process(sandbox.ppid())
    keeper = psutil.Process(zygote.ppid())
    worker = psutil.Process(keeper.ppid())
    if "celery" not in " ".join(worker.cmdline()):
        raise RuntimeError(f"not a worker: {worker}")
    return worker


def _until_next_attempt_s(
    fleet: Fleet, client: Client, victim: Callable[[psutil.Process], psutil.Process], dead: list[str] | None = None
) -> float:
    """Starts a run, kills what `victim` makes of its sandbox, and returns the seconds until its second attempt runs.

    Args:
        fleet: where.
        client: whose run it is.
        victim: given the sandbox.
        dead: gets the id of the run's worker.
    """
    run_id = client.submit("bench_wait", {})["id"]
    sandbox = psutil.Process(int(fleet.event(run_id, "agent_thinking").data["text"]))
    process = victim(sandbox)
    if dead is not None:
        (row,) = fleet.rows("SELECT worker_id FROM lanewise.runs WHERE id = :id", id=run_id)
        dead.append(row.worker_id)
    killed_at = time.time()  # the machine's clock is the database's, too
    process.kill()
    started = fleet.event(run_id, "run_started", attempt=2)
    client.cancel(run_id)
    client.wait(run_id, END_S)
    return started.at - killed_at


def _await_two_workers(fleet: Fleet, dead: list[str]) -> None:
    """Waits until the killed one's successor has reported, besides the other worker."""
    query = "SELECT FROM lanewise.workers WHERE id <> ALL (:dead)"
    if not wait_until(lambda: len(fleet.rows(query, dead=dead)) == 2, BACK_S):
        raise TimeoutError("a killed worker did not come back in time")
