"""The faults, one function each. What it returns is the proof that it hit; empty: it did not."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
from sqlalchemy.exc import DBAPIError

from lanewise.process import wait_until
from tests.chaos import messages
from tests.chaos.history import History
from tests.chaos.stores import Stores
from tests.fleet.fleet import Fleet

Proof = dict[str, Any]
GONE_S = 10.0  # one that drains takes its time
LOST_S = 5.0
FRESH_S = 1.0
LEADER = "SELECT w.name FROM lanewise.leases l JOIN lanewise.workers w ON w.id = l.holder WHERE l.name = 'leader'"


@dataclass(frozen=True)
class Scene:
    """What the nemesis can get at.

    Args:
        lease_s: of the fleet.
    """

    fleet: Fleet
    stores: Stores
    history: History
    lease_s: float

    def running(self) -> int:
        """Returns how many runs are running, as the last sample saw it; 0 if that is not of just now."""
        last = self.history.samples[-1:]
        return sum(last[0].running.values()) if last and time.time() - last[0].at < FRESH_S else 0


Fault = Callable[[Scene, random.Random], Proof]


def kill(kind: str) -> Fault:
    """SIGKILL for one process of a kind."""

    def fault(scene: Scene, chance: random.Random) -> Proof:
        return end(scene, kind, chance, signal.SIGKILL)

    return fault


def end(scene: Scene, kind: str, chance: random.Random, how: signal.Signals) -> Proof:
    """Ends one process of a kind by a signal."""
    process = _one(scene, kind, chance)
    return _ended(process, how) if process else {}


def kill_leader(scene: Scene, _chance: random.Random) -> Proof:
    """SIGKILL for the worker that holds the lease."""
    rows = scene.stores.rows(LEADER)
    if not rows:
        return {}
    with suppress(psutil.NoSuchProcess):
        return _ended(psutil.Process(int(rows[0].name.rpartition(":")[2])), signal.SIGKILL)
    return {}


def stop(kind: str, leases: float, more_s: float) -> Fault:
    """SIGSTOP for one process of a kind, and SIGCONT after a while.

    Args:
        leases: how many leases long.
        more_s: and so many seconds.
    """

    def fault(scene: Scene, chance: random.Random) -> Proof:
        process = _one(scene, kind, chance)
        if process is None:
            return {}
        for_s = leases * scene.lease_s + more_s
        try:
            process.suspend()
            stopped = wait_until(lambda: process.status() == psutil.STATUS_STOPPED, 1)
            time.sleep(for_s)
            still = process.status() == psutil.STATUS_STOPPED
            process.resume()
        except psutil.NoSuchProcess:
            return {"pid": process.pid, "ended while it was stopped": True} if kind == "sandbox" else {}
        return {"pid": process.pid, "stopped_s": for_s} if stopped and still else {}

    return fault


def empty_redis(scene: Scene, _chance: random.Random) -> Proof:
    """Redis is killed, and comes back with nothing."""
    return scene.stores.empty_redis()


def flush_redis(scene: Scene, _chance: random.Random) -> Proof:
    """FLUSHALL."""
    return scene.stores.flush_redis()


def restart_postgres(scene: Scene, _chance: random.Random) -> Proof:
    """Postgres is shut down at once and recovers."""
    return scene.stores.restart_postgres()


def cut(route: str) -> Fault:
    """Some or all connections to a store end."""

    def fault(scene: Scene, chance: random.Random) -> Proof:
        links = scene.stores.order(route, "cut", share=chance.choice((0.3, 1)), seed=chance.getrandbits(32))
        return {"cut": links} if links else {}

    return fault


def half_open(route: str) -> Fault:
    """Some connections to a store swallow all that is sent, and nobody is told."""

    def fault(scene: Scene, chance: random.Random) -> Proof:
        links = scene.stores.order(route, "half_open", share=0.3, seed=chance.getrandbits(32))
        hit = wait_until(lambda: bool(scene.stores.order(route, "touched")), 5)
        return {"half_open": links} if links and hit else {}

    return fault


def spoil(route: str, mood: str, least_s: float, most_s: float) -> Fault:
    """All connections to a store stall, trickle or are slow for a while."""

    def fault(scene: Scene, chance: random.Random) -> Proof:
        for_s = chance.uniform(least_s, most_s)
        links = scene.stores.order(route, "spoil", mood=mood, for_s=for_s)
        time.sleep(for_s)
        touched = scene.stores.order(route, "touched")
        return {"links": links, mood: touched, "for_s": round(for_s, 2)} if touched else {}

    return fault


def lose_commit(scene: Scene, chance: random.Random) -> Proof:
    """A commit is made, and whoever asked for it is not told."""
    what = chance.choice(("accept_run", "claim_run", "append_events", "end_run", "record_own_step", "UPDATE runs"))
    scene.stores.order("postgres", "lose", what=what)
    wait_until(lambda: bool(scene.stores.order("postgres", "lost")), LOST_S)
    lost = scene.stores.order("postgres", "lost")
    scene.stores.order("postgres", "lose", what=None)
    return {"lost": lost} if lost else {}


def double_message(scene: Scene, _chance: random.Random) -> Proof:
    """The broker delivers a message twice."""
    return messages.double(scene.stores)


def remove_message(scene: Scene, _chance: random.Random) -> Proof:
    """The broker loses a message."""
    return messages.remove(scene.stores)


def forge_message(scene: Scene, chance: random.Random) -> Proof:
    """Somebody without the key puts a message on the broker."""
    return messages.forge(scene.stores, chance, chance.choice(sorted(scene.history.users)))


def _one(scene: Scene, kind: str, chance: random.Random) -> psutil.Process | None:
    """Returns a running process of a kind, waiting a moment for one."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [p for p in scene.fleet.processes().get(kind, []) if _runs(p)]
        return bool(found)

    wait_until(look, GONE_S)
    found.sort(key=lambda process: process.pid)
    return chance.choice(found) if found else None


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    return False


def _ended(process: psutil.Process, how: signal.Signals) -> Proof:
    try:
        process.send_signal(how)
    except psutil.NoSuchProcess:
        return {}
    return {how.name: process.pid} if wait_until(lambda: not _runs(process), GONE_S) else {}


FAULTS: dict[str, Fault] = {
    "sandbox.kill": kill("sandbox"),
    "sandbox.stop": stop("sandbox", 0, 2),
    "worker.kill": kill("worker"),
    "worker.stop": stop("worker", 1, 1.5),
    "zygote.kill": kill("zygote"),
    "api.kill": kill("api"),
    "api.worker.kill": kill("api.worker"),
    "leader.kill": kill_leader,
    "redis.empty": empty_redis,
    "redis.flush": flush_redis,
    "redis.cut": cut("redis"),
    "redis.stall": spoil("redis", "stall", 0.5, 3),
    "redis.half_open": half_open("redis"),
    "redis.trickle": spoil("redis", "trickle", 0.5, 1.5),
    "postgres.cut": cut("postgres"),
    "postgres.stall": spoil("postgres", "stall", 0.5, 3),
    "postgres.half_open": half_open("postgres"),
    "postgres.delay": spoil("postgres", "delay", 0.5, 1.5),
    "postgres.restart": restart_postgres,
    "commit.lost": lose_commit,
    "message.double": double_message,
    "message.remove": remove_message,
    "message.forge": forge_message,
}
PASSING = (DBAPIError, psutil.Error)  # what a fault may raise because an earlier one is not over
