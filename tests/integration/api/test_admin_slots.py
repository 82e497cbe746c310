"""`/v1/admin/slots`."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from api.models import Slots
from lanewise.ports import free_port
from tests.integration.api.conftest import Home, UserClient, make_home
from tests.services import Servers


def look(client: UserClient, **query: Any) -> dict[str, Any]:
    answer = client.get("/v1/admin/slots", params=query)
    assert answer.status_code == 200, answer.text
    Slots.model_validate(answer.json())
    return dict(answer.json())


def hold(home: Home, user_id: str, *members: str) -> None:
    home.services.redis.zadd(home.services.keys.slots(user_id), dict.fromkeys(members, time.time() + 60))


def test_slots_and_runs_side_by_side_page_by_page(apart: Home, body: dict[str, Any]) -> None:
    with apart.client("root", scopes=("admin",)) as root, apart.client("alice") as alice, apart.client("bob") as bob:
        run = apart.worker.start("alice", alice.post("/v1/runs", json=body).json()["id"])
        bob.post("/v1/runs", json=body)
        apart.services.redis.delete(*map(apart.services.keys.slots, ("alice", "bob")))
        hold(apart, "alice", f"{run.id}:1", "gone:1")
        for stranger in ("x", "y"):
            hold(apart, stranger, "gone:1")
        first = look(root, limit=1)
        assert first["items"] == [
            {"user_id": "alice", "limit": 3, "slots_held": 2, "granted": 0, "running": 1, "parked": 0,
             "leaked": ["gone:1"], "missing": []}
        ]  # fmt: skip
        totals = {"users": 4, "slots_held": 4, "granted": 1, "running": 1, "parked": 0, "leaked": 3, "missing": 1}
        assert (first["totals"], first["redis"], first["complete"]) == (totals, "ok", True)
        seen, cursor = first["items"], first["next_cursor"]
        while cursor is not None:
            page = look(root, limit=1, cursor=cursor)
            seen, cursor = seen + page["items"], page["next_cursor"]
        assert [item["user_id"] for item in seen] == ["alice", "bob", None, None]
        assert len(seen[1]["missing"]) == 1
        assert seen == look(root)["items"]
        audited = apart.superuser.execute(
            sa.text("SELECT user_id, actor, object FROM lanewise.audit_log WHERE action = 'admin.slots.get'")
        )
        assert set(audited) == {("root", "user:root", "slots")}
        assert root.get("/v1/admin/slots?cursor=!").status_code == 400


def test_without_redis_it_says_so(servers: Servers, body: dict[str, Any]) -> None:
    with (
        make_home(servers, redis_url=f"redis://127.0.0.1:{free_port()}/0") as home,
        home.client("alice") as alice,
        home.client("root", scopes=("admin",)) as root,
    ):
        alice.post("/v1/runs", json=body)
        found = look(root)
    assert (found["redis"], found["totals"]["slots_held"], found["totals"]["parked"]) == ("away", None, 1)
    assert found["items"][0]["slots_held"] is None
