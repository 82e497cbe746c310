from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from shared.outcomes import Cancelled
from shared.threads import remove_deleted_threads
from tests.api_process import FakeWorker
from tests.integration.api.conftest import UserClient


def _counts(superuser: sa.Connection, user_id: str, *tables: str) -> list[int]:
    query = "SELECT count(*) FROM lanewise.{} WHERE user_id = :user"
    return [superuser.scalar(sa.text(query.format(name)), {"user": user_id}) or 0 for name in tables]


def test_threads_are_made_read_and_listed(alice: UserClient) -> None:
    made = alice.post("/v1/threads", json={"title": "über", "metadata": {"a": 1}})
    assert made.status_code == 201
    assert alice.get(made.headers["Location"]).json() == made.json()
    plain = alice.post("/v1/threads").json()
    assert (plain["title"], plain["metadata"]) == (None, {})
    page = alice.get("/v1/threads?limit=1").json()
    rest = alice.get("/v1/threads", params={"cursor": page["next_cursor"]}).json()
    assert [thread["id"] for thread in page["items"] + rest["items"]] == [plain["id"], made.json()["id"]]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"title": "x" * 501}, 422), ({"title": 7}, 422), ({"title": "\0"}, 422), ({"metadata": []}, 422),
        ({"metadata": {"x": "\0"}}, 422), ({"metadata": {"x": "x" * 16_384}}, 413), ({"user_id": "bob"}, 422),
        ([], 422),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused(alice: UserClient, body: Any, status: int) -> None:
    assert alice.post("/v1/threads", json=body).status_code == status


def test_a_deleted_thread_is_gone_at_once_and_its_data_when_its_runs_have_ended(
    alice: UserClient, bob: UserClient, worker: FakeWorker, superuser: sa.Connection
) -> None:
    body = {"agent": "echo", "input": {"text": "secret"}}
    kept = alice.post("/v1/runs", json=body).json()
    thread = alice.post("/v1/threads").json()["id"]
    alice.put("/v1/documents/stays", content=b"x")
    ended, running, queued = (
        alice.post("/v1/runs", json={**body, "thread_id": thread}, headers={"Idempotency-Key": str(n)}).json()["id"]
        for n in range(3)
    )
    worker.finish(worker.start(alice.user_id, ended))
    run = worker.start(alice.user_id, running)
    worker.say(run, "secret")
    assert bob.delete(f"/v1/threads/{thread}").status_code == 404

    assert alice.delete(f"/v1/threads/{thread}").status_code == 204
    assert alice.get(f"/v1/threads/{thread}").status_code == 404
    assert alice.delete(f"/v1/threads/{thread}").status_code == 404
    assert alice.post("/v1/runs", json={**body, "thread_id": thread}).status_code == 404
    assert [item["id"] for item in alice.get("/v1/threads").json()["items"]] == [kept["thread_id"]]
    assert superuser.scalar(sa.text("SELECT status FROM lanewise.runs WHERE id = :id"), {"id": queued}) == "cancelled"
    wanted = sa.text("SELECT cancel_requested_at IS NOT NULL FROM lanewise.runs WHERE id = :id")
    assert superuser.scalar(wanted, {"id": running})
    for run_id in (ended, running, queued):
        assert alice.get(f"/v1/runs/{run_id}").status_code == 404
        assert alice.get(f"/v1/runs/{run_id}/events").status_code == 404
        assert alice.get(f"/v1/runs/{run_id}/wait?timeout_s=0").status_code == 404
        assert alice.post(f"/v1/runs/{run_id}/cancel").status_code == 404
    assert [item["id"] for item in alice.get("/v1/runs").json()["items"]] == [kept["id"]]
    assert (
        alice.post("/v1/runs", json={**body, "thread_id": thread}, headers={"Idempotency-Key": "0"}).status_code == 404
    )

    remove_deleted_threads(worker.services.database)
    assert _counts(superuser, alice.user_id, "threads", "runs") == [2, 4]  # one of its runs has not ended
    worker.finish(run, Cancelled())
    assert remove_deleted_threads(worker.services.database) >= 1
    assert _counts(superuser, alice.user_id, "threads", "runs", "documents") == [1, 1, 1]
    query = sa.text("SELECT seq, data::text FROM lanewise.run_events WHERE user_id = :user ORDER BY seq")
    left = superuser.execute(query, {"user": alice.user_id}).all()
    assert [seq for seq, _ in left] == list(range(1, len(left) + 1))
    assert "secret" not in str(left)
    assert alice.get(f"/v1/runs/{kept['id']}").json()["input"] == {"text": "secret"}
    assert alice.get("/v1/documents/stays").status_code == 200


def test_a_thread_with_many_queued_runs(alice: UserClient, worker: FakeWorker, superuser: sa.Connection) -> None:
    thread = alice.post("/v1/threads").json()["id"]
    superuser.execute(
        sa.text("""
            INSERT INTO lanewise.runs (user_id, id, thread_id, agent, queue, status, input, metadata, context,
                correlation_id, max_attempts, time_limit_s)
            SELECT :user, lpad(to_hex(n), 32, '0'), :thread, 'echo', 'default', 'queued', '{}', '{}', '{}', 'c', 1, 1
            FROM generate_series(1, 250) n
        """),
        {"thread": thread, "user": alice.user_id},
    )
    assert alice.delete(f"/v1/threads/{thread}").status_code == 204
    query = sa.text("SELECT status, count(*) FROM lanewise.runs WHERE user_id = :user GROUP BY status")
    assert superuser.execute(query, {"user": alice.user_id}).all() == [("cancelled", 250)]
    assert worker
