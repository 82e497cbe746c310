"""A run, end to end, as a user sees it."""

from __future__ import annotations

import csv
import io
import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest
from websockets.sync.client import connect

from tests.fleet.fleet import Event, Fleet, Run, new_user, until

GRACE_S = 0.5
LIMIT = 3
TERMINAL = {"run_completed", "run_failed", "run_cancelled", "run_timed_out"}


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that does not exist yet: `hold` waits for it. At the end nobody is left waiting."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def kinds(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


def but_places(events: list[Event]) -> list[Event]:
    """What there is however long a run was parked: a sweep that comes in between tells it where it stands."""
    return [event for event in events if event["type"] != "run_position"]


def check_log(events: list[Event]) -> None:
    """Gapless numbers, one end, and it is the last."""
    assert [event["run_seq"] for event in events] == list(range(1, len(events) + 1))
    assert [kind for kind in kinds(events) if kind in TERMINAL] == [events[-1]["type"]]


def test_a_run_over_rest_and_a_websocket(fleet: Fleet, user: str) -> None:
    http = fleet.http(user)
    headers = {"Authorization": f"Bearer {fleet.token(user)}"}
    with connect(fleet.stream_url, additional_headers=headers) as socket:
        socket.send(json.dumps({"t": "hello", "v": 1, "after": None}))
        welcome, live = (json.loads(socket.recv(10)) for _ in range(2))
        assert (welcome["t"], welcome["head"], welcome["recovered"], welcome["snapshot"]) == (
            "welcome", 0, True, {"runs": [], "more": False},
        )  # fmt: skip
        assert live == {"t": "live", "seq": 0}
        run = fleet.submit(user, "talk", {"text": "one two"}, metadata={"mine": [1]})
        assert (run["status"], run["attempt"], run["output"], run["metadata"]) == ("queued", 0, None, {"mine": [1]})
        events: list[Event] = []
        while not events or events[-1]["type"] not in TERMINAL:
            events.append(json.loads(socket.recv(10)))
    steady = but_places(events)
    assert kinds(steady) == [
        "run_queued", "run_started", "agent_started", "agent_thinking", "agent_progress", "agent_progress",
        "agent_token", "agent_completed", "run_completed",
    ]  # fmt: skip
    check_log(events)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert {(e["t"], e["run_id"], e["thread_id"], e["agent"], e["correlation_id"]) for e in events} == {
        ("event", run["id"], run["thread_id"], "talk", run["correlation_id"])
    }
    assert [event["attempt"] for event in steady] == [0, *[1] * 8]
    assert [e["data"] for e in steady[3:7]] == [
        {"text": "2 words"}, {"fraction": 0.5, "note": "one"}, {"fraction": 1.0, "note": "two"}, {"text": "one two"},
    ]  # fmt: skip
    assert all(earlier["at"] <= later["at"] for earlier, later in pairwise(events))
    assert http.get(f"/v1/runs/{run['id']}/events").json() == {"items": events, "next_cursor": None}
    assert http.get(f"/v1/runs/{run['id']}/events", params={"after": 6}).json()["items"] == events[6:]
    ended = fleet.run(user, run["id"])
    assert (ended["status"], ended["output"], ended["error"]) == ("completed", {"words": ["one", "two"]}, None)
    assert (ended["progress"], ended["queue"], ended["attempt"]) == ({"fraction": 1.0, "note": "two"}, None, 1)
    assert ended["last_run_seq"] == len(events)
    assert ended["created_at"] <= ended["started_at"] <= ended["finished_at"]
    assert ended["correlation_id"] == run["correlation_id"]


def test_our_client_follows_from_the_first_event_to_the_last(fleet: Fleet, user: str) -> None:
    client = fleet.client(user)
    assert {"talk", "data"} <= {agent["name"] for agent in client.agents()}
    run = client.submit("talk", {"text": "a b c"})
    with client.stream(run_id=run["id"]) as stream:
        followed = list(stream)
    check_log(followed)
    assert followed == fleet.events(user, run["id"])
    assert client.wait(run["id"], 0)["output"] == {"words": ["a", "b", "c"]}


