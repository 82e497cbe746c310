"""The JavaScript client beyond the conformance suite: requests, and what only a browser has."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page
from werkzeug.wrappers import Request, Response

from tests.browser.conftest import OpenContext
from tests.conformance import LIVE
from tests.fleet.fleet import ROOT, Fleet, new_user
from tests.scripted import WAIT_S, Connection, LostError, Service, answer, event, problem, says, welcome

RUN = {"id": "r1", "status": "queued"}
BEGIN = """
    const { Api, EventStream } = await import("/lanewise.js");
    const api = new Api({ token: "a-token" });
    const seen = [], heard = new EventTarget();
    const note = (entry) => { seen.push(entry); heard.dispatchEvent(new Event("note")); };
    const until = (entry) => new Promise((resolve) => {
      const look = () => seen.includes(entry) && resolve();
      heard.addEventListener("note", look);
      look();
    });
    const onEvent = ({ seq }) => note(seq), onState = ({ state }) => note(state);
    const stream = new EventStream({ api, after: 0, onEvent, onState });
    const told = (promise) => promise.then((run) => run.id, ({ name, status, code }) => [name, status, code]);
"""


def run(page: Page, service: Service, script: str) -> Any:
    """Runs the body of an async function on a page of the service, for ten seconds at most."""
    page.goto(service.url)
    bound = "new Promise((_, reject) => setTimeout(() => reject(new Error('not within 10 s')), 10000))"
    return page.evaluate(f"() => Promise.race([{bound}, (async () => {{ {BEGIN} {script} }})()])")


def test_requests_over_a_stream_survive_its_connection(page: Page, service: Service) -> None:
    asked: list[dict[str, Any]] = []

    def lose(connection: Connection) -> None:
        connection.send(welcome(0), LIVE)
        asked.append(connection.receive())
        connection.cut()

    def serve(connection: Connection) -> None:
        busy = {"status": 409, "code": "conflict", "detail": "being handled", "retry_after_s": 0.01}
        connection.send(welcome(0), LIVE)
        asked.append(connection.receive())
        connection.send({"t": "error", "ref": asked[-1]["ref"], "problem": busy})
        asked.append(connection.receive())
        connection.send({"t": "ack", "ref": asked[-1]["ref"], "run": RUN})
        cancel = connection.receive()
        assert (cancel["t"], cancel["run_id"]) == ("run.cancel", "r9")
        wrong = {"status": 404, "code": "not_found", "detail": "no run r9"}
        connection.send({"t": "error", "ref": cancel["ref"], "problem": wrong})
        connection.stay()

    service.connections = [lose, serve]
    answers = run(
        page,
        service,
        """
        stream.start();
        const submitted = await told(stream.submit("echo", { text: "hello" }, { threadId: "t1" }));
        const cancelled = await told(stream.cancel("r9"));
        stream.close();
        return [submitted, cancelled, await told(stream.submit("echo", {}))];
        """,
    )
    assert answers == ["r1", ["ApiError", 404, "not_found"], ["ApiError", 0, "unreachable"]]
    assert [frame["t"] for frame in asked] == ["run.submit"] * 3
    assert {frame["idempotency_key"] for frame in asked} == {asked[0]["idempotency_key"]}
    assert (asked[2]["agent"], asked[2]["input"], asked[2]["thread_id"]) == ("echo", {"text": "hello"}, "t1")


def test_requests_without_an_answer_fail_when_the_stream_is_closed_for_good(page: Page, service: Service) -> None:
    def close(connection: Connection) -> None:
        connection.send(welcome(0), LIVE)
        connection.receive()
        connection.close(4403, "revoked")

    service.connections = [close]
    script = 'const ended = stream.start(), answer = await told(stream.submit("echo", {})); await ended; return answer;'
    assert run(page, service, script) == ["ApiError", 0, "unreachable"]


@pytest.mark.parametrize(
    "happens", ['dispatchEvent(new Event("online"))', 'document.dispatchEvent(new Event("visibilitychange"))']
)
def test_a_stream_that_waits_comes_back_at_once_when_there_is_reason_to(
    page: Page, service: Service, happens: str
) -> None:
    service.connections = [
        says(welcome(1), event(1), {"t": "bye", "retry_ms": 30_000}, then=1012),
        says(welcome(2), event(2)),
    ]
    script = (
        f'stream.start(); await until("waiting"); {happens}; await until(2); stream.close(); return seen.includes(1);'
    )
    assert run(page, service, script) is True
    assert [hello["after"] for hello in service.hellos] == [0, 1]


def test_a_stream_does_not_trust_a_connection_of_another_network(page: Page, service: Service) -> None:
    service.connections = [says(welcome(1), event(1), LIVE), says(welcome(2), event(2))]
    script = 'stream.start(); await until("live"); dispatchEvent(new Event("online")); await until(2); stream.close();'
    run(page, service, script)
    assert [hello["after"] for hello in service.hellos] == [0, 1]


def test_a_stream_without_a_websocket_says_what_to_pass(page: Page, service: Service) -> None:
    script = """
        delete globalThis.WebSocket;
        try { return new EventStream({ api }).constructor.name; } catch (error) { return [error.name, error.message]; }
    """
    name, message = run(page, service, script)
    assert name == "Error"
    assert "pass one as the option `WebSocket`" in message


def test_pauses_grow_to_five_seconds_and_have_jitter(page: Page, service: Service) -> None:
    # A page that is looked at again ends a pause, without counting the failures anew.
    script = """
        const pauses = [];
        const hurry = ({ state, retryInS }) => {
          if (state !== "waiting") return;
          if (pauses.push(retryInS) === 40) away.close();
          else document.dispatchEvent(new Event("visibilitychange"));
        };
        const away = new EventStream({ api, onState: hurry });
        await away.start();
        return pauses;
    """
    service.connections = [problem(503, "unavailable", "away")] * 40
    pauses = run(page, service, script)
    longest = [min(5.0, 0.1 * 2**failures) for failures in range(40)]
    shares = [pause / most for pause, most in zip(pauses, longest, strict=True)]
    assert all(0.5 <= share <= 1 for share in shares), pauses
    assert max(shares) - min(shares) > 0.25, pauses


def test_a_submission_is_repeated_with_its_key_until_it_is_answered(page: Page, service: Service) -> None:
    def lose(_: Request) -> Response:
        raise LostError

    passing = problem(409, "conflict", "being handled", Retry_After="0.01")
    service.on("POST", "/v1/runs", lose, problem(503, "unavailable", "away"), passing, answer(RUN, 202))
    assert run(page, service, 'return told(api.submit("echo", {}, { metadata: { a: 1 } }));') == "r1"
    submissions = [request for request in service.requests if request.path == "/v1/runs"]
    assert len(submissions) == 4
    assert len({request.headers["Idempotency-Key"] for request in submissions}) == 1
    assert re.fullmatch('"[0-9a-f]{32}"', submissions[0].headers["Idempotency-Key"])
    assert {request.get_data() for request in submissions} == {b'{"agent":"echo","input":{},"metadata":{"a":1}}'}


def test_a_signal_ends_a_request_before_its_time_and_never_takes_the_limit_away(page: Page, service: Service) -> None:
    over = threading.Event()

    def begin() -> Iterator[bytes]:
        yield b"{"
        over.wait(WAIT_S)

    def stall(_: Request) -> Response:
        over.wait(WAIT_S)
        return answer({})

    service.on("GET", "/v1/me", stall)
    service.on("GET", "/v1/runs", Response(begin(), content_type="application/json"))
    script = """
        const controller = new AbortController(), { signal } = controller;
        const ask = (path, timeoutS) => told(api.request("GET", path, { signal, timeoutS }));
        const late = [await ask("/v1/me", 0.2), await ask("/v1/runs", 0.2)];
        const pending = ask("/v1/me", 60);
        controller.abort();
        return [...late, (await pending)[0], (await ask("/v1/me", 60))[0]];
    """
    try:
        answers = run(page, service, script)
    finally:
        over.set()
    assert answers == [["ApiError", 0, "unreachable"]] * 2 + ["AbortError"] * 2


def test_an_error_says_what_the_problem_says(page: Page, service: Service) -> None:
    service.on("POST", "/v1/runs", problem(429, "quota", "too many", Retry_After="7"))
    service.on("GET", "/v1/me", Response("<html>", 502))
    script = """
        const fields = (error) => [error.status, error.code, error.detail, error.errors, error.retryAfterS];
        return [await api.submit("echo", {}).catch(fields), await api.request("GET", "/v1/me").catch(fields)];
    """
    assert run(page, service, script) == [
        [429, "quota", "too many", [], 7],
        [502, "unknown", "the service answered 502", [], None],
    ]


def test_what_the_page_of_the_docs_shows_works(fleet: Fleet, user: str, open_context: OpenContext) -> None:
    (block,) = re.findall(r"<!-- run -->\s*```js\n(.*?)```", (ROOT / "docs" / "javascript.md").read_text(), re.DOTALL)
    context, _ = open_context(fleet.url)
    page = context.new_page()
    page.goto(fleet.url)
    for name in (user, new_user()):  # the second one's numbers begin anew
        with page.expect_console_message(lambda message: "run_completed" in message.text):
            run_id = page.evaluate(f"async (token) => {{ {block}; return run.id; }}", fleet.token(name))
        assert fleet.wait(name, run_id)["agent"] == "data"
        head = fleet.events(name, run_id)[-1]["seq"]
        stored = "([name, head]) => Number(localStorage.getItem(`position of ${name} in the log`)) === head"
        page.wait_for_function(stored, arg=[name, head])
