from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner, Result

from lanewise.cli import main
from lanewise.ports import free_port
from lanewise.secrets import ensure_secrets
from lanewise.up import UpOptions
from shared.settings import jwt_keys
from tests.scripted import Service, answer, event, problem, says, welcome

RUN: dict[str, Any] = {
    "id": "r1", "agent": "data", "status": "queued", "thread_id": "t1", "input": {"a": 1}, "output": None,
    "error": None, "attempt": 0, "last_run_seq": 1, "progress": {"fraction": 0.0, "note": ""},
    "queue": {"position": 3, "reason": "user_limit", "eta_s": 4.2}, "metadata": {}, "correlation_id": "c1",
    "retry_of": None, "created_at": "2026-01-01T00:00:00.000Z", "started_at": None, "finished_at": None,
}  # fmt: skip
DONE = {
    **RUN, "status": "completed", "queue": None, "attempt": 1, "output": {"words": 1234},
    "started_at": "2026-01-01T00:00:01.000Z", "finished_at": "2026-01-01T00:00:03.500Z",
}  # fmt: skip
ERROR = {"type": "QueryError", "message": "no column\x1b[2J 'x'", "attempt": 1, "retryable": False}
EVENTS = [
    event(1, "run_queued"),
    event(2, "run_started"),
    event(3, "agent_thinking", text="counting\x1b]0;evil\x07"),
    event(4, "agent_progress", fraction=0.5, note="half way"),
    event(5, "run_completed"),
]

Invoke = Callable[..., Result]


@pytest.fixture
def lanewise(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, token: str = "a-token", **options: Any) -> Result:  # noqa: S107
        environment = {"LANEWISE_URL": service.url, "LANEWISE_TOKEN": token or None}
        return CliRunner().invoke(main, arguments, env=environment, prog_name="lanewise", **options)

    return invoke


def follow(service: Service, ended: dict[str, Any], events: list[Any] | None = None) -> None:
    service.on("POST", "/v1/runs", answer(RUN, 202))
    service.on("GET", "/v1/runs/r1", answer(ended))
    service.on("GET", "/v1/runs/r1/events", answer({"items": EVENTS[:1], "next_cursor": None}))
    service.connections = [says(welcome(1, snapshot={"runs": []}), *(EVENTS[1:] if events is None else events))]


def lines(result: Result) -> list[Any]:
    return [json.loads(text) for text in result.stdout.splitlines()]


def test_agents_are_listed_with_what_they_take(service: Service, lanewise: Invoke) -> None:
    schema = {"properties": {"text": {}, "sql": {}}, "required": ["text"]}
    agent = {"name": "count", "description": "Counts words.", "input_schema": schema}
    service.on("GET", "/v1/agents", answer({"items": [agent], "next_cursor": None}))
    result = lanewise("agents")
    assert result.exit_code == 0
    assert "Counts words." in result.stdout
    assert "text, [sql]" in result.stdout
    assert lines(lanewise("agents", "--json")) == [agent]


def test_submit_prints_the_id_alone(service: Service, lanewise: Invoke) -> None:
    service.on("POST", "/v1/runs", answer(RUN, 202))
    result = lanewise("submit", "data", "--input", '{"a": 1}', "--thread", "t1")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "r1\n", "")
    assert json.loads(service.requests[0].data) == {"agent": "data", "input": {"a": 1}, "thread_id": "t1"}
    assert lines(lanewise("submit", "data", "--json")) == [RUN]


def test_the_input_may_come_from_a_file_or_standard_input(service: Service, lanewise: Invoke, tmp_path: Path) -> None:
    service.on("POST", "/v1/runs", answer(RUN, 202))
    (tmp_path / "in.json").write_text('{"b": "ä"}', encoding="utf-8")
    lanewise("submit", "data", "--input", "@in.json")
    lanewise("submit", "data", "--input", "@-", input='{"c": 3}')
    assert [json.loads(request.data)["input"] for request in service.requests] == [{"b": "ä"}, {"c": 3}]


@pytest.mark.parametrize(
    ("text", "words"), [("{", "not JSON"), ("in.json", "given as @FILE"), ("@nowhere", "nowhere cannot be read")]
)
def test_an_input_that_is_none_is_a_usage_error(lanewise: Invoke, text: str, words: str) -> None:
    result = lanewise("submit", "data", "--input", text)
    assert result.exit_code == 2
    assert words in result.stderr