def test_progress_shows_while_it_runs(fleet: Fleet, user: str, gate: Path) -> None:
    run = fleet.submit(user, "hold", {"gate": str(gate)})
    fleet.pid(user, run["id"])
    running = fleet.run(user, run["id"])
    assert (running["status"], running["queue"], running["finished_at"]) == ("running", None, None)
    assert running["progress"] == {"fraction": 0.0, "note": ""}
    assert fleet.client(user).me()["slots_held"] == 1
    gate.touch()
    assert fleet.wait(user, run["id"])["progress"]["fraction"] == 1.0
    until(lambda: fleet.client(user).me()["slots_held"] == 0, 5, "the slot is free again")


def test_runs_belong_to_threads(fleet: Fleet, user: str, gate: Path) -> None:
    http, client = fleet.http(user), fleet.client(user)
    made = http.post("/v1/threads", json={"title": "Planning", "metadata": {"k": "v"}}).json()
    first = fleet.submit(user, "talk", {"text": "a"}, thread_id=made["id"])
    other = fleet.submit(user, "talk", {"text": "b"})
    assert first["thread_id"] == made["id"] != other["thread_id"]
    assert {thread["id"] for thread in client.threads()} == {made["id"], other["thread_id"]}
    assert client.thread(made["id"])["title"] == "Planning"
    assert [run["id"] for run in client.runs(thread_id=made["id"])] == [first["id"]]
    assert http.post("/v1/runs", json={"agent": "talk", "input": {}, "thread_id": "0" * 32}).status_code in {404, 422}
    held = fleet.submit(user, "hold", {"gate": str(gate)}, thread_id=made["id"])
    fleet.pid(user, held["id"])
    client.delete_thread(made["id"])
    assert http.get(f"/v1/threads/{made['id']}").status_code == 404
    answer = http.post("/v1/runs", json={"agent": "talk", "input": {"text": "c"}, "thread_id": made["id"]})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    until(lambda: client.me()["running"] == 0, 5, "the run in the deleted thread is cancelled")


