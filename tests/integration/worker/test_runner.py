"""The way of one run through a worker: claim, supervise, record, settle."""

from __future__ import annotations

import base64
import json
import signal
import struct
import time
from typing import Any

import psutil
import pytest
import redis
import sqlalchemy as sa

from lanewise.process import wait_until
from shared import records
from shared.context import UserExecutionContext
from shared.errors import UnavailableError
from shared.ids import new_id
from shared.messages import PURPOSE, RunMessage
from shared.models import AuditEntry, Run
from shared.services import Services
from shared.signing import Signer
from tests.integration.worker.conftest import Begin
from tests.nodes import PATIENCE_S, Node, metric, take_messages
from tests.services import SECRETS, OpenServices, an_agent, grant_run, slot, submit_run
from tests.steps import cancel, row
from worker.supervise import FREE_ZYGOTE_DEATHS, NO_SANDBOX_PAUSE_S
from worker.zygote_client import ZygoteClient


def raise_attempt(superuser: sa.Connection, run: Run) -> None:
    """Has another worker take over, as far as the table tells."""
    superuser.execute(
        sa.text("UPDATE lanewise.runs SET attempt = attempt + 1, worker_id = 'other' WHERE id = :id"), {"id": run.id}
    )


def sandbox_pids(zygote: ZygoteClient) -> set[int]:
    """Returns the pids of the running sandboxes."""
    return {child.pid for child in psutil.Process(zygote.pid).children() if child.status() != psutil.STATUS_ZOMBIE}


def output(run: Run) -> dict[str, Any]:
    assert isinstance(run.output, dict)
    return run.output


# The plain way


def test_a_run_from_its_grant_to_its_end(node: Node) -> None:
    run = node.submit("keep", {"value": "hällo"})
    assert node.services.dispatcher.admit("alice") == 1
    assert node.slots() == [slot(run)]
    assert node.pump() == 1
    ended = node.wait(run)
    assert (ended.status, ended.output, ended.attempt) == ("completed", {"before": None, "after": "hällo"}, 1)
    assert ended.worker_id is None
    node.join()
    log = node.log(run)
    assert [event["type"] for event in log] == [
        "run_queued", "run_started", "agent_started", "agent_completed", "run_completed",
    ]  # fmt: skip
    assert [event["run_seq"] for event in log] == [1, 2, 3, 4, 5]
    assert {event["correlation_id"] for event in log} == {run.correlation_id}
    assert node.slots() == []
    assert node.parts.live == {}
    assert [item.new for item in node.parts.tracker.history(run.id)] == ["queued", "running", "completed"]
    with node.services.database.user_session("alice") as session:
        entries = session.scalars(sa.select(AuditEntry).where(AuditEntry.object == run.id).order_by(AuditEntry.id))
        assert [(entry.action, entry.actor) for entry in entries] == [
            ("run.submit", "user:alice"), ("run.end", f"worker:{node.id}"),
        ]  # fmt: skip


def test_all_events_come_before_the_end_however_many(node: Node) -> None:
    run = node.begin("chatty", {"events": 1200})
    assert node.wait(run).output == {"count": 1200}
    log = node.log(run)
    assert [event["run_seq"] for event in log] == list(range(1, len(log) + 1))
    said = "".join(event["data"]["text"] for event in log if event["type"] == "agent_token")
    assert said == "".join(f"{n}:" for n in range(1200))
    assert log[-1]["type"] == "run_completed"


def test_a_failure_is_stored_with_its_reason_and_no_trace(node: Node) -> None:
    run = node.begin("fail")
    ended = node.wait(run)
    assert ended.error == {"type": "ValueError", "message": "no good", "attempt": 1, "retryable": False}
    assert "agents.py" not in json.dumps(node.log(run))


def test_the_store_belongs_to_the_user(node: Node) -> None:
    def kept(user_id: str, value: str) -> Any:
        return output(node.wait(node.begin("keep", {"value": value}, user_id)))["before"]

    assert kept("alice", "hers") is None
    assert kept("bob", "his") is None
    assert kept("alice", "new") == "hers"


