"""The audit trail by REST, and what the api writes into it that nobody was let in for."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from flask import Flask

from api.auth import MAX_CALL
from api.models import AuditRecords
from api.refusals import MAX_KINDS, Refusal, Refusals
from api.state import EXTENSION
from lanewise.ports import free_port
from lanewise.process import wait_until
from shared import audit
from shared.database import Database
from shared.errors import UnavailableError
from shared.ids import new_id
from tests.api_process import FakeWorker, close_code
from tests.integration.api.conftest import Fleet, Home, UserClient


def look(client: UserClient, **query: Any) -> dict[str, Any]:
    answer = client.get("/v1/admin/audit", params=query)
    assert answer.status_code == 200, answer.text
    AuditRecords.model_validate(answer.json())
    return dict(answer.json())


def refused(home: Home) -> list[Any]:
    """Has what was counted written; returns the records: (user, actor, action, object, outcome, count)."""
    home.app.extensions[EXTENSION].refusals.tick()
    query = """
        SELECT user_id, actor, action, object, outcome, (detail ->> 'count')::integer FROM lanewise.audit_log
        WHERE action IN ('sign_in.refuse', 'call.refuse', 'admin.refuse', 'others.refuse') ORDER BY id
    """
    return [tuple(row) for row in home.superuser.execute(sa.text(query))]


@pytest.fixture
def root(sign_in: Any) -> UserClient:
    return sign_in("root", scopes=("admin",))  # type: ignore[no-any-return]


def test_a_users_trail_newest_first_page_by_page(
    alice: UserClient, root: UserClient, worker: FakeWorker, body: dict[str, Any]
) -> None:
    user = alice.user_id
    run = alice.post("/v1/runs", json=body)
    alice.post(f"/v1/runs/{run.json()['id']}/cancel")
    root.put(f"/v1/admin/users/{user}/grants", json={"tools": [{"tool": "pay"}]})
    first = look(root, user_id=user, limit=2)
    second = look(root, user_id=user, limit=2, cursor=first["next_cursor"])
    found = [(item["actor"], item["action"], item["object"]) for item in first["items"] + second["items"]]
    of_run = run.json()["id"]
    assert found == [
        ("user:root", "admin.grants.put", user), (f"user:{user}", "run.end", of_run),
        (f"user:{user}", "run.submit", of_run),
    ]  # fmt: skip
    assert second["next_cursor"] is None
    submitted = second["items"][0]
    assert submitted["correlation_id"] == run.headers["X-Correlation-ID"]
    assert (submitted["outcome"], submitted["detail"], submitted["seal"], submitted["user_id"]) == (
        "ok",
        {},
        None,
        user,
    )
    (mine, _) = look(root, user_id=user, action="admin.audit.get")["items"]  # looking is recorded as well
    assert (mine["actor"], mine["object"]) == ("user:root", user)
    assert worker


def test_the_trail_of_all_users(apart: Home, body: dict[str, Any]) -> None:
    with apart.client("root", scopes=("admin",)) as root, apart.client("alice") as alice, apart.client("bob") as bob:
        apart.worker.start("alice", alice.post("/v1/runs", json=body).json()["id"])
        bob.post("/v1/runs", json=body)
        look(root)
        assert [item["user_id"] for item in look(root)["items"]] == ["root", "bob", "alice"]
        assert [item["user_id"] for item in look(root, action="run.submit")["items"]] == ["bob", "alice"]
        assert [item["user_id"] for item in look(root, user_id="bob")["items"]] == ["bob"]


@pytest.mark.parametrize(
    ("query", "status"), [("user_id=none", 422), ("cursor=!", 400), ("limit=0", 422), ("x=1", 422)]
)
def test_what_cannot_be_asked_is_said(root: UserClient, query: str, status: int) -> None:
    assert root.get(f"/v1/admin/audit?{query}").status_code == status


# Every call of an administrator, whichever there are

ADMIN = "/v1/admin/"
BODIES: dict[str, Any] = {"limits": {"concurrent_runs": 2}, "grants": {"tools": []}}


def admin_calls(app: Flask) -> list[tuple[str, str]]:
    """Returns method and rule of all that needs the scope `admin`."""
    found = [
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if getattr(app.view_functions[rule.endpoint], "scope", None) == "admin"
    ]
    assert {rule for _, rule in found} == {
        rule.rule for rule in app.url_map.iter_rules() if rule.rule.startswith(ADMIN)
    }
    return found


def records_of(home: Home, answer: httpx.Response) -> list[tuple[Any, ...]]:
    """Returns (actor, action, outcome) of each record that a call has left."""
    refusals = home.app.extensions[EXTENSION].refusals
    assert refusals._thread is None, "somebody else may be writing them just now"
    refusals.tick()
    query = sa.text("SELECT actor, action, outcome FROM lanewise.audit_log WHERE correlation_id = :id")
    return [tuple(row) for row in home.superuser.execute(query, {"id": answer.headers["X-Correlation-ID"]})]


def test_each_call_of_an_administrator_leaves_one_record_whatever_came_of_it(apart: Home) -> None:
    apart.app.extensions[EXTENSION].refusals._started = True  # nobody writes meanwhile
    calls = admin_calls(apart.app)
    assert len(calls) >= 8
    actions: set[str] = set()
    with apart.client("root", scopes=("admin",)) as root:
        for method, rule in calls:
            user_id, what = f"user-{new_id()}", rule.rpartition("/")[2]
            path = rule.replace("<user:user_id>", user_id)
            assert "<" not in path, f"how is {rule} called?"
            if what == "deletion":
                root.delete(path.removesuffix("/deletion"), params={"timeout_s": 0})
            params = {"timeout_s": 0} if method == "DELETE" else {}
            body = BODIES[what] if method == "PUT" else None
            done = root.request(method, path, json=body, params=params)
            assert done.status_code < 300, (method, rule, done.text)
            ((actor, action, outcome),) = records_of(apart, done)
            assert (actor, action.split(".")[0], outcome) == ("user:root", "admin", "ok"), (method, rule)
            actions.add(action)
            # The same, with what it does not take.
            failed = root.request(method, path.replace(user_id, "system"), json=body, params={"unknown": 1})
            assert failed.status_code == 422, (method, rule, failed.text)
            assert records_of(apart, failed) == [("user:root", "admin.refuse", failed.json()["code"])], (method, rule)
    assert len(actions) == len(calls)


def test_what_an_administrator_could_not_do_says_what_it_was_and_why(apart: Home) -> None:
    apart.app.extensions[EXTENSION].refusals._started = True  # nobody writes meanwhile
    with apart.client("root", scopes=("admin",)) as root:
        user = "/v1/admin/users/alice"
        missing = root.get(f"{user}/deletion")
        assert missing.status_code == 404
        assert records_of(apart, missing) == [("user:root", "admin.refuse", "not_found")]
        assert root.put(f"{user}/grants", json={"tools": 1}).status_code == 422
        assert root.delete(user, params={"timeout_s": 0}).status_code == 202
        assert root.put(f"{user}/limits", json={"concurrent_runs": 1}).status_code == 409
        assert root.get(f"{ADMIN}users/a%00b{'x' * 1000}/limits").status_code == 422
    found = refused(apart)
    assert {(user, actor, action) for user, actor, action, *_ in found} == {("root", "user:root", "admin.refuse")}
    assert [(target[:34], outcome) for *_, target, outcome, _ in found] == [
        ("GET /v1/admin/users/alice/deletion", "not_found"),
        ("PUT /v1/admin/users/alice/grants", "invalid"),
        ("PUT /v1/admin/users/alice/limits", "being_deleted"),
        ("GET /v1/admin/users/a\ufffdbxxxxxxxxxxx", "invalid_context"),
    ]
    assert max(len(target) for *_, target, _, _ in found) == MAX_CALL


# Refusals


def test_a_flood_of_refused_sign_ins_is_one_record_that_says_how_many(apart: Home) -> None:
    with apart.client(None) as anonymous, apart.client("mallory", scopes=("runs",)) as mallory:
        first = anonymous.get("/v1/runs", headers={"Authorization": "Bearer x"}).headers["X-Correlation-ID"]
        for number in range(40):
            anonymous.get("/v1/runs", headers={"Authorization": f"Bearer {number}"})
        anonymous.get("/v1/me")
        for _ in range(3):
            mallory.get("/v1/admin/slots")
    found = refused(apart)
    by_reason: dict[tuple[Any, ...], int] = {}  # the loop may have written some of them before
    for *what, count in found:
        by_reason[tuple(what)] = by_reason.get(tuple(what), 0) + count
    assert by_reason == {
        ("", "anonymous", "sign_in.refuse", "runs", "the token is not valid here"): 41,
        ("", "anonymous", "sign_in.refuse", "runs", "send a token: `Authorization: Bearer …`"): 1,
        ("mallory", "user:mallory", "call.refuse", "admin", "the token lacks the scope"): 3,
    }
    assert len(found) <= 6
    query = sa.text("SELECT correlation_id FROM lanewise.audit_log WHERE object = 'runs' ORDER BY id LIMIT 1")
    assert apart.superuser.scalar(query) == first
    assert refused(apart) == found


def test_refusals_without_end_are_told_apart_up_to_a_limit(apart: Home) -> None:
    refusals = apart.app.extensions[EXTENSION].refusals
    refusals._started = True  # nobody writes meanwhile
    for number in range(3 * MAX_KINDS):
        refusals.count(Refusal("call", "admin", "the token lacks the scope", f"user-{number}"), new_id())
    found = refused(apart)
    assert len(found) == MAX_KINDS + 1
    assert sum(count for *_, count in found) == 3 * MAX_KINDS
    assert found[-1][2:] == ("others.refuse", "", "too many kinds to tell them apart", 2 * MAX_KINDS)


def test_refusals_wait_for_a_database_that_is_away_and_are_written_at_the_end(apart: Home) -> None:
    away = Database(f"postgresql://x:y@127.0.0.1:{free_port()}/z", audit_keys=audit.keys_of(apart.settings))
    refusals = Refusals(away)
    refusals._started = True
    refusals.count(Refusal("sign_in", "runs", "x"), new_id())
    with pytest.raises(UnavailableError):
        refusals.tick()
    refusals.count(Refusal("sign_in", "runs", "x"), new_id())
    refusals._database = apart.services.database
    refusals.close()
    assert [row[-1] for row in refused(apart)] == [2]


def test_a_socket_that_is_not_let_in_is_recorded_by_a_running_api(fleet: Fleet) -> None:
    with fleet.server.socket(None, additional_headers={"Authorization": "Bearer x"}) as socket:
        assert close_code(socket) == 4401
    query = sa.text("SELECT outcome FROM lanewise.audit_log WHERE action = 'sign_in.refuse' AND object = 'stream'")
    assert wait_until(lambda: "the token is not valid here" in fleet.superuser.scalars(query).all(), 10)