def test_lists_are_filtered_and_come_in_pages(fleet: Fleet, user: str) -> None:
    http = fleet.http(user)
    submitted = [fleet.submit(user, "talk", {"text": str(n)})["id"] for n in range(6)]
    failed = fleet.submit(user, "refuse", {"text": "no"})["id"]
    for run_id in (*submitted, failed):
        fleet.wait(user, run_id, status=None)
    newest_first = [failed, *reversed(submitted)]
    pages: list[list[str]] = []
    cursor = None
    while cursor or not pages:
        answer = http.get("/v1/runs", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        pages.append([run["id"] for run in answer["items"]])
        cursor = answer["next_cursor"]
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [run_id for page in pages for run_id in page] == newest_first
    assert [run["id"] for run in fleet.client(user).runs()] == newest_first
    assert [run["id"] for run in fleet.client(user).runs(status="failed")] == [failed]
    assert [run["id"] for run in fleet.client(user).runs(agent="talk")] == newest_first[1:]
    assert list(fleet.client(user).runs(status="running")) == []
    first_page = http.get(f"/v1/runs/{failed}/events", params={"limit": 2}).json()
    assert [event["run_seq"] for event in first_page["items"]] == [1, 2]
    rest = http.get(f"/v1/runs/{failed}/events", params={"cursor": first_page["next_cursor"]}).json()
    check_log(first_page["items"] + rest["items"])


def test_beyond_the_limit_runs_wait_in_line_and_can_be_cancelled_there(fleet: Fleet, user: str, gate: Path) -> None:
    http = fleet.http(user)
    running = [fleet.submit(user, "hold", {"gate": str(gate)}) for _ in range(LIMIT)]
    for run in running:
        fleet.pid(user, run["id"])
    waiting = [fleet.submit(user, "talk", {"text": str(n)}) for n in range(3)]
    assert [run["queue"] for run in waiting] == [
        {"position": n, "reason": "user_limit", "eta_s": None} for n in (1, 2, 3)
    ]
    assert [fleet.run(user, run["id"])["queue"]["position"] for run in waiting] == [1, 2, 3]
    answer = http.post(f"/v1/runs/{waiting[0]['id']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    assert kinds(but_places(fleet.events(user, waiting[0]["id"]))) == ["run_queued", "run_cancelled"]
    again = http.post(f"/v1/runs/{waiting[0]['id']}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")
    assert fleet.run(user, waiting[1]["id"])["queue"]["position"] == 1
    gate.touch()
    for run in (*running, *waiting[1:]):
        fleet.wait(user, run["id"])


def test_a_user_never_has_more_runs_in_progress_than_the_limit(fleet: Fleet, user: str, gate: Path) -> None:
    client = fleet.client(user)
    assert client.me()["limits"]["concurrent_runs"] == LIMIT
    submitted = [fleet.submit(user, "hold", {"gate": str(gate)}) for _ in range(LIMIT)]
    submitted += [fleet.submit(user, "hold", {"seconds": 0.2}) for _ in range(2 * LIMIT)]
    at_first = [run["queue"] or {"position": 0} for run in submitted]  # a sweep may start one before its answer
    assert [queue["position"] for queue in at_first] == [0] * LIMIT + list(range(1, 2 * LIMIT + 1))
    assert {queue["reason"] for queue in at_first[LIMIT:]} == {"user_limit"}
    gate.touch()
    seen: list[tuple[int, int]] = []
    while True:
        me = client.me()
        seen.append((me["slots_held"], me["running"]))
        if me["queued"] + me["running"] == 0:
            break
    assert max(held for held, _ in seen) == LIMIT
    assert max(running for _, running in seen) == LIMIT
    spans = [fleet.wait(user, run["id"])["output"] for run in submitted]
    at_once = [sum(other["began"] <= span["began"] < other["ended"] for other in spans) for span in spans]
    assert max(at_once) == LIMIT


def test_cancelled_in_the_midst(fleet: Fleet, user: str) -> None:
    """Who cooperates stops at once; who blocks is dead after the grace; a neighbour notices nothing."""
    neighbour = new_user()
    beside = fleet.submit(neighbour, "hold", {"seconds": 2.0})
    runs = {agent: fleet.submit(user, agent) for agent in ("polite", "watchful", "hold")}
    pids = {agent: fleet.pid(user, run["id"]) for agent, run in runs.items()}
    took_s = {}
    for agent, run in runs.items():
        began = time.time()
        answer = fleet.http(user).post(f"/v1/runs/{run['id']}/cancel")
        assert answer.status_code == 202
        ended = fleet.wait(user, run["id"], "cancelled", 10)
        assert ended["error"]["type"] == "cancelled"
        assert ended["output"] is None
        events = fleet.events(user, run["id"])
        check_log(events)
        took_s[agent] = datetime.fromisoformat(events[-1]["at"]).timestamp() - began
    assert took_s["polite"] < 0.5
    assert took_s["watchful"] < 0.5
    assert GRACE_S <= took_s["hold"] < GRACE_S + 1
    assert "tidied up" in [event["data"].get("text") for event in fleet.events(user, runs["polite"]["id"])]
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids.values()), 2, "the sandboxes are gone")
    assert fleet.wait(neighbour, beside["id"])["attempt"] == 1


def test_time_limits_end_runs_that_block(fleet: Fleet, user: str) -> None:
    began = time.monotonic()
    run = fleet.submit(user, "hold", time_limit_s=0.5)
    pid = fleet.pid(user, run["id"])
    ended = fleet.wait(user, run["id"], "timed_out", 10)
    assert 0.5 <= time.monotonic() - began < 0.5 + GRACE_S + 1.5
    assert ended["error"] == {
        "type": "timed_out", "message": "the run reached its time limit of 0.5 s", "attempt": 1, "retryable": False,
    }  # fmt: skip
    assert fleet.events(user, run["id"])[-1]["type"] == "run_timed_out"
    until(lambda: not Path(f"/proc/{pid}").exists(), 2, "the sandbox is gone")


def test_what_an_agent_raises_is_told_without_a_traceback(fleet: Fleet, user: str) -> None:
    run = fleet.submit(user, "refuse", {"text": "the bridge is closed"})
    ended = fleet.wait(user, run["id"], "failed")
    assert ended["error"] == {
        "type": "Refused", "message": "the bridge is closed", "attempt": 1, "retryable": False,
    }  # fmt: skip
    events = fleet.events(user, run["id"])
    assert kinds(events)[-2:] == ["agent_failed", "run_failed"]
    assert events[-1]["data"]["error"] == ended["error"]
    told = json.dumps([ended, events, fleet.http(user).get("/v1/runs").json()])
    for word in ("Traceback", "File ", ".py", "KeyError", "inner"):
        assert word not in told


