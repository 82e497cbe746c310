from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.wrappers import Request, Response

from lanewise import ApiError, Client, UnreachableError
from lanewise.ports import free_port
from shared.errors import ConfigurationError
from tests.scripted import LostError, Service, answer, problem

RUN = {"id": "r1", "status": "queued"}


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, "a-token", timeout_s=5, retry_s=2) as made:
        yield made


def lost(_request: Request) -> Response:
    raise LostError


def keys(service: Service) -> list[str | None]:
    return [request.headers.get("Idempotency-Key") for request in service.requests]


def test_submit_sends_what_is_given_and_nothing_else(service: Service, client: Client) -> None:
    service.on("POST", "/v1/runs", answer(RUN, 202))
    assert client.submit("count", {"text": "a b"}) == RUN
    assert client.submit("count", None, thread_id="t", metadata={"a": 1}, time_limit_s=2, idempotency_key="k") == RUN
    bare, full = (json.loads(request.data) for request in service.requests)
    assert bare == {"agent": "count", "input": {"text": "a b"}}
    assert full == {"agent": "count", "input": None, "thread_id": "t", "metadata": {"a": 1}, "time_limit_s": 2}
    assert keys(service)[1] == '"k"'
    assert service.requests[0].headers["Authorization"] == "Bearer a-token"


def test_a_lost_answer_is_asked_for_with_the_same_key(service: Service, client: Client) -> None:
    service.on("POST", "/v1/runs", lost, problem(409, "conflict", "in flight", Retry_After="0"), answer(RUN, 202))
    assert client.submit("count", {}) == RUN
    first, *others = keys(service)
    assert first
    assert len(first) >= 16
    assert others == [first, first]


def test_a_retry_has_a_key_too_and_is_not_asked_for_again_when_it_cannot_be(service: Service, client: Client) -> None:
    path, in_flight = "/v1/runs/r1/retry", problem(409, "conflict", "in flight", Retry_After="0")
    service.on("POST", path, lost, in_flight, answer(RUN, 202), problem(409, "not_retryable", "it is running"))
    assert client.retry("r1") == RUN
    assert len(set(keys(service))) == 1
    with pytest.raises(ApiError, match="it is running") as caught:
        client.retry("r1", idempotency_key="k")
    assert caught.value.code == "not_retryable"
    assert keys(service)[3:] == ['"k"']


def test_two_submissions_have_two_keys(service: Service, client: Client) -> None:
    service.on("POST", "/v1/runs", answer(RUN, 202))
    client.submit("count", {})
    client.submit("count", {})
    assert len(set(keys(service))) == 2


def test_a_late_answer_is_asked_for_once_more_although_the_time_is_over(service: Service) -> None:
    def late(_request: Request) -> Response:
        time.sleep(0.4)
        return answer(RUN, 202)

    service.on("POST", "/v1/runs", late, answer(RUN, 202))
    with Client(service.url, "t", timeout_s=0.2, retry_s=0.15) as client:
        assert client.submit("count", {}) == RUN
    assert len(set(keys(service))) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed(service: Service, client: Client, status: int) -> None:
    service.on("POST", "/v1/runs", problem(status, "later", "later", Retry_After="0.5"), answer(RUN, 202))
    started = time.monotonic()
    assert client.submit("count", {}) == RUN
    assert 0.5 <= time.monotonic() - started < 1.5


def test_waiting_longer_than_our_patience_is_not_tried(service: Service, client: Client) -> None:
    service.on("POST", "/v1/runs", problem(429, "quota_exceeded", "10000 runs are queued", Retry_After="60"))
    started = time.monotonic()
    with pytest.raises(ApiError, match="10000 runs are queued") as caught:
        client.submit("count", {})
    assert (caught.value.code, caught.value.status, caught.value.retry_after_s) == ("quota_exceeded", 429, 60)
    assert time.monotonic() - started < 1
    assert len(service.requests) == 1


def test_trying_again_ends(service: Service) -> None:
    service.on("GET", "/v1/me", problem(503, "unavailable", "Postgres is away"))
    with Client(service.url, "t", retry_s=0.5) as client:
        started = time.monotonic()
        with pytest.raises(ApiError, match="Postgres is away"):
            client.me()
        assert time.monotonic() - started < 1.5
    assert 2 <= len(service.requests) <= 5


def test_what_is_wrong_is_not_repeated(service: Service, client: Client) -> None:
    errors = [{"field": "input.text", "message": "is missing"}]
    body = {"code": "invalid", "detail": "wrong input", "errors": errors}
    service.on("POST", "/v1/runs", answer(body, 422))
    with pytest.raises(ApiError, match="wrong input") as caught:
        client.submit("count", {})
    assert caught.value.errors == errors
    assert len(service.requests) == 1


def test_a_proxy_s_page_is_still_an_error(service: Service) -> None:
    service.on("GET", "/v1/me", Response("<h1>Bad gateway</h1>", 502))
    with Client(service.url, "t", retry_s=0.1) as client, pytest.raises(ApiError, match="502") as caught:
        client.me()
    assert caught.value.code == "unknown"


def test_something_else_at_the_address_is_told(service: Service, client: Client) -> None:
    service.on("GET", "/v1/me", Response("hello"))
    with pytest.raises(UnreachableError, match="is the URL right"):
        client.me()


