"""The leader's repairs, each called directly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis
import sqlalchemy as sa

from shared.errors import BusyError, UnavailableError
from shared.models import Run, Worker
from shared.outcomes import Lost
from shared.services import Services
from shared.threads import delete_thread
from tests.nodes import Node, age_worker, metric, take_messages
from tests.services import (
    OpenServices,
    Servers,
    an_agent,
    grant_run,
    in_parallel,
    slot,
    start_run,
    submit_run,
    superuser_engine,
)
from tests.steps import cancel, finish, row
from worker.leader import Leader


@pytest.fixture
def leader(node: Node) -> Leader:
    return node.parts.leader


@pytest.fixture
def dead(node: Node, superuser: sa.Connection) -> str:
    """The id of a worker that gave no sign of life for a lease."""
    return add_worker(node, superuser, "dead", node.services.settings.lease_s + 1)


def add_worker(node: Node, superuser: sa.Connection, worker_id: str, silent_s: float) -> str:
    with node.services.database.system_session() as session:
        session.add(Worker(id=worker_id, name=worker_id, agents=["echo"], queues=["default"], slots=1))
    age_worker(superuser, worker_id, silent_s)
    return worker_id


def worker_ids(services: Services) -> set[str]:
    with services.database.system_session() as session:
        return set(session.scalars(sa.select(Worker.id)))


# Dead workers


def test_the_runs_of_a_dead_worker_go_on_elsewhere(node: Node, leader: Leader, dead: str) -> None:
    run = start_run(node.services, node.submit("echo"), dead)
    assert leader.recovery.recover_dead_workers() == 1
    again = node.now(run)
    assert (again.status, again.attempt, again.lost_attempts, again.worker_id) == ("queued", 1, 1, None)
    event = node.log(run)[-1]
    assert (event["type"], event["data"]["reason"]) == ("run_recovering", "worker_lost")
    assert node.pump() == 1
    assert node.wait(run).attempt == 2


def test_a_worker_that_is_not_there_at_all_is_dead(node: Node, leader: Leader) -> None:
    run = start_run(node.services, node.submit("echo"), "removed")
    assert leader.recovery.recover_dead_workers() == 1
    assert node.now(run).status == "queued"


def test_who_gave_a_sign_of_life_within_the_lease_keeps_its_runs(
    node: Node, leader: Leader, superuser: sa.Connection
) -> None:
    slow = add_worker(node, superuser, "slow", node.services.settings.lease_s - 1)
    run = start_run(node.services, node.submit("echo"), slow)
    assert leader.recovery.recover_dead_workers() == 0
    assert node.now(run).status == "running"
    assert slow in worker_ids(node.services)


def test_the_last_attempt_of_a_dead_worker_fails_the_run_and_frees_its_slot(
    node: Node, leader: Leader, dead: str
) -> None:
    run = start_run(node.services, node.submit("echo", max_attempts=1), dead)
    node.services.slots.restore("alice", [slot(run)])
    leader.recovery.recover_dead_workers()
    ended = node.now(run)
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error["type"] == "worker_lost"
    assert node.slots() == []


def test_what_was_to_be_cancelled_ends_cancelled(node: Node, leader: Leader, dead: str) -> None:
    run = start_run(node.services, node.submit("echo"), dead)
    cancel(node.services.database, run)
    leader.recovery.recover_dead_workers()
    assert node.now(run).status == "cancelled"


def test_what_was_to_be_cancelled_ends_cancelled_in_its_last_attempt_too(node: Node, leader: Leader, dead: str) -> None:
    run = start_run(node.services, node.submit("wait"), dead)  # one attempt only
    cancel(node.services.database, run)
    leader.recovery.recover_dead_workers()
    assert node.now(run).status == "cancelled"


def test_a_dead_workers_row_goes_when_its_runs_have_gone(node: Node, leader: Leader, dead: str) -> None:
    start_run(node.services, node.submit("echo"), dead)
    leader.recovery.recover_dead_workers()
    assert dead in worker_ids(node.services)
    assert leader.recovery.recover_dead_workers() == 0
    assert dead not in worker_ids(node.services)


# Rows that somebody holds: what a sandbox has open whose node is gone

Hold = Callable[[Run], None]


@pytest.fixture
def hold(servers: Servers, database_name: str) -> Iterator[Hold]:
    """Keeps a run from being ended or removed until the end of the test."""
    with ExitStack() as stack:

        def hold(run: Run) -> None:
            connection = stack.enter_context(superuser_engine(servers.url(database_name)).connect())
            stack.enter_context(connection.execution_options(isolation_level="READ COMMITTED").begin())
            connection.execute(sa.text("SELECT FROM lanewise.runs WHERE id = :id FOR KEY SHARE"), {"id": run.id})

        yield hold


def test_a_run_that_cannot_be_ended_keeps_no_other_from_its_recovery(
    node: Node, leader: Leader, dead: str, hold: Hold
) -> None:
    lost = [start_run(node.services, node.submit("echo", user_id=user_id), dead) for user_id in ("alice", "bob", "eve")]
    parked = node.submit("echo", user_id="carol")
    leader._lease_s = 0
    hold(lost[0])
    leader.tick()
    assert [node.now(run).status for run in lost] == ["running", "queued", "queued"]
    assert node.now(parked).granted_at is not None
    leader.tick()
    assert leader._quiet_until <= time.monotonic()  # a held row is no outage


def test_a_thread_that_cannot_be_removed_keeps_no_other_from_it(
    node: Node, leader: Leader, hold: Hold, superuser: sa.Connection
) -> None:
    ended = [node.wait(node.begin("echo", user_id=user_id)) for user_id in ("alice", "bob", "eve")]
    for run in ended:
        with node.services.database.user_session(run.user_id) as session:
            assert delete_thread(session, run.user_id, run.thread_id)
    node.join()
    hold(ended[0])
    leader.recovery.clear_threads()
    assert list(superuser.scalars(sa.text("SELECT id FROM lanewise.threads"))) == [ended[0].thread_id]


def test_a_deleted_run_that_cannot_be_cancelled_keeps_no_other_from_it(
    node: Node, leader: Leader, hold: Hold, superuser: sa.Connection
) -> None:
    live = [node.submit("echo", user_id=user_id) for user_id in ("alice", "bob", "eve")]
    for run in live:
        with node.services.database.user_session(run.user_id) as session:
            assert delete_thread(session, run.user_id, run.thread_id)
    hold(live[0])
    leader.recovery.clear_threads()
    left = superuser.execute(sa.text("SELECT id, status FROM lanewise.runs")).all()
    assert left == [(live[0].id, "queued")]  # the others are cancelled, and removed with their threads


def test_a_repair_that_finds_its_rows_held_keeps_no_other_from_being_made(
    node: Node, leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held() -> None:
        raise BusyError("held")

    monkeypatch.setattr(leader.lanes, "keep_granted", held)
    parked = node.submit("echo", user_id="bob")
    leader.tick()
    assert node.now(parked).granted_at is not None


def test_a_tick_after_an_abandoned_sweep_is_not_late(
    node: Node, leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise UnavailableError("away")

    assert node
    leader._ticked_at = before = time.monotonic() - 60
    monkeypatch.setattr(leader.lanes, "keep_granted", away)
    with pytest.raises(UnavailableError):
        leader.tick()
    assert leader._ticked_at > before + 59  # else it were quiet for ever


# Two leaders


@pytest.fixture
def rivals(open_services: OpenServices) -> list[Leader]:
    """Leaders of four more workers."""
    return [Leader(open_services(sweep_s=0.1), f"leader-{number}") for number in range(4)]


def test_only_who_holds_the_lease_repairs_and_the_next_takes_it_over(
    node: Node, leader: Leader, rivals: list[Leader], superuser: sa.Connection
) -> None:
    leader.tick()
    run = node.submit("echo")
    rivals[0].tick()
    assert node.now(run).granted_at is None
    leader.tick()
    assert node.now(run).granted_at is not None
    superuser.execute(sa.text("UPDATE lanewise.leases SET expires_at = now() - interval '1 s'"))
    rivals[0].tick()
    other = node.submit("echo", user_id="bob")
    leader.tick()
    assert node.now(other).granted_at is None
    rivals[0].tick()
    assert node.now(other).granted_at is not None


def test_leaders_that_repair_at_once_change_nothing_wrong(
    node: Node, rivals: list[Leader], dead: str, superuser: sa.Connection
) -> None:
    lost = [start_run(node.services, node.submit("echo", user_id=f"user-{n % 3}"), dead) for n in range(12)]
    last = start_run(node.services, node.submit("echo", max_attempts=1), dead)
    parked = [node.submit("echo", user_id="bob") for _ in range(5)]
    granted = node.submit("echo", user_id="carol")
    grant_run(node.services, granted)
    superuser.execute(sa.text("UPDATE lanewise.runs SET sent_at = now() - interval '1 h' WHERE status = 'queued'"))

    def repair(number: int) -> None:
        rivals[number].recovery.recover_dead_workers()
        rivals[number].lanes.keep_granted()
        rivals[number].recovery.send_again()
        rivals[number].lanes.admit_parked()

    in_parallel(len(rivals), repair)
    for run in lost:
        assert (node.now(run).lost_attempts, node.now(run).attempt) == (1, 1)
        assert [kind for kind in node.kinds(run) if kind != "run_position"] == [
            "run_queued", "run_started", "run_recovering",
        ]  # fmt: skip
    assert node.now(last).status == "failed"
    assert node.kinds(last) == ["run_queued", "run_started", "run_failed"]
    limit = node.services.settings.user_concurrent_runs
    for user_id in ("user-0", "user-1", "user-2", "bob"):
        assert len(node.slots(user_id)) == limit
    assert sum(node.now(run).granted_at is not None for run in parked) == limit
    assert node.now(granted).sends == 2
    for run in (*lost, *parked, granted):
        node.pump()
        node.wait(run, "completed")
        assert node.kinds(run).count("run_completed") == 1


def test_after_an_outage_everybody_gets_a_lease_of_time(node: Node, leader: Leader, dead: str) -> None:
    leader._lease_s = 0  # the Postgres of the tests may be younger than a lease
    leader.tick()
    assert dead not in worker_ids(node.services)
    leader._lease_s = 60
    run = start_run(node.services, node.submit("echo"), "silent")
    assert leader._ticked_at is not None
    leader._ticked_at -= 60  # the last tick was long ago: Postgres was away, or this process stood still
    leader.tick()
    assert node.now(run).status == "running"
    leader._lease_s = leader._quiet_until = 0  # the lease is over
    leader.tick()
    assert node.now(run).status == "queued"


def test_while_postgres_has_not_been_up_for_a_lease_nobody_is_declared_dead(
    node: Node, leader: Leader, dead: str
) -> None:
    run = start_run(node.services, node.submit("echo"), dead)
    leader._lease_s = 10 * 86_400  # surely longer than the tests' Postgres is up
    leader.tick()
    assert node.now(run).status == "running"
    leader._lease_s = leader._quiet_until = 0
    leader.tick()
    assert node.now(run).status == "queued"


# Lost messages


def sweep(leader: Leader, times: int = 3) -> None:
    """Ticks as often as it takes to see a queue empty for a whole sweep."""
    interval_s = leader.lanes._services.settings.sweep_s
    for _ in range(times):
        leader.tick()
        assert not leader._stopping.wait(interval_s)


def test_a_message_that_got_lost_is_sent_again(node: Node, leader: Leader) -> None:
    run = node.submit("echo")
    node.services.dispatcher.admit("alice")
    assert len(take_messages(node.services)) == 1  # and whoever had it died
    sent = metric("lanewise_repaired_total", reason="message_lost")
    sweep(leader)
    assert node.now(run).sends >= 2
    assert metric("lanewise_repaired_total", reason="message_lost") > sent
    assert node.pump() >= 1
    assert node.wait(run).status == "completed"
    node.join()
    assert node.kinds(run).count("run_started") == 1


def test_what_waits_in_a_queue_is_not_sent_again(node: Node, leader: Leader) -> None:
    run = node.submit("echo")
    node.services.dispatcher.admit("alice")
    sweep(leader)
    assert node.now(run).sends == 1
    assert len(take_messages(node.services)) == 1


def test_the_wait_before_a_very_old_message_is_sent_again_doubles(
    node: Node, leader: Leader, superuser: sa.Connection
) -> None:
    run, other = node.submit("echo"), node.submit("echo")
    node.services.dispatcher.admit("alice")  # the other's message keeps the queue from being empty
    lease_s = node.services.settings.lease_s

    def sends_at_age(age_s: float) -> int:
        superuser.execute(
            sa.text("UPDATE lanewise.runs SET sent_at = now() - make_interval(secs => :age) WHERE id = :id"),
            {"age": age_s, "id": run.id},
        )
        leader.recovery.send_again()
        return node.now(run).sends

    assert sends_at_age(4 * lease_s - 1) == 1
    assert sends_at_age(4 * lease_s + 1) == 2
    assert sends_at_age(4 * lease_s + 1) == 2
    assert sends_at_age(8 * lease_s + 1) == 3
    assert node.now(other).sends == 1


def test_a_run_whose_agent_nobody_has_holds_no_slot_until_somebody_has_it(node: Node, leader: Leader) -> None:
    run = submit_run(node.services, agent=an_agent("elsewhere"), served=False)
    grant_run(node.services, run)  # by somebody who saw a worker that has gone meanwhile
    sweep(leader)
    assert node.now(run).granted_at is None
    assert node.services.dispatcher.admit("alice") == 0
    with node.services.database.system_session() as session:
        session.add(an_agent("elsewhere"))
        session.add(Worker(id="new", name="new", agents=["elsewhere"], queues=["default"], slots=1))
    sweep(leader)
    assert node.now(run).granted_at is not None


# Slots and parked runs


def test_granted_runs_keep_their_slots_until_somebody_claims_them(
    node: Node, leader: Leader, redis_client: redis.Redis
) -> None:
    run = node.submit("echo")
    node.services.dispatcher.admit("alice")
    redis_client.flushall()
    assert node.slots() == []
    leader.lanes.keep_granted()
    assert node.slots() == [slot(run)]


def test_a_slot_that_nobody_has_a_right_to_is_freed_after_a_sweep(node: Node, leader: Leader) -> None:
    runs = [node.submit("echo") for _ in range(4)]
    node.services.slots.acquire("alice", ["gone:1", "gone:2"], 9, lambda: ())
    repaired = metric("lanewise_repaired_total", reason="slot_leaked")
    assert node.services.dispatcher.admit("alice") == 1
    assert leader.lanes.admit_parked() == 0  # it may be of an admission that is under way
    assert leader.lanes.admit_parked() == 2
    assert metric("lanewise_repaired_total", reason="slot_leaked") == repaired + 2
    assert sorted(node.slots()) == sorted(map(slot, runs[:3]))


def test_the_lanes_are_counted(node: Node, leader: Leader) -> None:
    for _ in range(5):
        node.submit("echo")
    assert node.services.dispatcher.admit("alice") == 3
    start_run(node.services, node.submit("echo", user_id="bob"))
    node.services.slots.restore("bob", ["x:1"])
    leader.lanes.keep_granted()
    leader.lanes.count()
    counted = {where: metric("lanewise_runs", where=where) for where in ("granted", "parked", "running")}
    assert counted == {"granted": 3, "parked": 2, "running": 1}
    assert metric("lanewise_slots_held") == 4
    assert 0 < metric("lanewise_oldest_granted_seconds", queue="default") < 60


def test_of_very_many_lost_slots_some_are_taken_again_in_each_sweep(
    node: Node, leader: Leader, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.lanes.MAX_USERS", 2)
    users = ["alice", "bob", "carol"]
    for user_id in users:
        node.submit("echo", user_id=user_id)
        node.services.dispatcher.admit(user_id)
    redis_client.flushall()
    leader.lanes.keep_granted()
    assert sum(len(node.slots(user_id)) for user_id in users) == 2
    leader.lanes.keep_granted()
    assert sum(len(node.slots(user_id)) for user_id in users) == 3


def test_who_does_not_lead_counts_nothing(node: Node, leader: Leader, rivals: list[Leader]) -> None:
    node.submit("echo")
    leader.tick()
    assert metric("lanewise_runs", where="granted") == 1
    rivals[0].tick()
    assert metric("lanewise_runs", where="granted") == 0
    assert metric("lanewise_oldest_granted_seconds", queue="default") == 0


def test_parked_runs_are_admitted_whatever_should_have_done_it(node: Node, leader: Leader) -> None:
    runs = [node.submit("echo", user_id=user_id) for user_id in ("alice", "bob") for _ in range(4)]
    leader.tick()
    limit = node.services.settings.user_concurrent_runs
    assert [node.now(run).granted_at is not None for run in runs] == ([True] * limit + [False] * (4 - limit)) * 2
    assert len(take_messages(node.services)) == 2 * limit


def test_no_user_waits_for_ever_behind_those_whose_slots_are_full(
    node: Node, leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.lanes.MAX_USERS", 1)
    limit = node.services.settings.user_concurrent_runs
    full = [node.submit("echo", user_id="alice") for _ in range(limit + 1)]
    other = node.submit("echo", user_id="bob")
    sweep(leader)
    assert node.now(full[-1]).granted_at is None  # so alice is found in every sweep
    assert node.now(other).granted_at is not None


def test_one_repair_that_fails_does_not_keep_the_others_from_being_made(
    node: Node, leader: Leader, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader.lanes, "keep_granted", lambda: 1 / 0)
    leader._lease_s = 0
    run = start_run(node.services, node.submit("echo"), dead)
    parked = node.submit("echo", user_id="bob")
    leader.tick()
    assert node.now(run).attempt == 1
    assert node.now(run).status == "queued"
    assert node.now(parked).granted_at is not None


def test_a_tick_on_a_healthy_fleet_changes_nothing(node: Node, leader: Leader) -> None:
    running = node.begin("wait")
    node.wait_for_text(running)
    ended = node.wait(node.begin("echo", user_id="bob"))
    before = [row(node.services.database, run) for run in (running, ended)]
    sweep(leader, 2)
    assert [row(node.services.database, run) for run in (running, ended)] == before
    assert take_messages(node.services) == []


def test_a_leader_without_redis_goes_on_repairing(
    node: Node, leader: Leader, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(node.services, node.submit("echo"), dead)

    def away(*_: object, **__: object) -> None:
        raise redis.ConnectionError("away")

    leader._lease_s = 0
    for script in ("_renew", "_acquire"):
        monkeypatch.setattr(node.services.slots, script, away)
    leader.tick()
    assert (node.now(run).status, node.now(run).granted_at) == ("queued", None)
    monkeypatch.undo()
    leader.tick()
    assert node.now(run).granted_at is not None


def test_those_behind_are_told_where_they_stand(node: Node, leader: Leader) -> None:
    runs = [node.submit("echo") for _ in range(5)]
    leader.tick()
    places = [[event["data"]["position"] for event in node.log(run) if event["type"] == "run_position"] for run in runs]
    assert places == [[], [], [], [1], [2]]


def test_a_run_whose_pause_is_over_is_admitted(node: Node, leader: Leader, superuser: sa.Connection) -> None:
    run = start_run(node.services, node.submit("echo"))
    finish(node.services.database, run, Lost("retry", "busy", after_s=60))
    leader.tick()
    assert node.now(run).granted_at is None
    superuser.execute(sa.text("UPDATE lanewise.runs SET not_before = now()"))
    leader.tick()
    assert node.now(run).granted_at is not None


def test_what_is_past_retention_is_removed_and_looked_for_once_a_minute(
    node: Node, leader: Leader, superuser: sa.Connection
) -> None:
    old = [node.wait(node.begin("echo")) for _ in range(2)]

    def age(run: Run) -> None:
        statement = "UPDATE lanewise.runs SET finished_at = now() - interval '31 days' WHERE id = :id"
        superuser.execute(sa.text(statement), {"id": run.id})

    def left() -> int:
        return int(superuser.execute(sa.text("SELECT count(*) FROM lanewise.runs")).scalar_one())

    node.join()
    age(old[0])
    leader.tick()
    assert left() == 1
    age(old[1])
    leader.tick()
    assert left() == 1
    leader.recovery._remove_at = 0
    leader.tick()
    assert left() == 0
