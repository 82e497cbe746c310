"""Users, workers, leaders and a broker's messages as one state machine, over real Postgres and Redis.

The code is the fleet's own; only sandboxes and threads are left out. So each step happens as a whole, in any order, and
what a process leaves behind that dies between two of its steps is a step that is never made.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import sqlalchemy as sa
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lanewise.process import wait_until
from shared import lanes, runs
from shared.events import TERMINAL, StoredEvent
from shared.ids import new_id
from shared.messages import RunMessage
from shared.models import Run
from shared.outcomes import Completed, Failed, Lost, Outcome
from shared.redis import connect
from shared.services import Services
from tests.nodes import take_messages
from tests.services import an_agent, serve, submit_run
from worker.alarm import Alarm
from worker.claims import Claims
from worker.heartbeat import Heartbeat
from worker.leader import Leader
from worker.live import LiveRun

USERS = ("alice", "bob")
WORKERS = 3
AGENTS = ("echo",)
SWEEPS = 3  # a leaked slot is suspected in one, freed in the next; a lost message likewise
PATIENCE_S = 30.0
OUTCOMES: list[Outcome] = [
    Completed(1), Failed("ValueError", "bad"), Lost("sandbox_died", "killed"),
    Lost("drained", "stopped", counted=False), Lost("retry", "busy", after_s=3600),
]  # fmt: skip


@dataclass
class Worker:
    """A worker process, without threads and sandboxes."""

    services: Services
    id: str = field(default_factory=new_id)
    live: dict[str, LiveRun] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Its moments are never waited for: a pause of an hour is ended by the step that lets time pass.
        self.claims = Claims(self.services, self.id, lambda: AGENTS, Alarm(lambda _: None))
        self.heartbeat = Heartbeat(self.services, self.id, self.live, self.announce)
        self.announce()

    def announce(self) -> None:
        with self.services.database.system_session() as session:
            session.execute(
                sa.text("""
                    INSERT INTO workers (id, name, agents, queues, slots) VALUES (:id, :id, '{echo}', '{default}', 1)
                """),
                {"id": self.id},
            )

    def take(self, message: RunMessage) -> None:
        claimed = self.claims.take(message)
        if claimed is not None:
            self.live[claimed.run.id] = LiveRun(claimed.run)

    def end(self, live: LiveRun, outcome: Outcome) -> list[StoredEvent] | None:
        """Writes the end of an attempt; the slot is freed by `Claims.settle`, if the worker comes to that."""
        del self.live[live.run.id]
        live.close()
        with self.services.database.user_session(live.run.user_id) as session:
            return runs.finish(session, live.run, outcome, f"worker:{self.id}")


class Lanes(RuleBasedStateMachine):
    """See the module. Bind `services` and `superuser` in a subclass."""

    services: ClassVar[Services]
    superuser: ClassVar[sa.Connection]
    steps: ClassVar[int] = 0

    @initialize(limits=st.tuples(*[st.integers(1, 3)] * len(USERS)), taken=st.integers(0, 4))
    def start(self, limits: tuple[int, ...], taken: int) -> None:
        # What a broken example left behind belongs to another story.
        self.superuser.execute(
            sa.text("TRUNCATE lanewise.workers, lanewise.threads, lanewise.user_streams, lanewise.run_events CASCADE")
        )
        self.redis = connect(self.services.settings.redis_url.get_secret_value())
        self.redis.flushdb()
        take_messages(self.services)
        serve(self.services, an_agent())  # so that there always is somebody to run it
        self.workers = [Worker(self.services) for _ in range(WORKERS)]
        self.leaders = [Leader(self.services, f"leader-{number}") for number in range(2)]
        self.messages: list[RunMessage] = []  # on their way from the broker to a worker, or copies of some
        self.limits = dict(zip(USERS, limits, strict=True))
        self.allowed = dict(self.limits)  # what may be live: lowering a limit ends no run
        self.submitted: list[Run] = []
        self.begun: list[tuple[str, lanes.NextRuns]] = []
        self.unsettled: list[tuple[Worker, Run, list[StoredEvent] | None]] = []
        for user_id, limit in self.limits.items():
            self._set_limit(user_id, limit)
            self.submit(user_id, limit + 2, admitted=True, max_attempts=2)
        self._deliver()
        for number in range(min(taken, len(self.messages))):
            self.workers[number % WORKERS].take(self.messages.pop(0))

    # What users and administrators do

    @rule(
        user_id=st.sampled_from(USERS), count=st.integers(1, 4), admitted=st.booleans(), max_attempts=st.integers(1, 3)
    )
    def submit(self, user_id: str, count: int, *, admitted: bool, max_attempts: int) -> None:
        self.submitted.extend(
            submit_run(self.services, user_id, agent=an_agent(max_attempts=max_attempts), served=False)
            for _ in range(count)
        )
        if admitted:  # else the api died in between
            self.services.dispatcher.admit(user_id)

    @rule(user_id=st.sampled_from(USERS), limit=st.integers(1, 4))
    def resize(self, user_id: str, limit: int) -> None:
        self._set_limit(user_id, limit)
        self.limits[user_id] = limit
        self.allowed[user_id] = max(limit, self.allowed[user_id])
        self.services.dispatcher.admit(user_id)

    @precondition(lambda self: self.submitted)
    @rule(data=st.data(), freed=st.booleans())
    def cancel(self, data: st.DataObject, *, freed: bool) -> None:
        run = data.draw(st.sampled_from(self.submitted))
        with self.services.database.user_session(run.user_id) as session:
            answer = runs.request_cancel(session, run.user_id, run.id)
        assert answer is not None
        now, stored = answer
        if stored and now.granted_at is not None and freed:
            self.services.dispatcher.release(run.user_id, run.id, now.attempt + 1)

    # What the broker does

    @precondition(lambda self: self._deliver())
    @rule(data=st.data(), lost=st.booleans())
    def double_or_lose(self, data: st.DataObject, *, lost: bool) -> None:
        message = data.draw(st.sampled_from(self.messages))
        if lost:
            self.messages.remove(message)
        else:
            self.messages.append(message)

    # What workers do

    @precondition(lambda self: self._deliver())
    @rule(data=st.data(), worker=st.integers(0, WORKERS - 1))
    def take(self, data: st.DataObject, worker: int) -> None:
        message = data.draw(st.sampled_from(self.messages))
        self.messages.remove(message)
        self.workers[worker].take(message)

    @precondition(lambda self: any(worker.live for worker in self.workers))
    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES), settled=st.booleans())
    def end(self, data: st.DataObject, outcome: Outcome, *, settled: bool) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.live]))
        live = data.draw(st.sampled_from(list(worker.live.values())))
        stored = worker.end(live, outcome)
        if stored:  # else it was superseded: then it writes nothing
            assert self._row(live.run).attempt == live.run.attempt
        if settled:
            worker.claims.settle(live.run, stored)
        else:  # later, or never: then its worker died between the two
            self.unsettled.append((worker, live.run, stored))

    @precondition(lambda self: self.unsettled)
    @rule(data=st.data())
    def settle_late(self, data: st.DataObject) -> None:
        worker, run, stored = self.unsettled.pop(data.draw(st.integers(0, len(self.unsettled) - 1)))
        worker.claims.settle(run, stored)

    @rule(worker=st.integers(0, WORKERS - 1))
    def beat(self, worker: int) -> None:
        self.workers[worker].heartbeat.tick()

    @rule(worker=st.integers(0, WORKERS - 1), goes_on=st.booleans())
    def fall_silent(self, worker: int, *, goes_on: bool) -> None:
        """The worker dies; or it stands still past its lease, and goes on as if nothing had happened."""
        old = self.workers[worker]
        self.superuser.execute(
            sa.text("UPDATE lanewise.workers SET heartbeat_at = now() - interval '1 day' WHERE id = :id"),
            {"id": old.id},
        )
        if not goes_on:
            for live in old.live.values():
                live.close()
            self.workers[worker] = Worker(self.services)

    @rule(user_id=st.sampled_from(USERS))
    def admit(self, user_id: str) -> None:
        """Whatever frees or needs a slot ends with this."""
        self.services.dispatcher.admit(user_id)

    @rule(user_id=st.sampled_from(USERS))
    def begin_admission(self, user_id: str) -> None:
        """Somebody has looked at what may start, and stands still."""
        self.begun.append((user_id, lanes.next_runs(self.services.database.once(user_id), user_id, 3)))

    @precondition(lambda self: self.begun)
    @rule(data=st.data())
    def finish_admission(self, data: st.DataObject) -> None:
        """And goes on, whatever has happened since."""
        user_id, found = self.begun.pop(data.draw(st.integers(0, len(self.begun) - 1)))
        self.allowed[user_id] = max(self.allowed[user_id], found.slots)  # it goes by the limit that it has read
        self.services.dispatcher._grant(user_id, found)

    @rule(user_id=st.sampled_from(USERS))
    def die_while_admitting(self, user_id: str) -> None:
        """Slots are taken, and nothing is granted."""
        found = lanes.next_runs(self.services.database.once(user_id), user_id, 3)
        self.services.dispatcher.take(user_id, found.members, found.slots)

    # What time and Redis do

    @rule(user_id=st.sampled_from(USERS))
    def end_leases(self, user_id: str) -> None:
        """Nobody has renewed the user's slots for a lease: no worker reached Redis."""
        key = self.services.keys.slots(user_id)
        for name in self.services.slots.held(user_id):
            self.redis.zadd(key, {name: 1}, xx=True)

    @rule()
    def end_pauses(self) -> None:
        self.superuser.execute(sa.text("UPDATE lanewise.runs SET not_before = now() WHERE not_before IS NOT NULL"))

    @rule()
    def wipe(self) -> None:
        self.redis.flushdb()

    # What leaders do

    @rule(leader=st.integers(0, 1))
    def sweep(self, leader: int) -> None:
        self._sweep(self.leaders[leader])

    @rule(leader=st.integers(0, 1))
    def settle_down(self, leader: int) -> None:
        """Beats and a few sweeps of one leader, and nothing else: no slot is free beside a run that waits for one."""
        for worker in self.workers:
            worker.heartbeat.tick()
        for _ in range(SWEEPS):
            self._sweep(self.leaders[leader])
        for user_id in USERS:
            waiting = lanes.next_runs(self.services.database.once(user_id), user_id, 3).members
            held = lanes.holders(self.services.database.once(user_id), user_id)
            assert not waiting or len(held) >= self.limits[user_id], (user_id, waiting, held)
            # Slots of nobody may be there besides, as long as nobody waits for them, until their lease ends.
            assert held <= set(self.services.slots.held(user_id)), user_id

    # What always holds

    @invariant()
    def limits_hold(self) -> None:
        type(self).steps += 1
        for user_id in getattr(self, "limits", ()):
            with self.services.database.user_session(user_id) as session:
                query = (
                    "SELECT count(*) FROM runs WHERE status = 'running' OR status = 'queued' AND granted_at IS NOT NULL"
                )
                live = session.scalar(sa.text(query))
            assert live <= self.allowed[user_id], f"{user_id} has {live} live runs, {self.allowed[user_id]} are allowed"
            self.allowed[user_id] = max(self.limits[user_id], live)

    def teardown(self) -> None:
        """Everything comes to its end, exactly once, and a lease later no slot is left."""
        if not hasattr(self, "limits"):
            return
        try:
            assert wait_until(self._all_ended, PATIENCE_S), self._unended()
            for run in self.submitted:
                with self.services.database.user_session(run.user_id) as session:
                    query = sa.text("SELECT type FROM run_events WHERE run_id = :id AND type = ANY (:ends)")
                    kinds = [str(kind) for kind in TERMINAL.values()]
                    ends = session.scalars(query, {"id": run.id, "ends": kinds}).all()
                assert ends == [f"run_{self._row(run).status}"], run.id
            for user_id in USERS:
                assert lanes.holders(self.services.database.once(user_id), user_id) == set()
                self.end_leases(user_id)
            for worker in self.workers:
                worker.heartbeat.tick()
            for leader in self.leaders:
                self._sweep(leader)
            assert {user_id: self.services.slots.held(user_id) for user_id in USERS} == {user: [] for user in USERS}
        finally:
            for worker in self.workers:
                for live in worker.live.values():
                    live.close()
            self.redis.close()

    def _row(self, run: Run) -> Run:
        with self.services.database.user_session(run.user_id) as session:
            found = runs.find(session, run.user_id, run.id)
        assert found is not None
        return found

    def _all_ended(self) -> bool:
        self.end_pauses()
        self._sweep(self.leaders[0])
        self._deliver()
        messages, self.messages = self.messages, []
        random.Random(len(messages)).shuffle(messages)
        for number, message in enumerate(messages):
            self.workers[number % WORKERS].take(message)
        for worker in self.workers:
            worker.heartbeat.tick()
            for live in list(worker.live.values()):
                worker.claims.settle(live.run, worker.end(live, Completed(1)))
        return not self._unended()

    def _deliver(self) -> bool:
        """Takes what the broker has; returns whether any message is there to be handled."""
        new = [RunMessage.decode(text, self.services.signer) for text in take_messages(self.services)]
        places = {run.id: place for place, run in enumerate(self.submitted)}
        # In the same order whenever the story is told: the sweeps go through the users as chance will have it.
        self.messages += sorted(new, key=lambda message: (places[message.context.run_id], message.attempt))
        return bool(self.messages)

    def _unended(self) -> list[Any]:
        query = (
            "SELECT user_id, id, status, attempt, granted_at, worker_id FROM lanewise.runs WHERE finished_at IS NULL"
        )
        return list(self.superuser.execute(sa.text(query)).all())

    def _sweep(self, leader: Leader) -> None:
        leader.lanes._renewed_at = -1e9  # a sweep of this test is as long as a third of a lease
        self.superuser.execute(sa.text("UPDATE lanewise.runs SET sent_at = sent_at - interval '1 minute'"))
        repairs: list[Callable[[], object]] = [
            leader.recovery.recover_dead_workers, leader.lanes.keep_granted, leader.lanes.park_unserved,
            leader.recovery.send_again, leader.lanes.admit_parked, leader.lanes.tell_positions,
        ]  # fmt: skip
        for repair in repairs:
            repair()

    def _set_limit(self, user_id: str, limit: int) -> None:
        self.superuser.execute(
            sa.text("""
                INSERT INTO lanewise.user_limits (user_id, concurrent_runs) VALUES (:user_id, :limit)
                ON CONFLICT (user_id) DO UPDATE SET concurrent_runs = excluded.concurrent_runs
            """),
            {"user_id": user_id, "limit": limit},
        )


def run_lanes(services: Services, superuser: sa.Connection, examples: int, steps: int, seed: int | None = None) -> int:
    """Lets Hypothesis look for a story that breaks a promise: `examples` stories of at most `steps` steps each.

    Args:
        seed: decides which stories; None: Hypothesis does.

    Returns:
        how many steps were made.
    """
    bound = type("Bound", (Lanes,), {"services": services, "superuser": superuser, "steps": 0})
    bound._hypothesis_internal_use_seed = seed  # type: ignore[attr-defined]
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    options = hypothesis_settings(
        deadline=None, max_examples=examples, stateful_step_count=steps, suppress_health_check=checks
    )
    run_state_machine_as_test(bound, settings=options)
    return int(bound.steps)  # type: ignore[attr-defined]