def test_nobody_there_is_told_with_the_address() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url, "t", retry_s=0.3) as client, pytest.raises(UnreachableError, match=url):
        client.me()


def test_creating_a_thread_is_not_repeated(service: Service, client: Client) -> None:
    service.on("POST", "/v1/threads", lost)
    with pytest.raises(UnreachableError):
        client.create_thread({"topic": "x"})
    assert len(service.requests) == 1


def test_lists_are_read_page_by_page(service: Service, client: Client) -> None:
    service.on(
        "GET",
        "/v1/runs",
        answer({"items": [{"id": "3"}, {"id": "2"}], "next_cursor": "c2"}),
        answer({"items": [{"id": "1"}], "next_cursor": None}),
    )
    assert [run["id"] for run in client.runs(status="failed")] == ["3", "2", "1"]
    first, second = (request.args for request in service.requests)
    assert (first["status"], "cursor" in first, "agent" in first) == ("failed", False, False)
    assert (second["status"], second["cursor"]) == ("failed", "c2")


def test_events_go_on_after_the_last_one_read(service: Service, client: Client) -> None:
    service.on(
        "GET",
        "/v1/runs/r1/events",
        answer({"items": [{"run_seq": 5}, {"run_seq": 6}], "next_cursor": "6"}),
        answer({"items": [{"run_seq": 7}], "next_cursor": None}),
    )
    assert [item["run_seq"] for item in client.events("r1", after=4)] == [5, 6, 7]
    assert [request.args["after"] for request in service.requests] == ["4", "6"]


def test_wait_asks_until_the_run_has_ended(service: Service, client: Client) -> None:
    service.on("GET", "/v1/runs/r1/wait", answer(RUN), answer({"id": "r1", "status": "completed"}))
    assert client.wait("r1", 60)["status"] == "completed"
    assert [float(request.args["timeout_s"]) for request in service.requests] == [20, 20]


def test_wait_answers_the_run_as_it_is_when_time_is_over(service: Service, client: Client) -> None:
    service.on("GET", "/v1/runs/r1/wait", answer(RUN))
    assert client.wait("r1", 0) == RUN


def test_documents_go_and_come_as_bytes(service: Service, client: Client) -> None:
    path = "/v1/documents/my table.csv"
    service.on("PUT", path, answer({"name": "my table.csv"}, 201))
    service.on("GET", path, Response(b"\x00\xff"))
    service.on("DELETE", path, Response(status=204))
    client.put_document("my table.csv", "ä,b")
    assert service.requests[0].data == "ä,b".encode()
    assert client.document("my table.csv") == b"\x00\xff"
    client.delete_document("my table.csv")


@pytest.mark.parametrize(
    ("call", "method", "path"),
    [
        (lambda c: c.agents(), "GET", "/v1/agents"),
        (lambda c: c.me(), "GET", "/v1/me"),
        (lambda c: c.run("a/b"), "GET", "/v1/runs/a/b"),
        (lambda c: c.cancel("r1"), "POST", "/v1/runs/r1/cancel"),
        (lambda c: c.retry("r1"), "POST", "/v1/runs/r1/retry"),
        (lambda c: list(c.threads()), "GET", "/v1/threads"),
        (lambda c: c.create_thread(), "POST", "/v1/threads"),
        (lambda c: c.thread("t1"), "GET", "/v1/threads/t1"),
        (lambda c: c.delete_thread("t1"), "DELETE", "/v1/threads/t1"),
        (lambda c: list(c.documents()), "GET", "/v1/documents"),
    ],
)
def test_each_method_makes_its_call(service: Service, client: Client, call: Any, method: str, path: str) -> None:
    service.on(method, path, answer({"items": [], "next_cursor": None}))
    call(client)
    assert [(request.method, request.path) for request in service.requests] == [(method, path)]


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x", "http://", "nonsense"])
def test_what_is_not_an_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not the address"):
        Client(url, "t")


@pytest.mark.parametrize("token", ["", "a\nb", "ä"])
def test_what_is_not_a_token_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Client("http://x", token)
    assert not token or token not in str(caught.value)


def test_the_token_is_not_in_the_repr() -> None:
    with Client("http://x", "a-secret") as client:
        assert "a-secret" not in repr(client) + repr(vars(client))


def test_this_machine_is_reached_without_the_proxy_of_the_environment(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    service.on("GET", "/v1/me", answer({}))
    with Client(service.url, "t", retry_s=0.1) as client:
        assert client.me() == {}


def test_the_client_and_the_package_load_nothing_of_the_servers() -> None:
    code = """
import sys, lanewise
assert not {"httpx", "pydantic", "websockets"} & sys.modules.keys(), "import lanewise is not cheap"
from lanewise import Client
heavy = {"celery", "flask", "redis", "sqlalchemy", "worker", "api", "duckdb", "gevent"}
print(sorted(heavy & sys.modules.keys()))
from lanewise import Agent, AgentRun, Tool, UserExecutionContext
assert Agent.__module__ == "worker.authoring"
assert set(lanewise.__all__) <= set(dir(lanewise))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    import lanewise  # noqa: PLC0415 - the module itself is the subject

    with pytest.raises(AttributeError, match="Clientt"):
        _ = lanewise.Clientt
