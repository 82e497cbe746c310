"""What an operator sees: metrics, logs, Flower; and what nobody may see there: secrets, tokens, users."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import plain
from tests.fleet.fleet import Fleet, new_user, until
from tests.fleet.memory import readable


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that does not exist yet: `hold` waits for it. At the end nobody is left waiting."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def address(fleet: Fleet, title: str) -> str:
    """Returns the address that `up` has printed for something."""
    found = re.search(rf"^{title} +(http://\S+)", fleet.said(), re.MULTILINE)
    assert found, fleet.said()
    return found[1]


def metric(url: str, name: str, **labels: str) -> float:
    """Returns the value of a metric, 0 if it has none with these labels."""
    answer = plain.get(url, timeout=10)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    assert name in {sample.name for sample in samples} or labels
    return sum(sample.value for sample in samples if sample.name == name and sample.labels == labels)


def lines(fleet: Fleet, name: str) -> list[dict[str, Any]]:
    """Returns a log, each line of which has to be a JSON object; the last one may still be being written."""
    whole = fleet.logs()[name].rpartition("\n")[0].splitlines()
    assert [line for line in whole if not line.startswith("{")] == []
    return [json.loads(line) for line in whole]


def test_metrics_count_what_happens(fleet: Fleet, user: str) -> None:
    api, worker = f"{fleet.url}/metrics", address(fleet, "Metrics")

    def counts() -> list[float]:
        return [
            metric(api, "lanewise_submissions_total", over="rest"),
            metric(api, "lanewise_http_requests_total", method="POST", route="/v1/runs", status="202"),
            metric(worker, "lanewise_runs_claimed_total", queue="default"),
            metric(worker, "lanewise_attempts_ended_total", queue="default", outcome="completed"),
            metric(worker, "lanewise_attempts_ended_total", queue="default", outcome="failed"),
            metric(worker, "lanewise_dispatch_seconds_count", queue="default"),
        ]

    before = counts()
    events = metric(worker, "lanewise_events_written_total")
    for number in range(3):
        fleet.wait(user, fleet.submit(user, "talk", {"text": str(number)})["id"])
    fleet.wait(user, fleet.submit(user, "refuse", {"text": "no"})["id"], "failed")
    expected = [then + more for then, more in zip(before, [4, 4, 4, 3, 1, 4], strict=True)]
    until(lambda: counts() == expected, 5, counts)
    assert metric(worker, "lanewise_events_written_total") > events
    assert metric(worker, "lanewise_sandbox_cpu_seconds_total") > 0
    assert user not in plain.get(api, timeout=10).text + httpx.get(worker, timeout=10).text


def test_metrics_show_what_is_under_way(fleet: Fleet, user: str, gate: Path) -> None:
    worker = address(fleet, "Metrics")
    until(lambda: metric(f"{fleet.url}/metrics", "lanewise_sockets") == 0, 10, "the sockets of others are gone")
    run = fleet.submit(user, "hold", {"gate": str(gate)})
    until(lambda: metric(worker, "lanewise_runs_running") == 1, 5, "the run in the gauge")
    with fleet.client(user).stream() as stream:
        stream.open()
        until(lambda: metric(f"{fleet.url}/metrics", "lanewise_sockets") == 1, 5, "the socket in the gauge")
    gate.touch()
    fleet.wait(user, run["id"])
    until(lambda: metric(worker, "lanewise_runs_running") == 0, 5, "the run out of the gauge")


def test_logs_are_json_and_tie_a_run_together(fleet: Fleet, user: str) -> None:
    run = fleet.submit(user, "refuse", {"text": f"said by {user}"})
    fleet.wait(user, run["id"], "failed")

    def of_run() -> list[dict[str, Any]]:
        return [line for line in lines(fleet, "worker.1.log") if line.get("run_id") == run["id"]]

    until(lambda: [line for line in of_run() if line["event"] == "an attempt ended"], 5, of_run)
    for line in of_run():
        assert line["correlation_id"] == run["correlation_id"]
        assert line["process"] == "worker"
        assert line["user_id"] != user
        assert {"timestamp", "level", "event"} <= line.keys()
    assert "agents_acceptance.py" in next(line["trace"] for line in of_run() if "trace" in line)
    assert plain.get(f"{fleet.url}/v1/me", headers={"Authorization": "Bearer wrong"}, timeout=10).status_code == 401
    refused = [line for line in lines(fleet, "api.1.log") if line["event"] == "a sign-in failed"]
    assert refused
    assert all(line["correlation_id"] for line in refused)
    assert user not in "".join(fleet.logs().values())


def test_flower_is_for_its_operator_alone_and_shows_no_arguments(fleet: Fleet, user: str) -> None:
    url = address(fleet, "Flower").rstrip("/")
    run = fleet.submit(user, "talk", {"text": "not for Flower"})
    fleet.wait(user, run["id"])
    for credentials in (None, ("lanewise", "wrong"), ("admin", fleet.secrets.flower_password)):
        for path in ("/", "/api/tasks", "/workers"):
            assert plain.get(url + path, auth=credentials, timeout=10).status_code == 401
    with plain.client(base_url=url, auth=("lanewise", fleet.secrets.flower_password), timeout=10) as flower:
        task_id = f"{run['id']}:1"

        def ended() -> Any:
            task = flower.get("/api/tasks").json().get(task_id)
            return task if task and task["state"] == "SUCCESS" else None

        task = until(ended, 10, "the run's task in Flower")
        assert (task["name"], task["args"], task["kwargs"]) == ("lanewise.run", "(signed)", "{}")
        seen = flower.get("/").text + flower.get(f"/task/{task_id}").text + json.dumps(task)
        assert task_id in seen
        assert user not in seen
        assert "not for Flower" not in seen
        workers = flower.get("/api/workers", params={"refresh": "1"})
        (worker,) = workers.json()
        assert [secret[:4] for secret in secrets_of(fleet) if secret in workers.text] == []
        for path in (f"worker/shutdown/{worker}", f"task/revoke/{task_id}", "task/async-apply/lanewise.run"):
            assert flower.post(f"/api/{path}", json={"args": ["x"]}).status_code == 403
    listening = [c.laddr.ip for c in fleet.process("flower").net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]


def secrets_of(fleet: Fleet) -> set[str]:
    """Returns every secret of the fleet in the clear, and the bearer tokens given out here."""
    assert len(set(asdict(fleet.secrets).values())) > 5
    tokens = {http.headers["Authorization"].removeprefix("Bearer ") for http in fleet._https.values()}
    return {*asdict(fleet.secrets).values(), *fleet.settings.jwt_keys, *tokens}


def test_no_secret_is_in_a_log_or_a_command_line(fleet: Fleet, user: str) -> None:
    stranger = new_user()
    ticket = fleet.http(user).post("/v1/tickets").json()["ticket"]
    fleet.wait(user, fleet.submit(user, "refuse", {"text": fleet.token(stranger)})["id"], "failed")
    fleet.http(user).get("/v1/runs", params={"token": fleet.token(stranger)})
    hidden = secrets_of(fleet) | {ticket, fleet.token(stranger)}
    logs = fleet.logs()
    lines_of = [*logs.items(), *((p.pid, " ".join(p.cmdline())) for ps in fleet.processes().values() for p in ps)]
    assert len(lines_of) > 10
    assert [(where, secret[:4]) for where, text in lines_of for secret in hidden if secret in text] == []
    # What `up` prints for people to try is all that is a token, and goes to its terminal only.
    assert [name for name, text in logs.items() if re.search(r"eyJ[\w-]+\.[\w-]+\.", text)] == ["up.log"]


def test_zygote_and_sandboxes_hold_no_secret(fleet: Fleet, user: str, gate: Path) -> None:
    run = fleet.submit(user, "hold", {"gate": str(gate)})
    sandbox = psutil.Process(fleet.pid(user, run["id"]))
    zygote = sandbox.parent()
    assert zygote == fleet.process("zygote")
    # The run role's password belongs in a sandbox: with it alone nobody sees a row.
    hidden = secrets_of(fleet) - {fleet.secrets.run_password}
    try:
        held = {process: b"".join(readable(process.pid)) for process in (zygote, sandbox, fleet.process("worker"))}
    except PermissionError as error:
        pytest.skip(f"the system does not let one process read another: {error}")
    for process in (zygote, sandbox):
        assert [name for name in process.environ() if name.startswith("LANEWISE_")] == ["LANEWISE_AGENTS"]
        assert b"agents_acceptance" in held[process]
        assert [secret[:4] for secret in hidden if secret.encode() in held[process]] == []
    assert fleet.secrets.secret_key.encode() in held[fleet.process("worker")]  # so we do find what is there
