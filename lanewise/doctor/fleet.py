"""The fleet at work: workers, what they serve, the leader, slots against live runs, what waits too long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import exists, func, select, text

from lanewise.doctor.findings import Finding, failed, ok, warning
from lanewise.process import wait_until
from shared.catalogue import alive, running_agents
from shared.models import Agent, Run, Worker
from shared.services import Services
from shared.states import ExecutionState
from shared.survey import survey

LONG_GRANTED_S = 60.0
POLL_S = 0.5
SHOWN = 5
_LEADER = text("""
    SELECT coalesce(w.name, l.holder) FROM leases l LEFT JOIN workers w ON w.id = l.holder
    WHERE l.name = 'leader' AND l.expires_at > clock_timestamp()
""")


def workers(services: Services) -> Iterator[Finding]:
    """Checks that workers are alive, by their last sign of life."""
    age = func.extract("epoch", func.clock_timestamp() - Worker.heartbeat_at)
    with services.database.system_session() as session:
        found = session.execute(select(Worker.name, Worker.slots, Worker.draining, age.label("age"))).all()
    lease_s = services.settings.lease_s
    alive = [worker for worker in found if worker.age <= lease_s]
    serving = [worker for worker in alive if not worker.draining]
    silent = [worker.name for worker in found if worker.age > lease_s]
    if not serving:
        yield failed("workers", "no worker takes runs", "start one: celery -A worker worker -P threads")
    else:
        oldest = max(float(worker.age) for worker in serving)
        slots = sum(worker.slots for worker in serving)
        yield ok("workers", f"{len(serving)} with {slots} slots; the last sign of life is {oldest:.1f} s old")
    if silent:
        yield warning("workers", f"silent for a lease: {_some(silent)}", "the leader takes their runs over")
    if len(alive) > len(serving):
        yield ok("workers", f"{len(alive) - len(serving)} about to end")


def agents(services: Services) -> Iterator[Finding]:
    """Checks that what is known, and what waits, has a worker that serves it."""
    lease_s = services.settings.lease_s
    with services.database.system_session() as session:
        served = {agent.name for agent in running_agents(session, lease_s)}
        known = set(session.scalars(select(Agent.name)))
        has = exists().where(Run.agent == Worker.agents.any_(), Run.queue == Worker.queues.any_(), alive(lease_s))
        waiting = session.execute(
            select(Run.agent, Run.queue, func.count())
            .where(Run.status == ExecutionState.QUEUED, ~has)
            .group_by(Run.agent, Run.queue)
        ).all()
    for agent, queue, count in waiting:
        yield failed(
            "agents",
            f"{count} queued runs of {agent} wait: no worker has it and serves its queue {queue}",
            f"start a worker that has {agent}, with LANEWISE_QUEUES={queue}",
        )
    if idle := sorted(known - served - {agent for agent, *_ in waiting}):
        yield warning("agents", f"known, but no worker serves them: {_some(idle)}")
    if served:
        yield ok("agents", f"{len(served)} served: {_some(sorted(served))}")


def leader(services: Services) -> Iterator[Finding]:
    """Checks that somebody holds the leader's lease; after a death it takes a lease until somebody does."""
    holder: str | None = None

    def held() -> bool:
        nonlocal holder
        with services.database.system_session() as session:
            holder = session.scalar(_LEADER)
        return holder is not None

    patience_s = _patience_s(services)
    if wait_until(held, patience_s):
        yield ok("leader", str(holder))
    else:
        cure = "start a worker; if there is one, its log says why it does not lead"
        yield failed("leader", f"nobody led within {patience_s:g} s: nothing is repaired", cure)


def slots(services: Services) -> Iterator[Finding]:
    """Checks that slots held are live runs: a difference that stays for a lease and a sweep is an error."""
    deadline = time.monotonic() + _patience_s(services)
    found = survey(services)
    if not found.redis:
        yield failed("slots", "cannot be compared with live runs: Redis does not answer", "see redis")
        return
    lasting = {(user.key, member) for user in found.users for member in (*user.leaked, *user.missing)}
    while lasting and time.monotonic() < deadline:
        time.sleep(POLL_S)
        found = survey(services)
        lasting &= {(user.key, member) for user in found.users for member in (*user.leaked, *user.missing)}
    leaked = [item for user in found.users for item in user.leaked if (user.key, item) in lasting]
    missing = [item for user in found.users for item in user.missing if (user.key, item) in lasting]
    cure = "GET /v1/admin/slots shows whose; the workers' logs say what the leader could not repair"
    if leaked:
        yield failed("slots", f"{len(leaked)} held by no live run: {_some(leaked)}", cure)
    if missing:
        yield failed("slots", f"{len(missing)} live runs without their slot: {_some(missing)}", cure)
    if not found.complete:
        yield warning("slots", "not all keys of Redis were looked at", "give Lanewise a Redis database of its own")
    if not lasting:
        running = sum(user.running for user in found.users)
        granted = sum(user.granted for user in found.users)
        yield ok("slots", f"{found.held} held: {running} runs running, {granted} granted")


def waiting(services: Services) -> Iterator[Finding]:
    """Tells how long the oldest granted run has been waiting for a worker: the figure to scale by."""
    granted = (Run.status == ExecutionState.QUEUED) & Run.granted_at.is_not(None)
    age = func.extract("epoch", func.clock_timestamp() - func.min(Run.granted_at))
    with services.database.system_session() as session:
        count, oldest = session.execute(select(func.count(), age).where(granted)).one()
    if not count:
        yield ok("waiting", "no granted run waits for a worker")
    elif float(oldest) > LONG_GRANTED_S:
        yield warning("waiting", f"{_granted(count, oldest)}", "start more workers, or look why they take no runs")
    else:
        yield ok("waiting", f"{_granted(count, oldest)}")


def _granted(count: int, oldest: Any) -> str:
    return f"{count} granted runs wait for a worker, the oldest for {float(oldest):.1f} s"


def _patience_s(services: Services) -> float:
    return services.settings.lease_s + services.settings.sweep_s + 1


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
