"""Limits and grants: set by administrators, audited, and in force."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from api.state import EXTENSION
from shared import runs
from shared.errors import UnavailableError
from shared.grants import MAX_GRANTS
from shared.ids import new_id
from tests.api_process import FakeWorker
from tests.integration.api.conftest import Home, UserClient
from tests.services import grant_run, in_parallel, submit_run


@pytest.fixture
def admin(sign_in: Callable[..., UserClient]) -> UserClient:
    return sign_in(f"admin-{new_id()}", scopes=("admin",))


def _path(user: UserClient | str, what: str) -> str:
    return f"/v1/admin/users/{user if isinstance(user, str) else user.user_id}/{what}"


def _later(seconds: float = 3600) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def _tools(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["tool"] for item in answer.json()["items"]]


def _audited(home: Home, user_id: str) -> list[tuple[str, str, dict[str, Any]]]:
    rows = home.superuser.execute(
        sa.text("SELECT actor, action, detail FROM lanewise.audit_log WHERE user_id = :user_id ORDER BY id"),
        {"user_id": user_id},
    )
    return [(row.actor, row.action, row.detail) for row in rows]


# Grants


def test_nobody_has_a_grant_by_default(admin: UserClient, alice: UserClient) -> None:
    assert admin.get(_path(alice, "grants")).json() == {"items": []}


def test_grants_are_replaced_as_a_whole(admin: UserClient, alice: UserClient, bob: UserClient) -> None:
    end = _later()
    body = {"tools": [{"tool": "search"}, {"tool": "fetch", "expires_at": end}]}
    assert _tools(admin.put(_path(alice, "grants"), json=body)) == ["fetch", "search"]
    fetch, search = admin.get(_path(alice, "grants")).json()["items"]
    assert (search["expires_at"], search["granted_by"]) == (None, admin.user_id)
    assert datetime.fromisoformat(fetch["expires_at"]) == datetime.fromisoformat(end).replace(
        microsecond=datetime.fromisoformat(end).microsecond // 1000 * 1000
    )
    assert _tools(admin.put(_path(alice, "grants"), json={"tools": [{"tool": "mail"}]})) == ["mail"]
    assert _tools(admin.get(_path(bob, "grants"))) == []
    assert _tools(admin.put(_path(alice, "grants"), json={"tools": []})) == []


def test_the_same_grants_again_change_nothing(
    admin: UserClient, alice: UserClient, sign_in: Callable[..., UserClient]
) -> None:
    other = sign_in(f"admin-{new_id()}", scopes=("admin",))
    body = {"tools": [{"tool": "fetch", "expires_at": "2999-01-01T00:00:00Z"}, {"tool": "search"}]}
    before = admin.put(_path(alice, "grants"), json=body).json()
    assert other.put(_path(alice, "grants"), json=body).json() == before
    body["tools"][0]["expires_at"] = "2999-01-02T00:00:00Z"
    fetch, search = other.put(_path(alice, "grants"), json=body).json()["items"]
    assert (fetch["granted_by"], search["granted_by"]) == (other.user_id, admin.user_id)


def test_what_is_read_can_be_written_back(admin: UserClient, alice: UserClient, home: Home) -> None:
    admin.put(_path(alice, "grants"), json={"tools": [{"tool": "a", "expires_at": _later()}, {"tool": "b"}]})
    _expire(home, alice, "a")
    items = admin.get(_path(alice, "grants")).json()["items"]
    again = [{"tool": item["tool"], "expires_at": item["expires_at"]} for item in items]
    assert _tools(admin.put(_path(alice, "grants"), json={"tools": again})) == ["b"]


def _expire(home: Home, user: UserClient, tool: str) -> None:
    home.superuser.execute(
        sa.text("UPDATE lanewise.tool_grants SET expires_at = now() WHERE user_id = :user_id AND tool = :tool"),
        {"user_id": user.user_id, "tool": tool},
    )


def test_a_claim_hands_over_the_grants_of_its_user_that_are_valid(
    admin: UserClient, alice: UserClient, bob: UserClient, home: Home
) -> None:
    admin.put(_path(alice, "grants"), json={"tools": [{"tool": "fetch"}, {"tool": "old", "expires_at": _later()}]})
    admin.put(_path(bob, "grants"), json={"tools": [{"tool": "his"}]})
    _expire(home, alice, "old")
    run = submit_run(home.services, alice.user_id)
    message = grant_run(home.services, run)
    claimed = runs.claim(home.services.database.once(alice.user_id), message, "worker-1", ["echo"])
    assert claimed is not None
    assert claimed.granted == ["fetch"]


def test_two_who_replace_grants_at_once_do_not_leave_the_union(
    admin: UserClient, alice: UserClient, home: Home
) -> None:
    sets = [[f"tool-{number}-{n}" for n in range(20)] for number in range(4)]

    def replace(number: int) -> None:
        with home.client(admin.user_id, scopes=("admin",)) as client:
            body = {"tools": [{"tool": tool} for tool in sets[number]]}
            assert client.put(_path(alice, "grants"), json=body).status_code == 200

    for _ in range(3):
        in_parallel(len(sets), replace)
        assert _tools(admin.get(_path(alice, "grants"))) in [sorted(tools) for tools in sets]


@pytest.mark.parametrize("end", ["2999-01-01T20:00:00+19:18", "2998-12-31T01:42:00-23:00", "2999-01-01T00:42:00Z"])
def test_the_end_of_a_grant_may_be_in_any_zone(admin: UserClient, alice: UserClient, end: str) -> None:
    """Postgres takes none that is 16 hours off."""
    answer = admin.put(_path(alice, "grants"), json={"tools": [{"tool": "fetch", "expires_at": end}]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["items"][0]["expires_at"].startswith("2999-01-01T00:42:00")


@pytest.mark.parametrize("end", ["0001-01-01T00:00:00+23:59", "9999-01-01T00:00:00-23:59"])
def test_an_end_beyond_all_times_is_refused(admin: UserClient, alice: UserClient, end: str) -> None:
    answer = admin.put(_path(alice, "grants"), json={"tools": [{"tool": "fetch", "expires_at": end}]})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "tools"),
        ({"tools": [{"tool": ""}]}, "tools.0.tool"),
        ({"tools": [{"tool": "a b"}]}, "tools.0.tool"),
        ({"tools": [{"tool": "x" * 65}]}, "tools.0.tool"),
        ({"tools": [{"tool": "fetch\n"}]}, "tools.0.tool"),
        ({"tools": ["fetch"]}, "tools.0"),
        ({"tools": [{"tool": "a"}, {"tool": "a"}]}, "tools.1.tool"),
        ({"tools": [{"tool": "a", "expires_at": "2020-01-01T00:00:00Z"}]}, "tools.0.expires_at"),
        ({"tools": [{"tool": "a", "expires_at": "2999-01-01T00:00:00"}]}, "tools.0.expires_at"),
        ({"tools": [{"tool": "a", "expires_at": "9999-12-31T23:59:59-12:00"}]}, "tools.0.expires_at"),
        ({"tools": [{"tool": "a", "expires_at": "soon"}]}, "tools.0.expires_at"),
        ({"tools": [{"tool": "a"}], "user_id": "bob"}, "user_id"),
        ({"tools": [{"tool": f"t{n}"} for n in range(MAX_GRANTS + 1)]}, "tools"),
    ],
)
def test_a_bad_list_is_refused_with_the_field(
    admin: UserClient, alice: UserClient, body: dict[str, Any], field: str
) -> None:
    admin.put(_path(alice, "grants"), json={"tools": [{"tool": "before"}]})
    answer = admin.put(_path(alice, "grants"), json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field), answer.text
    assert _tools(admin.get(_path(alice, "grants"))) == ["before"]


def test_as_many_as_the_limit_can_be_granted(admin: UserClient, alice: UserClient) -> None:
    tools = [{"tool": f"t{n:03}"} for n in range(MAX_GRANTS)]
    assert len(_tools(admin.put(_path(alice, "grants"), json={"tools": tools}))) == MAX_GRANTS


@pytest.mark.parametrize("user_id", ["*", "none", "system", "x" * 129, "%20", "a%00b"])
@pytest.mark.parametrize("what", ["grants", "limits"])
def test_who_cannot_be_a_user_is_refused(admin: UserClient, user_id: str, what: str) -> None:
    for answer in (admin.get(_path(user_id, what)), admin.put(_path(user_id, what), json={"tools": []})):
        assert answer.status_code == 422, answer.text
    assert admin.put(_path(user_id, "limits"), json={}).json()["errors"][0]["field"] == "user_id"


# Limits


def test_a_user_has_the_limits_of_the_fleet_until_they_have_their_own(admin: UserClient, alice: UserClient) -> None:
    fleet = {"concurrent_runs": 3, "queued_runs": 10_000}
    none = {"user_id": alice.user_id, "concurrent_runs": None, "queued_runs": None, "effective": fleet}
    assert admin.get(_path(alice, "limits")).json() == none
    own = admin.put(_path(alice, "limits"), json={"concurrent_runs": 7}).json()
    assert own == none | {"concurrent_runs": 7, "effective": fleet | {"concurrent_runs": 7}}
    assert admin.get(_path(alice, "limits")).json() == own
    assert admin.put(_path(alice, "limits"), json={"queued_runs": 5}).json()["effective"] == fleet | {"queued_runs": 5}
    assert admin.put(_path(alice, "limits"), json={}).json() == none


def test_a_raised_limit_starts_parked_runs_at_once_and_holds_for_the_user_alone(
    admin: UserClient, alice: UserClient, bob: UserClient, worker: FakeWorker, home: Home
) -> None:
    def held(user: UserClient) -> int:
        return len(home.services.slots.held(user.user_id))

    for user in (alice, bob):
        for _ in range(6):
            assert user.post("/v1/runs", json={"agent": "echo", "input": {"text": "x"}}).status_code == 202
    assert (held(alice), held(bob)) == (3, 3)
    assert admin.put(_path(alice, "limits"), json={"concurrent_runs": 5}).status_code == 200
    assert (held(alice), held(bob)) == (5, 3)
    assert alice.get("/v1/me").json()["limits"]["concurrent_runs"] == 5
    assert worker


def test_a_limit_that_is_stored_is_said_to_be_though_nobody_can_be_admitted(
    admin: UserClient, alice: UserClient, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: str) -> list[str]:
        raise UnavailableError("postgres is away")

    monkeypatch.setattr(home.app.extensions[EXTENSION].services.dispatcher, "start", away)
    assert admin.put(_path(alice, "limits"), json={"concurrent_runs": 5}).status_code == 200
    assert admin.get(_path(alice, "limits")).json()["concurrent_runs"] == 5


def test_the_limit_of_queued_runs_holds(admin: UserClient, alice: UserClient, worker: FakeWorker) -> None:
    admin.put(_path(alice, "limits"), json={"concurrent_runs": 1, "queued_runs": 2})
    body = {"agent": "echo", "input": {"text": "x"}}
    answers = [alice.post("/v1/runs", json=body).status_code for _ in range(4)]
    assert answers[0] == 202
    assert answers[-1] == 429
    assert worker


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"concurrent_runs": 0}, "concurrent_runs"),
        ({"concurrent_runs": 10_001}, "concurrent_runs"),
        ({"concurrent_runs": True}, "concurrent_runs"),
        ({"concurrent_runs": "5"}, "concurrent_runs"),
        ({"queued_runs": -1}, "queued_runs"),
        ({"queued_runs": 2**31}, "queued_runs"),
        ({"runs": 5}, "runs"),
    ],
)
def test_bad_limits_are_refused_with_the_field(
    admin: UserClient, alice: UserClient, body: dict[str, Any], field: str
) -> None:
    answer = admin.put(_path(alice, "limits"), json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


# The audit of both


def test_each_call_is_audited(admin: UserClient, alice: UserClient, home: Home) -> None:
    admin.put(_path(alice, "grants"), json={"tools": [{"tool": "fetch", "expires_at": "2999-01-01T00:00:00Z"}]})
    admin.get(_path(alice, "grants"))
    admin.put(_path(alice, "limits"), json={"concurrent_runs": 4})
    admin.get(_path(alice, "limits"))
    admin.put(_path(alice, "limits"), json={"concurrent_runs": 0})
    actor = f"user:{admin.user_id}"
    assert _audited(home, alice.user_id) == [
        (actor, "admin.grants.put", {"tools": {"fetch": "2999-01-01T00:00:00.000Z"}}),
        (actor, "admin.grants.get", {}),
        (actor, "admin.limits.put", {"concurrent_runs": 4, "queued_runs": None}),
        (actor, "admin.limits.get", {}),
    ]
