"""Who may call what: every route, for everybody who is not its owner."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from flask import Flask
from werkzeug.routing import Rule

from shared.context import RESERVED_ENDINGS
from tests.api_process import FakeWorker
from tests.integration.api.conftest import UserClient

# The only ones: a new route that is open must be entered here, with a reason that a reviewer accepts.
OPEN = {
    "/": "the console, which asks for a token by itself",
    "/console/<file_name>": "belongs to it; holds no user's value",
    "/lanewise.js": "the client, for pages of others, too",
    "/docs": "describes the API",
    "/docs/page.js": "belongs to it",
    "/docs/page.css": "belongs to it",
    "/openapi.json": "describes the API",
    "/healthz": "for a process supervisor",
    "/readyz": "for a load balancer",
    "/metrics": "for Prometheus; holds no user's value",
    "/v1/stream": "signs in by itself: see test_gateway",
}

ADMIN = "/v1/admin/"


def _rules(app: Flask) -> list[tuple[str, str]]:
    def methods(rule: Rule) -> set[str]:
        return (rule.methods or set()) - {"HEAD"}

    return [
        (method, rule.rule) for rule in app.url_map.iter_rules() for method in methods(rule) if rule.rule not in OPEN
    ]


def _path(rule: str, value: str) -> str:
    return re.sub(r"<[^>]+>", value, rule)


def test_every_route_but_the_open_ones_asks_for_a_token(app: Flask, anonymous: httpx.Client) -> None:
    rules = _rules(app)
    assert len(rules) >= 15
    for method, rule in rules:
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eDp5"}):
            answer = anonymous.request(method, _path(rule, "0" * 32), headers=headers)
            assert answer.status_code == 401, (method, rule)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.json()["code"] == "unauthorized"


def test_every_route_but_the_open_ones_asks_for_the_scope(app: Flask, sign_in: Any) -> None:
    mallory = sign_in("mallory", scopes=("other",))
    for method, rule in _rules(app):
        answer = mallory.request(method, _path(rule, "0" * 32))
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (method, rule)


def test_every_admin_route_asks_for_the_scope_of_an_administrator(app: Flask, alice: UserClient) -> None:
    rules = [(method, rule) for method, rule in _rules(app) if rule.startswith(ADMIN)]
    assert len(rules) >= 4
    for method, rule in rules:
        for user_id in (alice.user_id, "nobody-of-that-name"):
            answer = alice.request(method, _path(rule, user_id), json={"tools": [{"tool": "fetch"}]})
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (method, rule)


def test_what_is_anothers_looks_like_what_is_not_there(
    app: Flask, alice: UserClient, bob: UserClient, worker: FakeWorker
) -> None:
    thread = alice.post("/v1/threads").json()["id"]
    run = alice.post("/v1/runs", json={"agent": "echo", "input": {"text": "x"}, "thread_id": thread}).json()["id"]
    assert alice.put("/v1/documents/notes.txt", content=b"secret").status_code == 201
    owned = {"<run_id>": run, "<thread_id>": thread, "<name>": "notes.txt"}
    tried = 0
    for method, rule in _rules(app):
        names = re.findall(r"<[^>]+>", rule)
        if names and method != "PUT" and not rule.startswith(ADMIN):
            theirs = bob.request(method, _path(rule, owned[names[0]]))
            nobodys = bob.request(method, _path(rule, "0" * 32))
            assert theirs.status_code == 404, (method, rule)
            assert _without_correlation(theirs) == _without_correlation(nobodys)
            tried += 1
    assert tried >= 8
    assert bob.post("/v1/runs", json={"agent": "echo", "input": {"text": "x"}, "thread_id": thread}).status_code == 404
    assert alice.get(f"/v1/runs/{run}").json()["status"] == "queued"
    assert alice.get("/v1/documents/notes.txt").content == b"secret"
    assert worker


def test_lists_hold_only_the_callers_own(alice: UserClient, bob: UserClient, worker: FakeWorker) -> None:
    thread = alice.post("/v1/threads").json()["id"]
    alice.post("/v1/runs", json={"agent": "echo", "input": {"text": "x"}, "thread_id": thread})
    alice.put("/v1/documents/notes.txt", content=b"secret")
    for path in ("/v1/runs", f"/v1/runs?thread_id={thread}", "/v1/threads", "/v1/documents"):
        assert len(alice.get(path).json()["items"]) == 1
        assert bob.get(path).json() == {"items": [], "next_cursor": None}
    assert worker


def test_the_same_document_name_is_another_document(alice: UserClient, bob: UserClient) -> None:
    assert alice.put("/v1/documents/a", content=b"hers").status_code == 201
    assert bob.put("/v1/documents/a", content=b"his").status_code == 201
    assert alice.get("/v1/documents/a").content == b"hers"


@pytest.mark.parametrize("where", ["body", "query", "header"])
def test_a_user_id_in_a_request_is_never_believed(
    alice: UserClient, bob: UserClient, worker: FakeWorker, body: dict[str, Any], where: str
) -> None:
    answer = alice.post(
        "/v1/runs",
        json={**body, "user_id": "bob"} if where == "body" else body,
        params={"user_id": "bob"} if where == "query" else {},
        headers={"X-User-ID": "bob", "User-ID": "bob"} if where == "header" else {},
    )
    assert answer.status_code == (422 if where == "body" else 202), answer.text
    assert bob.get("/v1/runs").json()["items"] == []
    assert alice.get("/v1/runs?user_id=bob").status_code == 422
    assert worker


def _without_correlation(answer: httpx.Response) -> dict[str, Any]:
    return {**answer.json(), "correlation_id": None}


def test_no_user_can_be_called_like_a_call_about_a_user(app: Flask) -> None:
    about = f"{ADMIN}users/<user:user_id>"
    calls = {rule.removeprefix(about) for _, rule in _rules(app) if rule.startswith(about)} - {""}
    assert calls == set(RESERVED_ENDINGS)
