from __future__ import annotations

import threading
import time
from typing import Any

from tests.api_process import FakeWorker, Server


def _submit(server: Server, body: dict[str, Any], user_id: str = "alice") -> str:
    with server.client(user_id) as client:
        answer = client.post("/v1/runs", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])


def test_replay_then_live_then_reconnect_shows_each_event_once_in_order(
    server: Server, worker: FakeWorker, body: dict[str, Any]
) -> None:
    run_id = _submit(server, body)
    run = worker.start("alice", run_id)
    worker.say(run, *"abc")
    with server.stream(after=0) as stream:
        assert (stream.welcome["replay"], stream.welcome["head"], stream.welcome["recovered"]) == (5, 5, True)
        stream.until_live()
        assert stream.live_at == 5
        worker.say(run, *"de")
        stream.until_seq(7)
    worker.say(run, *"fg")
    with server.stream(after=7) as again:
        worker.finish(run)
        again.until_seq(10)
    assert stream.numbers + again.numbers == list(range(1, 11))
    assert [event["run_seq"] for event in (*stream.events, *again.events)] == list(range(1, 11))
    assert again.events[-1]["type"] == "run_completed"
    with server.client() as client:
        assert client.get(f"/v1/runs/{run_id}/events").json()["items"] == stream.events + again.events


def test_a_wait_ends_with_its_run(server: Server, worker: FakeWorker, body: dict[str, Any]) -> None:
    run = worker.start("alice", _submit(server, body))
    with server.client() as client:
        timer = threading.Timer(0.5, worker.finish, [run])
        timer.start()
        began = time.monotonic()
        view = client.get(f"/v1/runs/{run.id}/wait?timeout_s=20").json()
        assert view["status"] == "completed"
        assert 0.4 < time.monotonic() - began < 2
