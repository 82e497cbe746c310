"""`POST /v1/runs/{id}/retry`: a new run in place of one that did not complete, and what it takes over."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from shared import records
from shared.context import UserExecutionContext
from shared.errors import NotFoundError
from shared.ids import new_id
from shared.models import Run
from shared.outcomes import Cancelled, Completed, Failed, Outcome, TimedOut
from shared.retrying import accept_retry
from tests.api_process import ECHO, FakeWorker, announce_worker
from tests.integration.api.conftest import Fleet, Home, UserClient
from tests.services import an_agent

Body = dict[str, Any]
FAILED = Failed("ValueError", "bad input")


def ended(client: httpx.Client, user: str, worker: FakeWorker, body: Body, outcome: Outcome = FAILED) -> Run:
    """Returns a run that ended, with a recorded step, and state of its own and of its thread."""
    run = worker.start(user, client.post("/v1/runs", json=body).json()["id"])
    with worker.services.database.user_session(user) as session:
        assert records.record_step(session, run, "order", {"number": 7})
        for scope in ("run", "thread"):
            records.save_state(session, run, "echo", scope, expected=0, value=[scope], token=scope)
        records.save_artifact(session, run, "a.txt", "text/plain", b"a")
    worker.finish(run, outcome)
    return run


def retry(client: httpx.Client, run_id: str, key: str | None = None) -> httpx.Response:
    return client.post(f"/v1/runs/{run_id}/retry", headers={} if key is None else {"Idempotency-Key": key})


@pytest.mark.parametrize("outcome", [FAILED, TimedOut(1), Cancelled()], ids=["failed", "timed_out", "cancelled"])
def test_it_is_a_new_run_with_what_the_old_one_was_given(
    alice: UserClient, worker: FakeWorker, body: Body, outcome: Outcome
) -> None:
    old = ended(alice, alice.user_id, worker, {**body, "metadata": {"m": 1}, "time_limit_s": 7}, outcome)
    before = alice.get(f"/v1/runs/{old.id}").json()
    answer = retry(alice, old.id)
    assert answer.status_code == 202, answer.text
    new = answer.json()
    assert answer.headers["Location"] == f"/v1/runs/{new['id']}"
    assert alice.get(answer.headers["Location"]).json() == new
    same = ("agent", "input", "metadata", "thread_id")
    assert {name: new[name] for name in same} == {name: before[name] for name in same}
    assert (new["retry_of"], new["status"], new["attempt"], new["error"]) == (old.id, "queued", 0, None)
    assert new["correlation_id"] == answer.headers["X-Correlation-ID"]
    assert alice.get(f"/v1/runs/{old.id}").json() == before
    assert [event["type"] for event in alice.get(f"/v1/runs/{new['id']}/events").json()["items"]] == ["run_queued"]
    assert worker.start(alice.user_id, new["id"]).time_limit_s == 7


def test_steps_and_state_of_the_run_go_with_it_and_files_do_not(
    alice: UserClient, worker: FakeWorker, body: Body
) -> None:
    old = ended(alice, alice.user_id, worker, body)
    new = worker.start(alice.user_id, retry(alice, old.id).json()["id"])
    with worker.services.database.user_session(alice.user_id) as session:
        assert records.step_names(session, new) == ["order"]
        assert records.load_step(session, new, "order") == [{"number": 7}]
        assert not records.record_step(session, new, "order", {"number": 8})
        assert records.load_state(session, new, "echo", "run") == (1, ["run"])
        assert records.load_state(session, new, "echo", "thread") == (1, ["thread"])  # one and the same, not a copy
        assert records.save_state(session, new, "echo", "run", expected=1, value=["new"], token="t") == 2
        assert records.load_state(session, old, "echo", "run") == (1, ["run"])
    assert alice.get(f"/v1/runs/{new.id}/artifacts").json()["items"] == []
    worker.finish(new, FAILED)
    third = retry(alice, new.id).json()
    assert third["retry_of"] == new.id
    with worker.services.database.user_session(alice.user_id) as session:
        assert records.load_step(session, worker.start(alice.user_id, third["id"]), "order") == [{"number": 7}]


def test_what_has_not_ended_or_has_completed_is_refused(alice: UserClient, worker: FakeWorker, body: Body) -> None:
    run_id = alice.post("/v1/runs", json=body).json()["id"]

    def refused() -> str:
        answer = retry(alice, run_id)
        assert (answer.status_code, answer.json()["code"]) == (409, "not_retryable"), answer.text
        assert "Retry-After" not in answer.headers
        return str(answer.json()["detail"])

    assert "cannot be retried yet, it is queued" in refused()
    run = worker.start(alice.user_id, run_id)
    assert "cannot be retried yet, it is running" in refused()
    worker.finish(run, Completed(None))
    assert "cannot be retried, it is completed" in refused()
    assert len(alice.get("/v1/runs").json()["items"]) == 1


def test_what_is_not_there_is_404(alice: UserClient, bob: UserClient, worker: FakeWorker, body: Body) -> None:
    run = ended(alice, alice.user_id, worker, body)
    other, none = retry(bob, run.id), retry(bob, "0" * 32)
    assert (other.status_code, none.status_code, retry(bob, "x").status_code) == (404, 404, 404)
    assert other.json() | {"correlation_id": ""} == none.json() | {"correlation_id": ""}
    assert bob.get("/v1/runs").json()["items"] == []
    assert alice.delete(f"/v1/threads/{run.thread_id}").status_code == 204
    assert retry(alice, run.id).status_code == 404


def test_a_key_makes_one_retry_of_one_run(alice: UserClient, worker: FakeWorker, body: Body) -> None:
    first, second = (ended(alice, alice.user_id, worker, body) for _ in range(2))
    made = retry(alice, first.id, "k")
    again = retry(alice, first.id, "k")
    assert (again.status_code, again.json()["id"]) == (202, made.json()["id"])
    assert again.headers["Location"] == made.headers["Location"]
    other = retry(alice, second.id, "k")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert alice.post("/v1/runs", json=body, headers={"Idempotency-Key": "k"}).status_code == 422
    assert retry(alice, first.id, "k2").json()["id"] != made.json()["id"]
    assert retry(alice, first.id, "").status_code == 422


def test_identical_retries_at_once_make_one_run(fleet: Fleet, user: str, body: Body) -> None:
    with fleet.server.client(user) as client:
        old = ended(client, user, fleet.worker, body)

    def post(_number: int) -> httpx.Response:
        with fleet.server.client(user) as client:
            return retry(client, old.id, "k")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(16)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"conflict"}
    with fleet.server.client(user) as client:
        assert len(client.get("/v1/runs").json()["items"]) == 2


def test_the_quota_holds(alice: UserClient, worker: FakeWorker, body: Body, superuser: sa.Connection) -> None:
    old = ended(alice, alice.user_id, worker, body)
    superuser.execute(sa.text("INSERT INTO lanewise.user_limits VALUES (:user, 1, 2)"), {"user": alice.user_id})
    answers = [retry(alice, old.id) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert (answers[2].json()["code"], "Retry-After" in answers[2].headers) == ("quota_exceeded", True)
    query = sa.text("SELECT count(*) FROM lanewise.run_steps WHERE user_id = :user")
    assert superuser.scalar(query, {"user": alice.user_id}) == 3


def test_a_run_that_is_removed_meanwhile_makes_none_without_its_steps(apart: Home, body: Body) -> None:
    with apart.client("alice") as alice:
        old = ended(alice, "alice", apart.worker, body)
        apart.superuser.execute(sa.text("DELETE FROM lanewise.runs"))
        context = UserExecutionContext.from_request("alice", old.thread_id, new_id())
        with pytest.raises(NotFoundError), apart.services.database.user_session("alice") as session:
            accept_retry(session, old, context, an_agent(), time_limit_s=1, quota=9, slots=3)
        assert alice.get("/v1/runs").json()["items"] == []
        assert alice.get("/v1/me").json()["queued"] == 0


def test_agent_and_input_are_checked_as_they_are_today(apart: Home, body: Body) -> None:
    worker = apart.worker
    with apart.client("alice") as alice:
        old = ended(alice, "alice", worker, body)
        made = retry(alice, old.id, "k")
        stricter = {**ECHO, "input_schema": {"type": "object", "required": ["language"]}}
        announce_worker(apart.services, stricter, worker_id="worker-2")
        threading.Event().wait(1.1)  # as long as the catalogue is remembered
        answer = retry(alice, old.id)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "input.language")
        assert retry(alice, old.id, "k").json()["id"] == made.json()["id"]  # it was accepted when its input was right
        apart.superuser.execute(sa.text("UPDATE lanewise.workers SET heartbeat_at = now() - interval '10 minutes'"))
        threading.Event().wait(1.1)
        answer = retry(alice, old.id)
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
        apart.superuser.execute(sa.text("DELETE FROM lanewise.workers"))
        threading.Event().wait(1.1)
        answer = retry(alice, old.id)
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown_agent")


def test_it_is_audited(alice: UserClient, worker: FakeWorker, body: Body, superuser: sa.Connection) -> None:
    old = ended(alice, alice.user_id, worker, body)
    new = retry(alice, old.id).json()
    query = sa.text(
        "SELECT actor, action, correlation_id, detail FROM lanewise.audit_log WHERE object = :run ORDER BY id"
    )
    who, why = f"user:{alice.user_id}", new["correlation_id"]
    assert superuser.execute(query, {"run": new["id"]}).all() == [
        (who, "run.submit", why, {}), (who, "run.retry", why, {"retry_of": old.id}),
    ]  # fmt: skip
