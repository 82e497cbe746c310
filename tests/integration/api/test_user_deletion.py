"""Deleting a user, as an administrator asks for it; what goes and how is in `tests/integration/test_deletion.py`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from shared import deletion
from shared.deletion import Deletions
from shared.ids import new_id
from shared.outcomes import Cancelled
from tests.api_process import FakeWorker
from tests.integration.api.conftest import Fleet, Home, UserClient
from tests.integration.api.test_revocation import WITHIN_S, bearer

NOW = {"timeout_s": 0}


@pytest.fixture
def admin(sign_in: Callable[..., UserClient]) -> UserClient:
    return sign_in(f"admin-{new_id()}", scopes=("admin",))


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "SETTLE_S", 0)


def later(home: Home | Fleet, user_id: str) -> dict[str, str]:
    """Signs the user in again, after now."""
    return bearer(home.settings, user_id, datetime.now(UTC).timestamp() + 5)


def lead(home: Home) -> None:
    """Two sweeps of a leader."""
    for _ in range(2):
        Deletions(home.services).work_off()


def audited(home: Home, user_id: str) -> list[tuple[str, str]]:
    rows = sa.text("SELECT actor, action FROM lanewise.audit_log WHERE user_id = :user ORDER BY id")
    return [tuple(row) for row in home.superuser.execute(rows, {"user": user_id})]


def test_it_goes_on_until_runs_have_ended_and_the_user_is_new_then(
    home: Home, admin: UserClient, alice: UserClient, worker: FakeWorker
) -> None:
    body = {"agent": "echo", "input": {"text": "x"}}
    path, again = f"/v1/admin/users/{alice.user_id}", later(home, alice.user_id)
    run = worker.start(alice.user_id, alice.post("/v1/runs", json=body).json()["id"])
    answer = admin.delete(path, params=NOW)
    assert answer.status_code == 202
    assert answer.json() == {
        "user_id": alice.user_id, "status": "deleting", "requested_at": answer.json()["requested_at"],
        "finished_at": None, "live_runs": 1, "removed": {},
    }  # fmt: skip
    assert alice.get("/v1/me").status_code == 401
    refused: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/runs", {"json": body}),
        ("POST", "/v1/threads", {}),
        ("PUT", "/v1/documents/a", {"content": b"a"}),
    ]
    for method, resource, sent in refused:
        tried = alice.request(method, resource, headers=again, **sent)
        assert (tried.status_code, tried.json()["code"]) == (409, "being_deleted"), resource
        assert "Retry-After" not in tried.headers
    assert admin.put(f"{path}/limits", json={"concurrent_runs": 1}).json()["code"] == "being_deleted"
    assert admin.put(f"{path}/grants", json={"tools": [{"tool": "a"}]}).json()["code"] == "being_deleted"
    lead(home)
    assert admin.delete(path, params=NOW).json() == answer.json()
    worker.finish(run, Cancelled())
    lead(home)
    ended = admin.get(f"{path}/deletion").json()
    assert (ended["status"], ended["live_runs"], ended["removed"]["runs"]) == ("deleted", 0, 1)
    assert ended["finished_at"] > ended["requested_at"] == answer.json()["requested_at"]
    assert alice.get("/v1/me").status_code == 401  # what was issued before stays worthless
    assert alice.get("/v1/runs", headers=again).json()["items"] == []
    assert alice.post("/v1/runs", json=body, headers=again).json()["last_run_seq"] == 1
    by, us = f"user:{admin.user_id}", f"user:{alice.user_id}"
    assert audited(home, alice.user_id) == [
        (us, "run.submit"), (by, "admin.user.delete"), (by, "admin.user.delete"), ("worker:worker-1", "run.end"),
        ("leader", "user.delete"), (by, "admin.deletion.get"), (us, "run.submit"),
    ]  # fmt: skip


@pytest.mark.parametrize("user_id", ["a/b", "/a//b?c#d/", "a %2F|*"])
def test_the_call_waits_for_the_end_whoever_it_is(home: Home, admin: UserClient, user_id: str) -> None:
    with home.client(user_id) as client:
        assert client.put("/v1/documents/a", content=b"a").status_code == 201
    done = threading.Event()

    def lead_on() -> None:
        while not done.wait(0.05):
            Deletions(home.services).work_off()

    leader = threading.Thread(target=lead_on, daemon=True)
    leader.start()
    quoted = "".join(f"%{byte:02X}" for byte in user_id.encode())
    answer = admin.delete(f"/v1/admin/users/{quoted}", params={"timeout_s": 30})
    done.set()
    leader.join()
    assert (answer.status_code, answer.json()["status"]) == (200, "deleted")
    assert (answer.json()["user_id"], answer.json()["removed"]) == (user_id, {"documents": 1})


@pytest.mark.parametrize("what", ["limits", "grants", "revoke", "deletion"])
def test_a_slip_deletes_nobody(admin: UserClient, alice: UserClient, what: str) -> None:
    path = f"/v1/admin/users/{alice.user_id}/{what}"
    assert admin.delete(path, params=NOW).status_code == 405
    assert admin.delete(f"{path}/{what}", params=NOW).status_code in {404, 405}


def test_who_was_never_deleted_has_no_deletion(admin: UserClient, alice: UserClient) -> None:
    answer = admin.get(f"/v1/admin/users/{alice.user_id}/deletion")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("user_id", ["*", "none", "%20"])
def test_who_cannot_be_a_user_is_refused(admin: UserClient, user_id: str) -> None:
    assert admin.delete(f"/v1/admin/users/{user_id}", params=NOW).status_code == 422


def test_sockets_are_closed_and_a_new_one_is_refused_as_rest_is(fleet: Fleet, user: str) -> None:
    with fleet.server.stream(user) as old, fleet.server.client(f"admin-{user}") as admin:
        admin.headers["Authorization"] = f"Bearer {fleet.server.token(f'admin-{user}', scopes=('admin',))}"
        assert admin.delete(f"/v1/admin/users/{user}", params=NOW).status_code == 202
        assert old.closed_with(WITHIN_S) == 4401
    with fleet.server.socket(None, additional_headers=later(fleet, user)) as socket:
        socket.send(json.dumps({"t": "hello", "v": 1, "after": None}))
        socket.send(json.dumps({"t": "run.submit", "ref": "a", "agent": "echo", "input": {"text": "x"}}))
        while (frame := json.loads(socket.recv(timeout=10))).get("ref") != "a":
            pass
        assert frame["problem"]["code"] == "being_deleted"
