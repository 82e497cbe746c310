"""`/`, `/console/*` and `/lanewise.js`: the console's files, as the service gives them."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

import api

FOLDER = Path(api.__file__).parent / "console"
ASKED = {"/": "index.html", "/lanewise.js": "lanewise.js"} | {
    f"/console/{path.name}": path.name for path in FOLDER.iterdir() if path.suffix != ".html"
}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' blob:",
    "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'", "trusted-types": "'none'",
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(ASKED))
def test_each_file_is_there_under_the_policy(anonymous: httpx.Client, path: str) -> None:
    answer = anonymous.get(path)
    assert answer.status_code == 200
    assert answer.content == (FOLDER / ASKED[path]).read_bytes()
    assert answer.headers["Content-Type"].split(";")[0] == TYPES[Path(ASKED[path]).suffix]
    directives = answer.headers["Content-Security-Policy"].split("; ")
    assert dict(directive.split(" ", 1) for directive in directives) == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "Set-Cookie" not in answer.headers


def test_a_browser_asks_again_and_is_told_what_has_not_changed(anonymous: httpx.Client) -> None:
    tags = {path: anonymous.get(path).headers["ETag"] for path in ASKED}
    assert len(set(tags.values())) == len(ASKED) - 1  # the client has two addresses
    for path, tag in tags.items():
        same = anonymous.get(path, headers={"If-None-Match": tag})
        assert (same.status_code, same.content) == (304, b"")
        assert (same.headers["ETag"], same.headers["Cache-Control"]) == (tag, "no-cache")
        assert "trusted-types 'none'" in same.headers["Content-Security-Policy"]
        assert anonymous.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "name", ["index.html", "nope.js", "main.JS", "%2e%2e%2fapp.py", "..%5capp.py", "%00", "x" * 300]
)
def test_nothing_else_is_given(anonymous: httpx.Client, name: str) -> None:
    answer = anonymous.get(f"/console/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_console_takes_no_body(anonymous: httpx.Client) -> None:
    assert anonymous.post("/").status_code == 405
    assert anonymous.put("/console/main.js", content=b"x").status_code == 405
    assert anonymous.head("/").headers["ETag"] == anonymous.get("/").headers["ETag"]
