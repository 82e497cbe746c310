from __future__ import annotations

import httpx

from tests.api_process import FakeWorker


def test_ready_with_everything_there(anonymous: httpx.Client, worker: FakeWorker) -> None:
    answer = anonymous.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok"), answer.text
    assert set(answer.json()["dependencies"]) == {"postgres", "redis", "worker"}
    assert all(item["latency_ms"] >= 0 for item in answer.json()["dependencies"].values())
    assert worker


def test_degraded_without_a_worker(anonymous: httpx.Client) -> None:
    answer = anonymous.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["dependencies"]["worker"]["status"] == "away"
