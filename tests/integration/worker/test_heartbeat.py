"""What a worker tells and hears with each beat."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence

import pytest
import redis
import sqlalchemy as sa

from lanewise.process import wait_until
from shared.models import Run, Worker
from shared.services import Services
from tests.nodes import Node, age_worker, metric
from tests.services import Servers, slot, start_run, submit_run
from tests.steps import cancel
from worker.zygote_client import ZygoteClient


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Of this file's own: they are stopped here, and others keep connections to theirs."""
    with Servers.start() as running:
        yield running


def worker_row(node: Node) -> Worker | None:
    with node.services.database.system_session() as session:
        return session.get(Worker, node.id)


# Its own row and slots


def test_a_beat_renews_the_workers_row(node: Node, superuser: sa.Connection) -> None:
    age_worker(superuser, node.id, 100)
    before = worker_row(node)
    node.parts.heartbeat.tick()
    after = worker_row(node)
    assert before is not None
    assert after is not None
    assert (after.heartbeat_at - before.heartbeat_at).total_seconds() > 99
    assert after.agents == [entry["name"] for entry in node.parts.zygote.agents]


def test_a_worker_that_was_declared_dead_announces_itself_again(node: Node, superuser: sa.Connection) -> None:
    superuser.execute(sa.text("DELETE FROM lanewise.workers"))
    node.parts.heartbeat.tick()
    assert worker_row(node) is not None


def test_a_beat_that_comes_late_does_not_announce_a_worker_that_has_closed(
    node: Node, superuser: sa.Connection
) -> None:
    node.parts._closing.set()
    superuser.execute(sa.text("DELETE FROM lanewise.workers"))
    node.parts.heartbeat.tick()
    assert worker_row(node) is None


def test_a_beat_renews_the_slots_of_running_runs_and_puts_missing_ones_back(
    node: Node, redis_client: redis.Redis
) -> None:
    hers, his = node.begin("wait"), node.begin("wait", user_id="bob")
    node.live(hers)
    node.live(his)
    key = node.services.keys.slots("alice")
    redis_client.zadd(key, {slot(hers): time.time() + 0.2})
    redis_client.delete(node.services.keys.slots("bob"))
    repaired = metric("lanewise_repaired_total", reason="slot_of_running_run")
    node.parts.heartbeat.tick()
    assert metric("lanewise_repaired_total", reason="slot_of_running_run") == repaired + 1
    assert (node.slots("alice"), node.slots("bob")) == ([slot(hers)], [slot(his)])
    assert redis_client.zscore(key, slot(hers)) > time.time() + node.services.settings.lease_s - 0.5  # type: ignore[operator]


def test_a_beat_puts_back_no_slot_of_a_run_that_has_ended_meanwhile(node: Node) -> None:
    ending = node.begin("wait")
    node.live(ending)
    renew = node.services.slots.renew

    def renew_late(members: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        node.live(ending).cancel()
        node.join()  # its slot is free now
        return renew(members)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node.services.slots, "renew", renew_late)
        node.parts.heartbeat.tick()
    assert node.slots() == []


def test_nor_of_one_that_ends_while_they_are_put_back(node: Node, redis_client: redis.Redis) -> None:
    ending = node.begin("wait")
    node.live(ending)
    redis_client.delete(node.services.keys.slots("alice"))
    restore = node.services.slots.restore

    def end_and_restore(user_id: str, members: Sequence[str]) -> int:
        node.live(ending).cancel()
        node.join()
        return restore(user_id, members)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node.services.slots, "restore", end_and_restore)
        node.parts.heartbeat.tick()
    assert node.slots() == []


# Cancels


def test_a_cancel_whose_message_was_lost_is_heard_with_the_next_beat(node: Node) -> None:
    run = node.begin("wait")
    node.wait_for_text(run)
    node.parts.heartbeat.tick()
    assert node.now(run).status == "running"
    cancel(node.services.database, run)
    node.parts.heartbeat.tick()
    assert node.wait(run, timeout_s=2).status == "cancelled"


def test_a_cancel_by_the_control_channel_is_heard_at_once(node: Node, redis_client: redis.Redis) -> None:
    run = node.begin("wait")
    node.wait_for_text(run)
    node.parts._control.start()
    channel = node.services.keys.control(node.id)
    assert wait_until(lambda: redis_client.pubsub_numsub(channel)[0][1] == 1, 5)
    for text in ("nonsense", "[]", "{}", "5", json.dumps({"cancel": "another"}), json.dumps({"cancel": ["x"]})):
        node.services.redis.publish(channel, text)
    cancel(node.services.database, run)
    now = time.monotonic()
    node.services.redis.publish(channel, json.dumps({"cancel": run.id}))
    assert node.wait(run).status == "cancelled"
    assert time.monotonic() - now < 0.5


