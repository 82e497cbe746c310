from __future__ import annotations

from urllib.parse import quote

import pytest
import sqlalchemy as sa

from shared import records
from shared.models import AgentState, Artifact, Run, RunStep
from shared.outcomes import Completed
from shared.threads import remove_deleted_threads
from tests.integration.api.conftest import Home, UserClient
from tests.services import start_run, submit_run
from tests.steps import finish


@pytest.fixture
def run(home: Home, alice: UserClient) -> Run:
    """A run of Alice's with three artifacts."""
    made = start_run(home.services, submit_run(home.services, alice.user_id))
    with home.services.database.user_session(alice.user_id) as session:
        records.save_artifact(session, made, "chart.svg", "image/svg+xml", b"<svg/>")
        records.save_artifact(session, made, "a table (1).csv", "text/csv; charset=utf-8", "ä,b\n".encode())
        records.save_artifact(session, made, "page.html", "text/html", b"<script>alert(1)</script>")
    return made


def test_artifacts_are_listed_and_read(alice: UserClient, run: Run) -> None:
    answer = alice.get(f"/v1/runs/{run.id}/artifacts")
    assert answer.status_code == 200, answer.text
    items = answer.json()["items"]
    assert [(item["name"], item["size"]) for item in items] == [
        ("a table (1).csv", 5), ("chart.svg", 6), ("page.html", 25),
    ]  # fmt: skip
    for item in items:
        got = alice.get(f"/v1/runs/{run.id}/artifacts/{quote(item['name'])}")
        assert (len(got.content), got.headers["Content-Type"]) == (item["size"], item["content_type"])
    assert alice.get(f"/v1/runs/{run.id}/artifacts/a%20table%20(1).csv").text == "ä,b\n"


def test_a_browser_runs_nothing_of_an_artifact(alice: UserClient, run: Run) -> None:
    headers = alice.get(f"/v1/runs/{run.id}/artifacts/page.html").headers
    assert headers["Content-Disposition"] == "attachment; filename*=UTF-8''page.html"
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = {part.strip() for part in headers["Content-Security-Policy"].split(";")}
    assert {"default-src 'none'", "sandbox"} <= policy
    assert "script-src" not in headers["Content-Security-Policy"]


def test_what_is_not_there_and_what_is_anothers_look_the_same(alice: UserClient, bob: UserClient, run: Run) -> None:
    for client, path in (
        (bob, f"/v1/runs/{run.id}/artifacts"),
        (bob, f"/v1/runs/{run.id}/artifacts/chart.svg"),
        (alice, f"/v1/runs/{run.id[:-1]}{int(run.id[-1] == '0')}/artifacts"),
        (alice, f"/v1/runs/{run.id}/artifacts/other.svg"),
        (alice, f"/v1/runs/{run.id}/artifacts/%00"),
        (alice, "/v1/runs/x/artifacts/chart.svg"),
    ):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path


def test_what_agents_kept_goes_with_its_thread(alice: UserClient, run: Run, home: Home) -> None:
    once = home.services.database.once(alice.user_id)
    records.record_step(once, run, "a", 1)
    records.save_state(once, run, "a", "thread", expected=0, value=1, token="t")
    finish(home.services.database, run, Completed(1))
    assert alice.delete(f"/v1/threads/{run.thread_id}").status_code == 204
    assert alice.get(f"/v1/runs/{run.id}/artifacts").status_code == 404
    assert alice.get(f"/v1/runs/{run.id}/artifacts/chart.svg").status_code == 404
    remove_deleted_threads(home.services.database)
    with home.services.database.user_session(alice.user_id) as session:
        for model in (RunStep, AgentState, Artifact):
            assert list(session.scalars(sa.select(model))) == []


def test_the_use_of_models_shows_in_the_run(alice: UserClient, run: Run, home: Home) -> None:
    assert alice.get(f"/v1/runs/{run.id}").json()["usage"] is None
    records.add_usage(home.services.database.once(alice.user_id), run, "small", 10, 5)
    usage = {"model": "small", "requests": 1, "input_tokens": 10, "output_tokens": 5}
    assert alice.get(f"/v1/runs/{run.id}").json()["usage"] == usage