def test_watching_prints_lines_on_the_way_and_then_the_result(service: Service, lanewise: Invoke) -> None:
    follow(service, DONE)
    result = lanewise("submit", "data", "--watch")
    assert result.exit_code == 0
    assert "1234" in result.stdout
    assert "half way" not in result.stdout
    on_the_way = result.stderr.splitlines()
    assert [text.split()[3] for text in on_the_way] == [item["type"] for item in EVENTS]
    assert on_the_way[3].endswith("50% half way")


def test_what_an_agent_says_cannot_control_the_terminal(service: Service, lanewise: Invoke) -> None:
    follow(service, {**DONE, "status": "failed", "error": ERROR, "output": None})
    result = lanewise("watch", "r1")
    assert result.exit_code == 1
    assert "QueryError: no column[2J 'x'" in result.stdout
    assert "\x1b" not in result.output
    assert "\x07" not in result.output


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 1), ("cancelled", 1), ("timed_out", 1)])
def test_the_outcome_of_a_watched_run_is_the_exit_code(
    service: Service, lanewise: Invoke, status: str, code: int
) -> None:
    follow(service, {**DONE, "status": status}, [event(2, f"run_{status}")])
    assert lanewise("watch", "r1").exit_code == code


def test_watching_as_json_gives_each_event_and_the_run(service: Service, lanewise: Invoke) -> None:
    follow(service, DONE)
    result = lanewise("submit", "data", "--watch", "--json")
    assert lines(result) == [*EVENTS, DONE]
    assert result.stderr == ""


def test_watching_all_starts_with_what_is_running(service: Service, lanewise: Invoke) -> None:
    service.connections = [says(welcome(0, snapshot={"runs": [RUN]}), *EVENTS, then=4403)]
    result = lanewise("watch", "--json")
    assert (result.exit_code, lines(result)) == (3, EVENTS)
    assert service.hellos[0]["after"] is None


def test_runs_are_listed_up_to_the_limit(service: Service, lanewise: Invoke) -> None:
    page = {"items": [DONE, RUN, RUN], "next_cursor": "more"}
    service.on("GET", "/v1/runs", answer(page))
    result = lanewise("runs", "--limit", "2", "--status", "completed")
    assert [text.split()[:4] for text in result.stdout.splitlines()[1:]] == [
        ["r1", "data", "✓", "completed"],
        ["r1", "data", "·", "queued"],
    ]
    assert service.requests[0].args["status"] == "completed"
    assert len(service.requests) == 1
    assert len(lines(lanewise("runs", "--json", "--limit", "5"))) == 5


def test_show_tells_all_of_a_run(service: Service, lanewise: Invoke) -> None:
    service.on("GET", "/v1/runs/r1", answer(RUN), answer(DONE))
    queued, done = lanewise("show", "r1").stdout, lanewise("show", "r1").stdout
    assert "number 3 in line, your earlier runs come first, about 4.2 s" in queued
    assert "2.5 s" in done
    assert "1234" in done
    assert '{"a": 1}' in done
    assert lines(lanewise("show", "r1", "--json")) == [DONE]


@pytest.mark.parametrize(
    ("status", "words"), [("running", "asked to stop"), ("cancelled", "cancelled"), ("completed", "had ended before")]
)
def test_cancel_says_what_became_of_it(service: Service, lanewise: Invoke, status: str, words: str) -> None:
    service.on("POST", "/v1/runs/r1/cancel", answer({**RUN, "status": status}))
    result = lanewise("cancel", "r1")
    assert result.exit_code == 0
    assert words in result.stdout


def test_a_retry_prints_the_new_id_alone_and_may_be_watched(service: Service, lanewise: Invoke) -> None:
    follow(service, {**DONE, "retry_of": "r0"})
    service.on("POST", "/v1/runs/r0/retry", answer({**RUN, "retry_of": "r0"}, 202))
    assert lanewise("retry", "r0").stdout == "r1\n"
    assert "retry of   r0" in lanewise("show", "r1").stdout
    watched = lanewise("retry", "r0", "--watch")
    assert watched.exit_code == 0
    assert "1234" in watched.stdout