def test_a_value_is_kept_for_its_time_only(node: Node) -> None:
    first = node.begin("keep", {"value": 1, "ttl_s": 0.05})
    assert node.wait(first).output == {"before": None, "after": 1}
    time.sleep(0.06)
    assert output(node.wait(node.begin("keep", {"value": 2})))["before"] is None


@pytest.mark.parametrize(
    ("run_input", "message"),
    [
        ({"value": "x" * 70_000}, "value has .* bytes; the limit is 65536"),
        ({"value": 1, "ttl_s": 0}, "ttl_s must be"),
        ({"value": 1, "ttl_s": 10**9}, "ttl_s must be"),
        ({"value": 1, "ttl_s": "1"}, "ttl_s must be"),
    ],
)
def test_a_call_beyond_a_limit_is_refused_with_the_limit(node: Node, run_input: dict[str, Any], message: str) -> None:
    ended = node.wait(node.begin("keep", run_input))
    assert ended.error is not None
    assert ended.error["type"] in ("invalid", "too_large")
    with pytest.raises(ValueError, match=message):
        raise ValueError(ended.error["message"])


def test_hostile_calls_harm_only_their_own_run(node: Node) -> None:
    values = [b'{"a":' * depth + b"1" + b"}" * depth for depth in range(20, 1000, 7)]
    bodies = [
        b'{"t":"call","id":1,"method":"store.set","params":{"key":"k","ttl_s":9,"value":' + value + b"}}"
        for value in values
    ]
    bodies += [
        b'{"t":"call","id":1,"method":"store.get","params":{}}',
        b'{"t":"call","id":1,"method":"store.get","params":{"key":["a"]}}',
        b'{"t":"call","id":1,"method":"store.set","params":{"key":"k","value":NaN,"ttl_s":1e999}}',
        b'{"t":"call","id":1,"method":"flushall","params":{}}',
    ]
    neighbour = node.begin("wait", user_id="bob")
    for body in bodies[:: len(bodies) - 1], bodies:
        frames = b"".join(struct.pack("!I", len(item)) + item for item in body)
        run = node.begin("hostile", {"bytes": base64.b64encode(frames).decode(), "then": "return"})
        assert node.wait(run).status in ("completed", "failed")
    assert node.now(neighbour).status == "running"
    node.live(neighbour).cancel()
    node.join()


# Messages


def forged(services: Services, run: Run) -> dict[str, object]:
    """Returns messages that somebody without the key could put on the broker."""
    message = RunMessage(UserExecutionContext.from_dict(run.context), 0)
    good = message.encode(services.signer)
    payload, stamp, signature = good.rsplit(".", 2)
    other = RunMessage(UserExecutionContext.from_dict({**run.context, "user_id": "mallory"}), 0)
    return {
        "another key": message.encode(Signer(("x" * 32,), PURPOSE, services.settings.deployment)),
        "another purpose": message.encode(Signer(SECRETS, "ticket", services.settings.deployment)),
        "another deployment": message.encode(Signer(SECRETS, PURPOSE, "elsewhere")),
        "another payload": f"{other.encode(services.signer).rsplit('.', 2)[0]}.{stamp}.{signature}",
        "another time": f"{payload}.aaaaaa.{signature}",
        "no signature": payload,
        "a byte changed": f"{payload}.{stamp}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}",
        "a byte less": good[:-1],
        "signed nonsense": services.signer.sign({"context": {}, "attempt": 0}),
        "a signed negative attempt": services.signer.sign({"context": run.context, "attempt": -1}),
        "a signed number": services.signer.sign(5),
        "empty": "",
        "nothing": None,
        "a number": 5,
        "an object": {"context": run.context, "attempt": 0},
        "a long text": "x" * 1_000_000,
        "nul": "\0.\0.\0",
    }


