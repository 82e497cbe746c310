"""What nobody sends by accident: no 5xx, no hang, always a problem document."""

from __future__ import annotations

import json
import socket

import httpx
import pytest

from tests.integration.api.conftest import Fleet

JSON = {"Content-Type": "application/json"}
DEEP = b"[" * 100_000 + b"]" * 100_000


def _is_problem(answer: httpx.Response) -> bool:
    body = answer.json()
    kept = {"type", "title", "status", "code", "detail"} <= body.keys()
    return (
        kept and answer.headers["Content-Type"] == "application/problem+json" and body["status"] == answer.status_code
    )


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", JSON, 400),
        (b"{", JSON, 400),
        (b'{"agent": NaN}', JSON, 400),
        (b'{"agent": -Infinity}', JSON, 400),
        (b'{"agent": ' + b"9" * 5000 + b"}", JSON, 400),
        (b'{"agent": "\xff"}', JSON, 400),
        ('{"agent": "x"}'.encode("utf-16"), JSON, 400),
        (b'\xef\xbb\xbf{"agent": "x"}', JSON, 400),
        (DEEP, JSON, 400),
        (b'{"agent": "echo", "input": ' + DEEP[99_900:100_100] + b"}", JSON, 422),
        (b'{"agent": "echo", "input": 1e999}', JSON, 422),
        (b'{"agent": "echo", "input": {"text": "\\ud800"}}', JSON, 422),
        (b'{"agent": "echo", "input": {"\\ud800": 1}}', JSON, 422),
        (b'{"agent": "echo", "input": {"text": "\\u0000"}}', JSON, 422),
        (b'{"agent": "\\ud800", "input": {}}', JSON, 422),
        (b'{"\\ud800": 1}', JSON, 422),
        (b'{"agent": "echo", "input": {"text": "x"}, "thread_id": "\\ud800"}', JSON, 404),
        (b'{"agent": "echo", "input": {"text": "x"}, "thread_id": "\\u0000"}', JSON, 404),
        (b"[]", JSON, 422),
        (b"null", JSON, 422),
        (b'"{}"', JSON, 422),
        (b"x" * (2 * 1024 * 1024 + 1), JSON, 413),
        (b"{}", {}, 415),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"{}", {"Content-Type": "application/json; charset=x\x01y"}, 400),
    ],
)
def test_bodies(fleet: Fleet, user: str, content: bytes, headers: dict[str, str], status: int) -> None:
    with fleet.server.client(user) as client:
        answer = client.post("/v1/runs", content=content, headers=headers)
        assert (answer.status_code, _is_problem(answer)) == (status, True), answer.text
        assert client.get("/v1/runs").json()["items"] == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404), ("GET", "/v1", 404), ("GET", "/v1/runs/", 404), ("GET", "/v1//runs", 404),
        ("GET", "/v1/runs/%00", 404), ("GET", "/v1/runs/%FF%FE", 404), ("GET", "/v1/runs/" + "x" * 5000, 414),
        ("GET", "/v1/runs/%2e%2e", 404), ("GET", "/v1/runs/a%2Fb", 404), ("GET", "/v1/threads/%F0%9F%98%80", 404),
        ("GET", "/v1/documents/%00", 404), ("GET", "/v1/runs/x/wait?timeout_s=1e-400", 404),
        ("GET", "/v1/runs?%00=1", 422), ("GET", "/v1/runs?agent=%ED%A0%80", 200),
        ("GET", "/v1/runs?thread_id=%00", 422), ("GET", "/v1/runs?agent=x%0Ay", 200),
        ("GET", "/v1/runs?agent=x%0A;SELECT+1;--", 200), ("GET", "/v1/runs?thread_id=%0D%0A%27+OR+1=1+--", 200),
        ("GET", "/v1/runs?limit=%D9%A3", 422), ("GET", "/v1/runs?&&=&", 422),
        ("DELETE", "/v1/runs", 405), ("PATCH", "/v1/me", 405), ("OPTIONS", "/v1/runs", 405), ("TRACE", "/v1/runs", 405),
        ("POST", "/healthz", 405), ("BREW", "/v1/runs", 405),
    ],
)  # fmt: skip
def test_paths_and_methods(fleet: Fleet, user: str, method: str, path: str, status: int) -> None:
    with fleet.server.client(user) as client:
        answer = client.request(method, httpx.URL(fleet.server.url + path))
    assert answer.status_code == status, answer.text
    assert answer.is_success or _is_problem(answer)
    if status == 405:
        assert "GET" in answer.headers["Allow"]


def test_every_answer_has_the_security_headers(fleet: Fleet, user: str) -> None:
    with fleet.server.client(user) as client:
        answers = [client.get(path) for path in ("/", "/docs", "/console/main.js", "/v1/me", "/nope", "/openapi.json")]
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert len(answer.headers["X-Correlation-ID"]) == 32
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
    assert len({answer.headers["X-Correlation-ID"] for answer in answers}) == len(answers)
    assert answers[3].headers["Cache-Control"] == "no-store"


def test_pages_ask_nobody_else(fleet: Fleet) -> None:
    for path in ("/docs", "/docs/page.js", "/docs/page.css"):
        text = httpx.get(fleet.server.url + path).text
        assert "//cdn" not in text
        assert "https://" not in text


def test_a_correlation_id_is_ours(fleet: Fleet, user: str) -> None:
    with fleet.server.client(user) as client:
        answer = client.get("/v1/runs/x", headers={"X-Correlation-ID": "mine", "X-Request-ID": "mine"})
    assert answer.headers["X-Correlation-ID"] == answer.json()["correlation_id"] != "mine"


@pytest.mark.parametrize(
    "headers",
    [
        "Idempotency-Key: \xfc", "Idempotency-Key:", "Content-Length: -1", "Content-Length: 1e3", "Host: \xff",
        "Transfer-Encoding: chunked\r\nContent-Length: 5", "Authorization: \xff\xfe", "Accept: " + "x" * 7000,
        "Expect: 100-continue", "Upgrade: websocket\r\nConnection: upgrade", "Cookie: \xff=\xff; =;;",
        "Content-Type: multipart/form-data; boundary=x", "Transfer-Encoding: gzip", "Bad Name: x",
    ],
)  # fmt: skip
def test_headers(fleet: Fleet, user: str, headers: str) -> None:
    body = json.dumps({"agent": "echo", "input": {"text": "x"}})
    host, port = fleet.server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(
            f"POST /v1/runs HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {fleet.server.token(user)}\r\nContent-Length: {len(body)}\r\n"
            f"{headers}\r\n\r\n{body}".encode("latin-1")
        )
        answer = raw.makefile("rb").readline()
        if b" 100 " in answer:
            raw.makefile("rb").readline()
            return
    assert answer.split(b" ")[1][:1] in {b"2", b"4"}, answer
