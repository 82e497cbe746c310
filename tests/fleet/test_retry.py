"""`Retry` and retries over a whole fleet: what a user sees, and that no recorded step is done again."""

from __future__ import annotations

from datetime import datetime

from click.testing import CliRunner

from lanewise.cli import main
from tests.fleet.fleet import Event, Fleet


def orders(events: list[Event]) -> int:
    """Returns how often the step was done."""
    return [event["data"].get("text") for event in events].count("ordering")


def test_an_agent_asks_for_another_attempt_and_goes_on_after_its_step(fleet: Fleet, user: str) -> None:
    run = fleet.submit(user, "busy", {"times": 1, "after_s": 0.5})
    done = fleet.wait(user, run["id"])
    assert (done["output"], done["attempt"]) == ({"ordered_by": run["id"], "tries": 2}, 2)
    events = fleet.events(user, run["id"])
    assert orders(events) == 1
    told = {event["type"]: event for event in events if event["attempt"] == 1}
    assert told["agent_failed"]["data"]["error"] == {"type": "retry", "message": "the provider is busy"}
    recovering = told["run_recovering"]
    data = {name: recovering["data"][name] for name in ("reason", "message", "attempt", "after_s")}
    assert data == {"reason": "retry", "message": "the provider is busy", "attempt": 1, "after_s": 0.5}
    (started,) = [event for event in events if event["type"] == "run_started" and event["attempt"] == 2]
    waited = datetime.fromisoformat(started["at"]) - datetime.fromisoformat(recovering["at"])
    assert 0.5 <= waited.total_seconds() < 3
    assert [event["run_seq"] for event in events] == list(range(1, len(events) + 1))


def test_a_failed_run_is_retried_by_its_user_and_goes_on_after_its_step(fleet: Fleet, user: str) -> None:
    run = fleet.submit(user, "busy", {"times": 2, "after_s": 0}, metadata={"m": 1})
    failed = fleet.wait(user, run["id"], "failed")
    assert failed["error"]["type"] == "retry"
    before = [(attempt["attempt"], attempt["reason"]) for attempt in failed["error"]["attempts"]]
    assert (before, failed["error"]["attempt"]) == ([(1, "retry"), (2, "retry")], 2)
    new = fleet.client(user).retry(run["id"])
    done = fleet.wait(user, new["id"])
    assert (done["retry_of"], done["thread_id"], done["metadata"]) == (run["id"], run["thread_id"], {"m": 1})
    assert done["output"] == {"ordered_by": run["id"], "tries": 3}
    assert orders(fleet.events(user, new["id"])) == 0
    assert fleet.run(user, run["id"]) == failed
    refused = fleet.http(user).post(f"/v1/runs/{new['id']}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_retryable")


def test_it_is_retried_from_the_shell(fleet: Fleet, user: str) -> None:
    run = fleet.submit(user, "busy", {"times": 2, "after_s": 0})
    fleet.wait(user, run["id"], "failed")
    environment = {"LANEWISE_URL": fleet.url, "LANEWISE_TOKEN": fleet.token(user)}
    done = CliRunner().invoke(main, ["retry", run["id"], "--watch"], env=environment, prog_name="lanewise")
    assert done.exit_code == 0, done.output
    assert run["id"] in done.stdout
