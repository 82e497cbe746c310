"""A user of a real fleet is deleted, with canaries in everything that a user can write: none of theirs is left."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tests.fleet.fleet import Fleet, until
from tests.fleet.scene import Scene

GONE_S = 60.0
PATIENCE_S = 10.0
AUDIT = {"table audit_log", "table audit_seals", "table audit_anchors"}
MARK = {"table revocations"}  # the id, with the moment until which tokens are refused
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'lanewise'::regnamespace AND relkind IN ('r', 'm', 'p')"
Places = dict[str, set[str]]


@pytest.fixture(scope="module")
def own_fleet() -> Iterator[Fleet]:
    """One whose worker may be killed."""
    with Fleet.start("--slots", "8", "--no-flower") as running:
        yield running


def contents(fleet: Fleet) -> Iterator[tuple[str, str]]:
    """Yields everything that the stores hold, with where: each row of each table, each key of Redis, all databases."""
    with fleet.superuser().connect() as connection:
        for table in connection.scalars(sa.text(TABLES)).all():
            for row in connection.execute(sa.text(f"SELECT * FROM lanewise.{table}")):  # noqa: S608 - from the catalogue
                cells = (bytes(v).decode(errors="replace") if isinstance(v, memoryview) else str(v) for v in row)
                yield f"table {table}", "\n".join(cells)
    for name in fleet.admin_redis().info("keyspace"):
        client = fleet.admin_redis(int(name.removeprefix("db")))
        for key in client.scan_iter(count=1000):
            yield f"redis {client.type(key)!s}", f"{key} {_value(client, key)}"


def _value(client: Any, key: str) -> str:
    """Returns what a key holds, of whatever type it is; `DUMP` might hold it compressed."""
    whole = ("0", "-1")
    kind = str(client.type(key))
    read = {"string": "GET", "set": "SMEMBERS", "hash": "HGETALL", "list": "LRANGE", "zset": "ZRANGE"}[kind]
    return str(client.execute_command(read, key, *(whole if kind in {"list", "zset"} else ())))


def found(fleet: Fleet, scene: Scene) -> tuple[dict[str, Places], dict[str, set[str]]]:
    """Returns where each user's canaries are, and where their id or the digest of it is."""
    canaries: dict[str, Places] = defaultdict(lambda: defaultdict(set))
    named: dict[str, set[str]] = defaultdict(set)
    digests = {user: fleet.services.keys.events(user).removesuffix("events") for user in scene.users}
    for where, text in contents(fleet):
        for owner, place in scene.canaries.places(text.encode()):
            canaries[owner][where].add(place)
        for user in scene.users:
            if user in text or digests[user] in text:
                named[user].add(where)
    return canaries, named


def test_nothing_of_a_deleted_user_is_left_and_everything_of_others(own_fleet: Fleet, tmp_path: Path) -> None:
    fleet = own_fleet
    scene = Scene(fleet, users=2, runs_each=3, patience_s=PATIENCE_S, folder=tmp_path)
    assert scene.play() == []
    gone, stays = scene.users
    admin = httpx.Client(
        base_url=fleet.url, timeout=90, headers={"Authorization": f"Bearer {fleet.token('root', 'admin')}"}
    )
    with admin:
        for user in scene.users:
            path = f"/v1/admin/users/{user}"
            assert admin.put(f"{path}/limits", json={"concurrent_runs": 1}).status_code == 200
            assert admin.put(f"{path}/grants", json={"tools": [{"tool": "fetch"}]}).status_code == 200
            running, *parked = [
                fleet.submit(
                    user, "hold", {"seconds": 60}, metadata={"word": scene.canaries.make(user, f"metadata {number}")},
                    thread_id=scene.threads[user],
                )["id"]
                for number in range(3)
            ]  # fmt: skip
            fleet.pid(user, running)
            assert [fleet.run(user, run_id)["status"] for run_id in parked] == ["queued", "queued"]
        canaries, named = found(fleet, scene)
        assert set(canaries[gone]) == set(canaries[stays])  # each was looked for where it is
        assert {"table runs", "table documents", "table artifacts", "redis string"} <= set(canaries[gone])
        began = time.time()
        assert admin.delete(f"/v1/admin/users/{gone}", params={"timeout_s": 0}).status_code == 202
        assert fleet.http(gone).get("/v1/me").status_code == 401
        fleet.kill("worker")  # which leads, and runs one of theirs

        def deleted() -> bool:
            return bool(admin.get(f"/v1/admin/users/{gone}/deletion").json()["status"] == "deleted")

        until(deleted, GONE_S, lambda: admin.get(f"/v1/admin/users/{gone}/deletion").text)
        now, named_now = found(fleet, scene)
        assert gone not in now
        assert named_now[gone] <= AUDIT | MARK
        assert {where: now[stays][where] for where in canaries[stays]} == canaries[stays]
        assert named_now[stays] >= named[stays] - {"redis list"}  # a message to the worker that was killed

        token = fleet.token(gone)  # of a later second than the call's
        assert int(began) < int(time.time())
        with httpx.Client(base_url=fleet.url, headers={"Authorization": f"Bearer {token}"}, timeout=30) as again:
            for path in ("/v1/runs", "/v1/threads", "/v1/documents"):
                assert again.get(path).json()["items"] == []
            run = again.post("/v1/runs", json={"agent": "talk", "input": {"text": "new"}}).json()
            ended = again.get(f"/v1/runs/{run['id']}/wait", params={"timeout_s": 20}).json()
            assert ended["status"] == "completed"
            items = again.get(f"/v1/runs/{run['id']}/events").json()["items"]
            assert items[0]["seq"] == 1
            assert scene.canaries.places(json.dumps(items).encode()) == set()
        assert admin.delete(f"/v1/admin/users/{gone}", params={"timeout_s": 60}).json()["removed"]["runs"] == 1