# Runs that slipped through


def test_a_claim_whose_answer_was_lost_is_handed_back_uncounted(node: Node, superuser: sa.Connection) -> None:
    run = start_run(node.services, node.submit("echo"), node.id)  # as if committed and never heard of
    node.parts.heartbeat.tick()
    assert node.now(run).status == "running"  # it may be on its way
    superuser.execute(sa.text("UPDATE lanewise.runs SET claimed_at = now() - interval '11 s'"))
    node.parts.heartbeat.tick()
    again = node.now(run)
    assert (again.attempt, again.lost_attempts) == (1, 0)
    assert node.log(run)[2]["data"]["reason"] == "claim_lost"
    node.pump()
    assert node.wait(run).status == "completed"


def test_a_run_that_is_under_way_is_not_handed_back(node: Node, superuser: sa.Connection) -> None:
    run = node.begin("wait", {"seconds": 0.3})
    node.wait_for_text(run)
    superuser.execute(sa.text("UPDATE lanewise.runs SET claimed_at = now() - interval '11 s'"))
    node.parts.heartbeat.tick()
    assert node.wait(run).status == "completed"
    assert "run_recovering" not in node.kinds(run)


def test_the_runs_of_other_workers_are_none_of_ours(node: Node, superuser: sa.Connection) -> None:
    run = start_run(node.services, submit_run(node.services), "another")
    superuser.execute(sa.text("UPDATE lanewise.runs SET claimed_at = now() - interval '11 s'"))
    node.parts.heartbeat.tick()
    assert node.now(run).status == "running"


# Postgres away


@pytest.fixture
def stopped(servers: Servers) -> StoppedPostgres:
    return StoppedPostgres(servers)


class StoppedPostgres:
    """Postgres is away inside the block, and back after it."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def __enter__(self) -> None:
        self._servers.postgres.stop()

    def __exit__(self, *_: object) -> None:
        self._servers.postgres.start()


def outlived(run: Run, node: Node) -> bool:
    live = node.parts.live.get(run.id)
    return live is not None and live.must_stop is None


def test_a_short_outage_of_postgres_stops_nothing(node: Node, stopped: StoppedPostgres) -> None:
    run = node.begin("wait", {"seconds": 0.8})
    node.wait_for_text(run)
    with stopped:
        node.parts.heartbeat.tick()
        assert outlived(run, node)
    node.parts.heartbeat.tick()
    assert node.wait(run).status == "completed"
    assert "run_recovering" not in node.kinds(run)


def test_a_worker_cut_off_for_a_lease_stops_its_sandboxes_and_loses_no_attempt(
    node: Node, stopped: StoppedPostgres
) -> None:
    run = node.begin("block")
    node.wait_for_text(run)
    live = node.live(run)
    node.parts.heartbeat._heard_at -= node.services.settings.lease_s
    with stopped:
        node.parts.heartbeat.tick()
        assert live.must_stop is not None
        assert wait_until(lambda: not sandboxes(node.parts.zygote), 2)  # before anything could be recorded
    assert node.wait(run, "queued").lost_attempts == 0
    assert node.log(run)[-1]["data"]["reason"] == "store_outage"


def test_a_beat_that_hangs_does_not_keep_the_runs_from_being_stopped(node: Node) -> None:
    run = node.begin("block")
    node.wait_for_text(run)
    node.parts._control.start()  # its thread asks, and hangs on nothing but Redis
    node.parts.heartbeat._heard_at -= node.services.settings.lease_s
    assert node.wait(run, "queued").lost_attempts == 0
    assert node.log(run)[-1]["data"]["reason"] == "store_outage"


def sandboxes(zygote: ZygoteClient) -> list[int]:
    return list(zygote._sandboxes)


def test_redis_away_keeps_no_worker_from_beating(services: Services, node: Node, superuser: sa.Connection) -> None:
    age_worker(superuser, node.id, 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node.services.slots, "_renew", cut_off)
        node.begin("wait")
        node.parts.heartbeat.tick()
    row = worker_row(node)
    assert row is not None
    with services.database.system_session() as session:
        assert session.scalar(sa.select(sa.func.now() - row.heartbeat_at)).total_seconds() < 5  # type: ignore[union-attr]


def cut_off(*_: object, **__: object) -> None:
    raise redis.ConnectionError("away")
