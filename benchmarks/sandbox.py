"""What a process per run costs: time, processor time, memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from benchmarks.fleet import KINDS, Lab, pss_mib
from benchmarks.report import Figure
from lanewise.process import wait_until
from shared.context import UserExecutionContext
from shared.frames import FrameSocket
from shared.ids import new_id
from worker.walls import Confinement
from worker.zygote_client import SandboxProcess, ZygoteClient

MEMORY_MB = 1024
ROUNDS = 3
WAITING = 50
TIMEOUT_S = 20.0


def measure(lab: Lab) -> list[Figure]:
    """Forks sandboxes from a zygote of its own; the idle fleet's memory is the common fleet's."""
    runs = 50 if lab.quick else 200
    fork_ms, cpu_ms, zygote_ms = [], [], []
    with _zygote() as zygote:
        _fork_and_finish(zygote, 10)  # warm
        for _ in range(ROUNDS):
            before = _own_cpu_s(zygote)
            times, cpu_s = _fork_and_finish(zygote, runs)
            fork_ms.append(sum(times) / runs * 1e3)
            cpu_ms.append(cpu_s / runs * 1e3)
            zygote_ms.append((_own_cpu_s(zygote) - before) / runs * 1e3)
        waiting, alone = _waiting_mib(zygote)
    idle = lab.fleet.pss_mib()
    return [
        Figure("fork to result", fork_ms, "ms"),
        Figure("processor time of a sandbox", cpu_ms, "ms"),
        Figure("processor time of the zygote, for each", zygote_ms, "ms"),
        Figure(f"memory of a waiting run (PSS, {WAITING} runs)", [waiting], "MiB", "<= 12"),
        Figure("memory of a zygote without runs (PSS)", [alone], "MiB"),
        Figure("memory of the idle fleet (PSS)", [sum(idle[kind] for kind in KINDS)], "MiB"),
        *(Figure(f"  {kind}", [idle[kind]], "MiB") for kind in KINDS if idle[kind]),
    ]


@contextmanager
def _zygote() -> Iterator[ZygoteClient]:
    os.environ["LANEWISE_AGENTS"] = "benchmarks.agents"
    zygote = ZygoteClient(Confinement(MEMORY_MB))
    zygote.start()
    try:
        yield zygote
    finally:
        zygote.stop()


def _fork(zygote: ZygoteClient, agent: str) -> tuple[SandboxProcess, FrameSocket]:
    sandbox = zygote.fork(lambda: None)
    sandbox.sock.settimeout(TIMEOUT_S)
    frames = FrameSocket(sandbox.sock)
    frames.send(
        {
            "t": "start", "context": UserExecutionContext.from_request("alice", "thread-1", new_id()).to_dict(),
            "agent": agent, "input": {}, "time_left_s": TIMEOUT_S, "database_url": None,
            "database_ports": (), "database_token": "",
        }
    )  # fmt: skip
    return sandbox, frames


def _fork_and_finish(zygote: ZygoteClient, runs: int) -> tuple[list[float], float]:
    """Returns the seconds from fork to result of each run, and the processor time of all."""
    times, cpu_s = [], 0.0
    for _ in range(runs):
        began = time.perf_counter()
        sandbox, frames = _fork(zygote, "bench_noop")
        _wait_for(frames, "result")
        times.append(time.perf_counter() - began)
        sandbox.exited.wait(TIMEOUT_S)
        sandbox.sock.close()
        cpu_s += sandbox.cpu_s
    return times, cpu_s


def _waiting_mib(zygote: ZygoteClient) -> tuple[float, float]:
    """Returns what each of many waiting runs adds, and what the zygote alone has."""
    alone = pss_mib(_pid(zygote.pid))
    waiting = [_fork(zygote, "bench_wait") for _ in range(WAITING)]
    for _, frames in waiting:
        _wait_for(frames, "event", "agent_thinking")
    wait_until(lambda: all(sandbox.pid for sandbox, _ in waiting), TIMEOUT_S)
    pids = [_pid(zygote.pid), *(_pid(sandbox.pid) for sandbox, _ in waiting)]
    added = sum(map(pss_mib, pids)) - alone
    for sandbox, _ in waiting:
        zygote.kill(sandbox)
        sandbox.sock.close()
    return added / WAITING, alone


def _wait_for(frames: FrameSocket, kind: str, event: str | None = None) -> None:
    while (frame := frames.receive()) is not None:
        if frame["t"] == kind and event in (None, frame.get("type")):
            return
        if frame["t"] == "error":
            raise RuntimeError(f"the agent failed: {frame}")
    raise ConnectionError("the sandbox ended early")


def _own_cpu_s(zygote: ZygoteClient) -> float:
    times = psutil.Process(_pid(zygote.pid)).cpu_times()
    return times.user + times.system


def _pid(pid: int | None) -> int:
    if pid is None:
        raise ProcessLookupError("the process has ended")
    return pid
