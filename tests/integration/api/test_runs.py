from __future__ import annotations

from typing import Any

import httpx

from tests.api_process import FakeWorker


def test_a_submission_is_stored_and_answered_with_its_run(
    alice: httpx.Client, worker: FakeWorker, body: dict[str, Any]
) -> None:
    answer = alice.post("/v1/runs", json=body)
    assert answer.status_code == 202, answer.text
    run = answer.json()
    assert answer.headers["Location"] == f"/v1/runs/{run['id']}"
    assert (run["status"], run["input"], run["last_run_seq"]) == ("queued", body["input"], 1)
    stored = alice.get(answer.headers["Location"]).json()
    assert stored["id"] == run["id"]
    assert worker