def test_what_cannot_be_run_is_refused_with_the_field(fleet: Fleet, user: str) -> None:
    http = fleet.http(user)

    def refused(body: Any) -> tuple[str, list[str]]:
        answer = http.post("/v1/runs", json=body)
        assert answer.status_code == 422, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        return answer.json()["code"], [error["field"] for error in answer.json()["errors"]]

    assert refused({"agent": "takl", "input": {}})[1] == ["agent"]
    assert refused({"agent": "strict", "input": {"count": 11}}) == ("invalid", ["input.count"])
    assert refused({"agent": "strict", "input": {}}) == ("invalid", ["input.count"])
    assert refused({"agent": "strict", "input": {"count": 1, "colours": ["red", 2]}})[1] == ["input.colours[1]"]
    assert refused({"agent": "strict", "input": {"count": 1}, "user_id": "somebody"})[1] == ["user_id"]
    assert refused({"input": {}})[1] == ["agent"]
    assert http.get("/v1/runs").json()["items"] == []


def test_the_same_key_is_the_same_run(fleet: Fleet, user: str) -> None:
    body = {"agent": "talk", "input": {"text": "once"}}
    headers = {"Idempotency-Key": "order 1"}

    def send(_: int) -> Run:
        answer = fleet.http(user).post("/v1/runs", json=body, headers=headers)
        while answer.status_code == 409:  # another one is just being handled
            answer = fleet.http(user).post("/v1/runs", json=body, headers=headers)
        assert answer.status_code == 202
        return dict(answer.json())

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(send, range(6)))
    assert len({run["id"] for run in answers}) == 1
    other = fleet.http(user).post("/v1/runs", json={**body, "input": {"text": "twice"}}, headers=headers)
    assert other.status_code == 422
    fleet.wait(user, answers[0]["id"])
    assert send(0)["status"] == "completed"
    assert [run["id"] for run in fleet.client(user).runs()] == [answers[0]["id"]]
    stranger = new_user()
    theirs = fleet.http(stranger).post("/v1/runs", json=body, headers=headers).json()
    assert theirs["id"] != answers[0]["id"]
    fleet.wait(stranger, theirs["id"])


ROWS = [(f"r{n % 7}", n, round(n * 1.25 - 40, 2)) for n in range(500)]


def as_csv() -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([("region", "number", "amount"), *ROWS])
    return text.getvalue().encode()


def as_json_lines() -> bytes:
    names = ("region", "number", "amount")
    return "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in ROWS).encode()


def as_parquet(tmp_path: Path) -> bytes:
    (tmp_path / "rows.csv").write_bytes(as_csv())
    duckdb.sql(f"COPY (FROM '{tmp_path}/rows.csv') TO '{tmp_path}/rows.parquet'")
    return (tmp_path / "rows.parquet").read_bytes()


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_the_data_agent_reads_what_was_uploaded(fleet: Fleet, user: str, name: str, tmp_path: Path) -> None:
    content = {".csv": as_csv, ".jsonl": as_json_lines}.get(Path(name).suffix, lambda: as_parquet(tmp_path))()
    answer = fleet.http(user).put(f"/v1/documents/{name}", content=content)
    assert (answer.status_code, answer.json()["size"]) == (201, len(content))
    sql = "SELECT region, round(sum(amount), 2) AS total FROM data GROUP BY region ORDER BY region"
    run = fleet.submit(user, "data", {"document": name, "sql": sql})
    output = fleet.wait(user, run["id"])["output"]
    regions = sorted({region for region, _, _ in ROWS})
    expected = [[region, round(sum(amount for r, _, amount in ROWS if r == region), 2)] for region in regions]
    assert output["query"]["rows"] == expected
    assert output["table"]["rows"] == len(ROWS)
    numbers = next(column for column in output["profile"] if column["column"] == "number")
    assert (numbers["min"], numbers["max"]) == (0, 499)
    assert numbers["mean"] == pytest.approx(statistics.mean(number for _, number, _ in ROWS))
    assert output["chart"]["svg"].startswith("<svg")
    fractions = [e["data"]["fraction"] for e in fleet.events(user, run["id"]) if e["type"] == "agent_progress"]
    assert len(fractions) > 5
    assert fractions == sorted(fractions)