def test_a_refusal_is_one_line_with_each_field_and_exit_code_3(service: Service, lanewise: Invoke) -> None:
    body = {
        "code": "invalid",
        "detail": "the input is wrong",
        "errors": [{"field": "input.sql", "message": "too long"}],
    }
    service.on("POST", "/v1/runs", answer(body, 422))
    result = lanewise("submit", "data")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "lanewise: the input is wrong\n  input.sql: too long\n"


def test_an_old_token_is_told_with_the_cure(service: Service, lanewise: Invoke) -> None:
    service.on("GET", "/v1/runs", problem(401, "unauthorized", "the token has expired"))
    result = lanewise("runs")
    assert result.exit_code == 3
    assert result.stderr.startswith("lanewise: the token has expired; a new token: export LANEWISE_TOKEN=")


def test_nobody_there_is_told_soon_and_with_the_cure(lanewise: Invoke) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    result = lanewise("runs", "--url", url)
    assert time.monotonic() - started < 4
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1
    assert url in result.stderr
    assert "LANEWISE_URL" in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_wrong_address_is_a_usage_error(lanewise: Invoke) -> None:
    result = lanewise("runs", "--url", "localhost:8000")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_no_token_is_told_with_how_to_make_one_here(lanewise: Invoke, tmp_path: Path) -> None:
    assert "ask whoever runs the service" in lanewise("runs", token="").stderr
    ensure_secrets(tmp_path / ".lanewise")
    result = lanewise("runs", token="")
    assert result.exit_code == 2
    assert "export LANEWISE_TOKEN=$(lanewise token alice)" in result.stderr


def claims(token: str, key: str) -> dict[str, Any]:
    return jwt.decode(token.strip(), key, algorithms=["HS256"], audience="lanewise", issuer="lanewise")


def test_a_token_is_made_from_the_secrets_of_a_data_folder(tmp_path: Path) -> None:
    key = jwt_keys((ensure_secrets(tmp_path / "data").secret_key,))[0]
    arguments = ["token", "alice", "--scope", "runs", "--scope", "admin", "--ttl", "60"]
    result = CliRunner().invoke(main, [*arguments, "--data-dir", str(tmp_path / "data")])
    found = claims(result.stdout, key)
    assert (found["sub"], found["scope"], found["exp"] - found["iat"]) == ("alice", "runs admin", 60)


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({"LANEWISE_SECRET_KEY": f"{'n' * 32}, {'o' * 32}"}, jwt_keys(("n" * 32,))[0]),
        ({"LANEWISE_SECRET_KEY": "n" * 32, "LANEWISE_JWT_SECRET": f"{'j' * 32},{'k' * 32}"}, "j" * 32),
    ],
)
def test_a_token_is_made_from_the_environment_first(tmp_path: Path, environment: dict[str, str], key: str) -> None:
    ensure_secrets(tmp_path)
    result = CliRunner().invoke(main, ["token", "bob", "--data-dir", str(tmp_path)], env=environment)
    assert claims(result.stdout, key)["scope"] == "runs"


