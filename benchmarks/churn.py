"""What a gateway keeps of clients that come and go in every bad way: nothing, or it would not last."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import httpx
import psutil
import redis

from benchmarks import stand
from benchmarks.fleet import Fleet, Lab
from benchmarks.report import Figure
from benchmarks.stand import Publisher, Server
from benchmarks.visitors import GREENLETS_PATH, Gateway, churn
from lanewise.ports import LOOPBACK
from lanewise.process import wait_until

USERS = 20
VISITORS = 12
PATIENT = 8
RATE = 200  # events/s, so that there is something to write
TEXT = 20
BACK_S = 60.0
LOOK_S = 2.0
WARM_VISITS = 200


class Held(NamedTuple):
    """What the gateway's process holds."""

    greenlets: int
    descriptors: int
    subscriptions: int
    redis_connections: int


def held_by(server: Server) -> Held:
    """Returns what a server with `counted_api` holds now."""
    (process,) = server.process.children()
    answer = httpx.get(f"http://{LOOPBACK}:{server.port}{GREENLETS_PATH}", timeout=BACK_S)
    with redis.Redis.from_url(server.fleet.redis_url, decode_responses=True) as client:
        clients, ports = client.client_list(), _local_ports(process)
    own = [found for found in clients if int(found["addr"].rpartition(":")[2]) in ports]
    return Held(int(answer.text), process.num_fds(), sum(int(found["sub"]) for found in own), len(own))


def _local_ports(process: psutil.Process) -> set[int]:
    return {found.laddr.port for found in process.net_connections() if found.raddr}


def measure(lab: Lab) -> list[Figure]:
    """Five minutes of clients that say goodbye, are cut, half-closed or mute, have no token, or send nonsense."""
    seconds = 20 if lab.quick else 300
    with Fleet(USERS, limit=1) as fleet, stand.lanewise(fleet, "benchmarks.counted_api:app") as server:
        users = [f"bench-{n}" for n in range(USERS)]
        runs = [(user, fleet.client(user).submit("bench_wait", {})["id"]) for user in users]
        for _, run_id in runs:
            fleet.event(run_id, "agent_thinking")
        gateway = Gateway((LOOPBACK, server.port), [fleet.token(user) for user in users])
        churn(gateway, lambda visits: visits < WARM_VISITS, VISITORS)  # so that pools are full
        wait_until(lambda: held_by(server).subscriptions == 0, BACK_S)
        before, memory = held_by(server), [_mib(server)]
        until = time.monotonic() + seconds
        meanwhile = []
        with ThreadPoolExecutor(1) as pool:
            publisher = Publisher(fleet, runs, RATE, seconds, TEXT)
            visits = pool.submit(churn, gateway, lambda _: time.monotonic() < until, VISITORS, PATIENT)
            while not visits.done():
                time.sleep(LOOK_S)
                meanwhile.append(held_by(server))
                memory.append(_mib(server))
            publisher.result()
        wait_until(lambda: all(now <= then for now, then in zip(held_by(server), before, strict=True)), BACK_S)
        after = held_by(server)
        memory.append(_mib(server))
    figures = [Figure(f"visits in {seconds} s", [visits.result().total()], "")]
    for name, then, now in zip(Held._fields, before, after, strict=True):
        during = [getattr(held, name) for held in meanwhile]
        figures += [
            Figure(f"{name.replace('_', ' ')}, before", [then], ""),
            Figure("  meanwhile", during, ""),
            Figure("  after", [now], "", f"<= {then}"),
        ]
    half = len(memory) // 2
    return [
        *figures,
        Figure("memory (PSS), before", memory[:1], "MiB"),
        Figure("  in the first half", memory[1:half], "MiB"),
        Figure("  in the second half", memory[half:-1], "MiB"),
        Figure("  after", memory[-1:], "MiB", f"<= {memory[0] * 1.05:.0f}"),  # the allocator keeps a little for later
    ]


def _mib(server: Server) -> float:
    return server.pss_kib() / 1024