def test_what_was_not_signed_for_this_is_refused_and_counted(node: Node) -> None:
    run = submit_run(node.services)
    grant_run(node.services, run)
    before = row(node.services.database, run)
    for name, text in forged(node.services, run).items():
        count = metric("lanewise_messages_refused_total")
        node.execute(text).join(5)
        assert metric("lanewise_messages_refused_total") == count + 1, name
    node.join()
    assert row(node.services.database, run) == before
    assert node.parts.live == {}


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "bob"}, {"run_id": new_id()}, {"thread_id": new_id()}, {"correlation_id": new_id()},
        {"agent_context": {"admin": True}}, {"audit_metadata": {"by": "me"}}, {"operation_name": "other"},
        {"websocket_client_id": "c1"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_signature_context_and_row_have_to_agree(node: Node, change: dict[str, Any]) -> None:
    """A leaked key is not enough: the context has to be the one that was stored."""
    run = submit_run(node.services)
    grant_run(node.services, run)
    context = UserExecutionContext.from_dict({**run.context, **change})
    before = row(node.services.database, run)
    node.execute(RunMessage(context, 0).encode(node.services.signer)).join(5)
    node.join()
    assert row(node.services.database, run) == before
    assert node.now(run).status == "queued"


def test_a_doubled_message_runs_once(node: Node) -> None:
    run = node.submit("keep", {"value": 1})
    node.services.dispatcher.admit("alice")
    (text,) = take_messages(node.services)
    for _ in range(4):
        node.execute(text)
    node.join()
    ended = node.now(run)
    assert (ended.status, ended.attempt) == ("completed", 1)
    assert node.kinds(run).count("run_started") == 1
    assert node.slots() == []


def test_a_replayed_message_of_a_run_that_goes_on_or_has_ended_does_nothing(node: Node) -> None:
    run = node.submit("wait")
    node.services.dispatcher.admit("alice")
    (text,) = take_messages(node.services)
    node.execute(text)
    node.wait_for_text(run)
    node.execute(text).join(5)
    assert node.slots() == [slot(run)]
    assert node.now(run).attempt == 1
    node.live(run).cancel()
    node.wait(run, "cancelled")
    node.join()
    before = row(node.services.database, run)
    node.execute(text).join(5)
    assert row(node.services.database, run) == before
    assert node.slots() == []


def test_a_run_whose_agent_is_not_here_stays_queued_for_who_has_it(node: Node) -> None:
    run = submit_run(node.services, agent=an_agent("elsewhere"))
    node.services.dispatcher.admit("alice")
    (text,) = take_messages(node.services)
    before = row(node.services.database, run)
    node.execute(text).join(5)
    node.join()
    assert row(node.services.database, run) == before
    assert (node.now(run).status, node.now(run).attempt) == ("queued", 0)


def test_a_run_that_was_cancelled_in_the_queue_is_not_begun(node: Node) -> None:
    run = node.submit("echo")
    node.services.dispatcher.admit("alice")
    assert cancel(node.services.database, run) is not None
    node.pump()
    node.join()
    assert node.kinds(run) == ["run_queued", "run_cancelled"]


# Slots


def test_at_its_end_a_run_gives_its_slot_to_the_next(open_services: OpenServices, zygote: ZygoteClient) -> None:
    services = open_services(user_concurrent_runs=1)
    with Node.start(services, zygote) as node:
        first, second = node.submit("wait"), node.submit("echo")
        services.dispatcher.admit("alice")
        assert (node.pump(), node.slots()) == (1, [slot(first)])
        node.wait_for_text(first)
        node.live(first).cancel()
        node.join()
        assert node.slots() == [slot(second)]
        assert node.pump() == 1
        assert node.wait(second).status == "completed"


def test_a_run_that_lost_its_slot_takes_another_or_waits_for_one(
    open_services: OpenServices, zygote: ZygoteClient, redis_client: redis.Redis
) -> None:
    services = open_services(user_concurrent_runs=1)
    with Node.start(services, zygote) as node:
        first, second = node.submit("echo"), node.submit("echo")
        services.dispatcher.admit("alice")
        (text,) = take_messages(services)
        redis_client.flushall()
        services.slots.acquire("alice", ["somebody:1"], 1, lambda: ())
        node.execute(text).join(5)
        assert node.now(first).granted_at is None  # parked again
        services.slots.release("alice", ["somebody:1"])
        services.dispatcher.admit("alice")
        node.pump()
        node.wait(first, "completed")
        node.join()
        node.pump()
        node.wait(second, "completed")


def test_redis_wiped_in_the_middle(
    open_services: OpenServices, zygote: ZygoteClient, redis_client: redis.Redis
) -> None:
    """Messages, slots and channels are gone: what runs goes on to its end, what waits is started."""
    services = open_services(user_concurrent_runs=2, sweep_s=0.1)
    with Node.start(services, zygote) as node:
        running = node.begin("wait", {"seconds": 0.5})
        granted, parked = node.submit("echo"), node.submit("echo")
        services.dispatcher.admit("alice")
        node.wait_for_text(running)
        redis_client.flushall()
        assert take_messages(services) == []
        node.parts.heartbeat.tick()
        assert node.slots() == [slot(running)]
        assert node.wait(running).status == "completed"
        node.join()

        def swept() -> bool:
            node.parts.leader.tick()
            node.pump()
            return {node.now(run).status for run in (granted, parked)} == {"completed"}

        assert wait_until(swept, 5), [node.now(run).status for run in (granted, parked)]
        node.join()
        assert node.slots() == []


# Lost attempts


def kill_sandbox(node: Node, run: Run, attempt: int = 1) -> float:
    """Kills the one sandbox that is there; returns the moment just before."""
    node.wait_for_text(run, attempt=attempt)
    (pid,) = sandbox_pids(node.parts.zygote)
    now = time.monotonic()
    psutil.Process(pid).send_signal(signal.SIGKILL)
    return now


def test_an_attempt_lost_to_a_death_counts_and_the_run_goes_on(node: Node) -> None:
    run = node.begin("recover", {"seconds": 1})
    killed = kill_sandbox(node, run)
    event = node.wait_for_kind(run, "run_recovering")
    assert time.monotonic() - killed < 1
    assert event["data"]["reason"] == "sandbox_died"
    assert "signal 9 (SIGKILL)" in event["data"]["message"]
    node.join()
    waiting = node.now(run)
    assert (waiting.status, waiting.attempt, waiting.lost_attempts) == ("queued", 1, 1)
    assert waiting.ran_s > 0
    assert node.pump() == 1
    ended = node.wait(run)
    assert (ended.status, ended.attempt, ended.lost_attempts) == ("completed", 2, 1)
    log = node.log(run)
    assert [event["run_seq"] for event in log] == list(range(1, len(log) + 1))
    assert [event["attempt"] for event in log] == sorted(event["attempt"] for event in log)


def test_the_last_attempt_that_is_lost_fails_the_run_with_the_reason(node: Node) -> None:
    run = node.begin("recover", max_attempts=2)
    kill_sandbox(node, run)
    node.wait_for_kind(run, "run_recovering")
    node.join()
    node.pump()
    kill_sandbox(node, run, attempt=2)
    ended = node.wait(run)
    assert (ended.status, ended.attempt) == ("failed", 2)
    reason = "the sandbox was killed by signal 9 (SIGKILL) before it gave a result; the run has used all 2 attempts"
    assert ended.error is not None
    attempts = ended.error.pop("attempts")
    assert ended.error == {"type": "sandbox_died", "message": reason, "attempt": 2, "retryable": True}
    assert [(lost["attempt"], lost["reason"]) for lost in attempts] == [(1, "sandbox_died"), (2, "sandbox_died")]


def test_an_only_attempt_that_is_lost_fails_the_run_at_once(node: Node) -> None:
    run, neighbour = node.begin("die", {"signal": signal.SIGKILL}, max_attempts=1), node.begin("echo", user_id="bob")
    ended = node.wait(run, timeout_s=2)
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error["message"].endswith("the run has used its only attempt")
    assert node.wait(neighbour).status == "completed"


def test_what_the_zygotes_death_costs_is_not_counted(quick: Services, own_zygote: ZygoteClient) -> None:
    with Node.start(quick, own_zygote) as node:
        run = node.begin("recover", {"seconds": 1}, max_attempts=1)
        node.wait_for_text(run)
        psutil.Process(own_zygote.pid).send_signal(signal.SIGKILL)
        event = node.wait_for_kind(run, "run_recovering")
        assert event["data"]["reason"] == "zygote_died"
        node.join()
        assert (node.now(run).status, node.now(run).lost_attempts) == ("queued", 0)
        node.pump()
        ended = node.wait(run)
        assert (ended.status, ended.attempt) == ("completed", 2)


def test_a_run_that_kills_its_zygote_again_and_again_comes_to_an_end(quick: Services, own_zygote: ZygoteClient) -> None:
    with Node.start(quick, own_zygote) as node:
        run = node.begin("wait", max_attempts=1)
        for attempt in range(1, FREE_ZYGOTE_DEATHS + 2):
            node.wait_for_text(run, attempt=attempt)
            psutil.Process(own_zygote.pid).send_signal(signal.SIGKILL)  # as a run did that could get out of its sandbox
            node.join()
            node.pump()
        assert wait_until(lambda: node.now(run).status == "failed", PATIENCE_S), node.log(run)
        ended = node.now(run)
        assert (ended.attempt, ended.lost_attempts) == (FREE_ZYGOTE_DEATHS + 1, 0)
        assert ended.error is not None
        assert ended.error["type"] == "zygote_died"


def test_a_sandbox_that_cannot_be_forked_is_tried_again_after_a_pause(
    quick: Services, own_zygote: ZygoteClient
) -> None:
    zygote = psutil.Process(own_zygote.pid)
    files = zygote.rlimit(psutil.RLIMIT_NOFILE)
    with Node.start(quick, own_zygote) as node:
        zygote.rlimit(psutil.RLIMIT_NOFILE, (zygote.num_fds(), files[1]))  # no room for the socket of a sandbox
        run = node.begin("echo", max_attempts=1)
        told = node.wait_for_kind(run, "run_recovering")["data"]
        assert (told["reason"], told["after_s"]) == ("no_sandbox", NO_SANDBOX_PAUSE_S)
        zygote.rlimit(psutil.RLIMIT_NOFILE, files)
        node.join()
        assert (node.now(run).status, node.now(run).lost_attempts) == ("queued", 0)


def test_what_is_handed_back_is_not_counted_and_begins_again(node: Node) -> None:
    run = node.begin("wait", {"seconds": 0.2})  # one attempt only
    node.wait_for_text(run)
    node.parts.hand_back_all()
    node.join()
    assert (node.now(run).status, node.now(run).lost_attempts) == ("queued", 0)
    assert node.log(run)[-1]["data"]["reason"] == "drained"
    node.parts._handing_back.clear()  # as if this were the next worker
    node.pump()
    assert node.wait(run).status == "completed"


def test_the_time_limit_counts_over_all_attempts(node: Node) -> None:
    run = node.begin("recover", time_limit_s=3)
    node.wait_for_text(run)
    time.sleep(0.4)  # running time is what is measured here
    kill_sandbox(node, run)
    node.wait_for_kind(run, "run_recovering")
    node.join()
    assert 0.4 <= node.now(run).ran_s < 3
    with node.services.database.user_session(run.user_id) as session:  # as if its first attempt had taken longer
        session.execute(sa.text("UPDATE runs SET ran_s = ran_s + 2 WHERE id = :id"), {"id": run.id})
    begun = time.monotonic()
    node.pump()
    ended = node.wait(run)
    assert time.monotonic() - begun < 3
    assert (ended.status, ended.attempt) == ("timed_out", 2)
    assert ended.error is not None
    assert "time limit of 3 s" in ended.error["message"]


def test_a_cancelled_run_that_is_lost_ends_cancelled_and_not_again(node: Node) -> None:
    run = node.begin("recover")
    node.wait_for_text(run)
    cancel(node.services.database, run)
    kill_sandbox(node, run)
    assert node.wait(run).status == "cancelled"
    node.join()
    assert node.pump() == 0


# Superseded attempts


def test_a_superseded_attempt_that_speaks_is_stopped_and_nothing_of_it_is_written(
    node: Node, superuser: sa.Connection
) -> None:
    run = node.begin("chatty", {"events": 10**7})
    node.wait_for_kind(run, "agent_token")
    raise_attempt(superuser, run)
    node.services.slots.restore("alice", [slot(run, 2)])
    before = row(node.services.database, run)
    node.join()
    assert sandbox_pids(node.parts.zygote) == set()
    assert row(node.services.database, run) == before
    assert before["status"] == "running"
    assert node.slots() == [slot(run, 2)]  # the successor's; its own is free


def test_a_silent_superseded_attempt_is_stopped_by_the_heartbeat(node: Node, superuser: sa.Connection) -> None:
    run = node.begin("block")
    node.wait_for_text(run)
    raise_attempt(superuser, run)
    before = row(node.services.database, run)
    now = time.monotonic()
    node.parts.heartbeat.tick()
    node.join()
    assert time.monotonic() - now < 1
    assert row(node.services.database, run) == before
    assert sandbox_pids(node.parts.zygote) == set()


@pytest.mark.parametrize("agent", ["wait", "die"])
def test_a_superseded_attempt_that_ends_by_itself_writes_no_end(
    node: Node, superuser: sa.Connection, agent: str
) -> None:
    run = node.begin(agent, {"seconds": 0.3} if agent == "wait" else {"signal": signal.SIGSTOP})
    node.wait_for_text(run)
    raise_attempt(superuser, run)
    node.services.slots.restore("alice", [slot(run, 2)])
    before = row(node.services.database, run)
    if agent == "die":
        kill_sandbox(node, run)
    node.join()
    assert row(node.services.database, run) == before
    assert node.slots() == [slot(run, 2)]


# The walls hold here too


def test_the_attempts_of_this_suite_leave_no_sandbox(zygote: ZygoteClient, begin: Begin) -> None:
    begin("echo").outcome()
    assert wait_until(lambda: sandbox_pids(zygote) == set(), 2)


def test_what_is_claimed_while_all_is_handed_back_is_handed_back_too(node: Node) -> None:
    node.parts.hand_back_all()
    run = node.begin("wait", {"seconds": 30})
    node.join()
    assert (node.now(run).status, node.now(run).lost_attempts) == ("queued", 0)


def test_postgres_away_between_claim_and_start_costs_no_attempt(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    run = node.begin("recover")
    node.wait_for_text(run)
    kill_sandbox(node, run)
    read = records.step_names

    def away(*_: object) -> list[str]:
        monkeypatch.setattr(records, "step_names", read)
        raise UnavailableError("the database is away; try again shortly")

    monkeypatch.setattr(records, "step_names", away)
    node.wait_for_kind(run, "run_recovering")

    def goes_on() -> bool:
        node.services.dispatcher.admit("alice")
        node.pump()
        return node.now(run).attempt == 3

    assert wait_until(goes_on, PATIENCE_S), node.log(run)
    lost = [event["data"]["reason"] for event in node.log(run) if event["type"] == "run_recovering"]
    assert (lost, node.now(run).lost_attempts) == (["sandbox_died", "store_outage"], 1)
