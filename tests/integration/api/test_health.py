from __future__ import annotations

import httpx
import sqlalchemy as sa

from tests.api_process import FakeWorker
from tests.integration.api.conftest import Home


def test_ready_with_everything_there(anonymous: httpx.Client, worker: FakeWorker) -> None:
    answer = anonymous.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok"), answer.text
    assert set(answer.json()["dependencies"]) == {"postgres", "redis", "worker"}
    assert all(item["latency_ms"] >= 0 for item in answer.json()["dependencies"].values())
    assert worker


def test_degraded_without_a_worker(apart: Home) -> None:
    apart.superuser.execute(sa.text("DELETE FROM lanewise.workers"))
    with apart.client(None) as anonymous:
        answer = anonymous.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["dependencies"]["worker"]["status"] == "away"


def test_a_schema_that_is_older_than_the_code_is_not_ready(apart: Home) -> None:
    with apart.client(None) as anonymous:
        apart.superuser.execute(sa.text("UPDATE lanewise.alembic_version SET version_num = '0000'"))
        ready = anonymous.get("/readyz")
        assert ready.status_code == 503
        assert "lanewise migrate" in ready.json()["dependencies"]["postgres"]["detail"]
        apart.superuser.execute(sa.text("UPDATE lanewise.alembic_version SET version_num = '9999'"))
        assert anonymous.get("/readyz").status_code == 200
        apart.superuser.execute(sa.text("DROP TABLE lanewise.alembic_version"))
        assert anonymous.get("/readyz").status_code == 503


def test_metrics_name_routes_and_no_values(anonymous: httpx.Client, worker: FakeWorker) -> None:
    anonymous.get("/v1/runs/some-secret-id")
    anonymous.get("/some-secret-path")
    text = anonymous.get("/metrics").text
    assert 'lanewise_http_requests_total{method="GET",route="/v1/runs/<run_id>",status="401"}' in text
    assert 'route="(none)",status="404"' in text
    assert "secret" not in text
    assert worker