def test_a_folder_without_secrets_and_a_bad_user_are_told(tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    empty = CliRunner().invoke(main, ["token", "bob", "--data-dir", str(tmp_path / "none")])
    bad = CliRunner().invoke(main, ["token", "none", "--data-dir", str(tmp_path)])
    assert (empty.exit_code, empty.stdout) == (2, "")
    assert "no secrets in" in empty.stderr
    assert bad.exit_code == 1
    assert "placeholder" in bad.stderr


def test_up_takes_the_options_of_the_contract(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[UpOptions] = []
    monkeypatch.setattr("lanewise.up.up", started.append)
    plain = CliRunner().invoke(main, ["up"])
    given = CliRunner().invoke(
        main,
        [
            *("up", "--host", "0.0.0.0", "--port", "9000", "--apis", "2", "--workers", "3", "--slots", "4"),  # noqa: S104
            *(
                "--data-dir",
                str(tmp_path),
                "--redis-url",
                "redis://r",
                "--database-url",
                "postgresql://p",
                "--no-flower",
            ),
        ],
    )
    assert (plain.exit_code, given.exit_code) == (0, 0)
    assert started == [
        UpOptions(),
        UpOptions("0.0.0.0", 9000, 2, 3, 4, tmp_path, "redis://r", "postgresql://p", None, flower=False),  # noqa: S104
    ]


@pytest.mark.parametrize(
    ("missing", "words"),
    [("OWNER_DATABASE_URL", "LANEWISE_OWNER_DATABASE_URL is not set"), ("RUN_DATABASE_URL", "the sandboxes")],
)
def test_migrate_says_what_is_missing(missing: str, words: str) -> None:
    names = ("OWNER_DATABASE_URL", "DATABASE_URL", "RUN_DATABASE_URL")
    environment = {f"LANEWISE_{name}": "postgresql://u:p@127.0.0.1:1/x" for name in names if name != missing}
    result = CliRunner().invoke(main, ["migrate"], env={**environment, "LANEWISE_SECRET_KEY": "s" * 32})
    assert result.exit_code == 2
    assert words in result.stderr


def test_migrate_says_that_the_database_is_away() -> None:
    names = ("OWNER_DATABASE_URL", "DATABASE_URL", "RUN_DATABASE_URL")
    environment = {f"LANEWISE_{name}": f"postgresql://u:p@127.0.0.1:{free_port()}/x" for name in names}
    result = CliRunner().invoke(main, ["migrate"], env={**environment, "LANEWISE_SECRET_KEY": "s" * 32})
    assert result.exit_code == 2
    assert "cannot be migrated" in result.stderr


def test_a_pipe_that_is_closed_early_is_no_error(service: Service) -> None:
    service.on("GET", "/v1/runs", answer({"items": [DONE] * 100, "next_cursor": "more"}))
    command = f"{sys.executable} -m lanewise.cli runs --json --limit 5000 | head -n 1"
    environment = {**os.environ, "LANEWISE_URL": service.url, "LANEWISE_TOKEN": "t"}
    done = subprocess.run(  # noqa: S602 - the pipe is the subject
        command, shell=True, capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert json.loads(done.stdout) == DONE
    assert done.stderr == ""


def test_help_is_quick_and_loads_no_more_than_it_needs() -> None:
    code = """
import sys
sys.argv = ["lanewise", "--help"]
from lanewise.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == 0
heavy = {"httpx", "rich", "websockets", "pydantic", "sqlalchemy", "redis", "celery", "flask", "duckdb", "asyncio"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Exit codes" in done.stdout


GONE = {
    "user_id": "alice", "status": "deleted", "requested_at": "2026-01-01T00:00:00.000Z",
    "finished_at": "2026-01-01T00:00:09.000Z", "live_runs": 0, "removed": {"runs": 1200, "documents": 2},
}  # fmt: skip


def test_a_user_is_deleted_only_if_one_says_so(service: Service, lanewise: Invoke) -> None:
    service.on("DELETE", "/v1/admin/users/alice", answer(GONE))
    for said in ("n\n", "\n", ""):
        refused = lanewise("users", "delete", "alice", input=said)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert "'alice'" in refused.stderr
    assert service.requests == []
    done = lanewise("users", "delete", "alice", input="y\n")
    assert (done.exit_code, done.stdout) == (0, "deleted: 2 of documents, 1,200 of runs\n")
    assert lines(lanewise("users", "delete", "alice", "--yes", "--json")) == [GONE]


def test_a_deletion_that_goes_on_is_waited_for(
    service: Service, lanewise: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lanewise.cli.admin.LOOK_S", 0.01)
    going_on = {**GONE, "status": "deleting", "finished_at": None, "live_runs": 1, "removed": {}}
    service.on("DELETE", "/v1/admin/users/a/b", answer(going_on, 202))
    service.on("GET", "/v1/admin/users/a/b/deletion", answer(going_on), answer({**GONE, "removed": {}}))
    done = lanewise("users", "delete", "a/b", "--yes")
    assert (done.exit_code, done.stdout) == (0, "deleted: there was nothing\n")
    assert [request.method for request in service.requests] == ["DELETE", "GET", "GET"]


def test_who_may_not_delete_is_told_so(service: Service, lanewise: Invoke) -> None:
    service.on("DELETE", "/v1/admin/users/alice", problem(403, "forbidden", "the token lacks the scope"))
    assert lanewise("users", "delete", "alice", "--yes").exit_code == 3
