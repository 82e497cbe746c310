from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx
import pytest

from api.resources import documents
from tests.integration.api.conftest import UserClient, make_home
from tests.services import Servers


def test_a_document_is_stored_read_replaced_listed_and_deleted(alice: UserClient) -> None:
    content = bytes(range(256)) * 10
    made = alice.put("/v1/documents/a.bin", content=content, headers={"Content-Type": "text/csv; charset=utf-8"})
    assert made.status_code == 201, made.text
    view = made.json()
    assert (view["name"], view["size"], view["content_type"]) == ("a.bin", 2560, "text/csv; charset=utf-8")
    assert view["sha256"] == hashlib.sha256(content).hexdigest()
    got = alice.get("/v1/documents/a.bin")
    assert got.content == content
    assert got.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert got.headers["Content-Disposition"] == "attachment; filename*=UTF-8''a.bin"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in got.headers["Content-Security-Policy"]
    again = alice.put("/v1/documents/a.bin", content=b"")
    assert (again.status_code, again.json()["size"]) == (200, 0)
    assert again.json()["created_at"] == view["created_at"]
    assert alice.get("/v1/documents/a.bin").content == b""
    assert alice.get("/v1/documents").json()["items"] == [again.json()]
    gone = alice.delete("/v1/documents/a.bin")
    assert (gone.status_code, gone.content, gone.headers.get("Content-Type")) == (204, b"", None)
    assert alice.delete("/v1/documents/a.bin").status_code == 404
    assert alice.get("/v1/documents/a.bin").status_code == 404


def test_lists_page_by_name(remote: httpx.Client) -> None:
    names = ["B", "a", "b", "ä b;c\"d'e%f", "日本"]
    for name in names:
        path = f"/v1/documents/{quote(name, safe='')}"
        assert remote.put(path, content=name.encode()).status_code == 201
        assert remote.get(path).content == name.encode()
    found, cursor = [], None
    for _ in range(3):
        page = remote.get("/v1/documents", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        found += [item["name"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert sorted(found) == sorted(names)
    assert len(found) == 5


@pytest.mark.parametrize("name", ["%00", "%0A", "%2E%2E", "%20a", "a%5Cb", "x" * 201, "%7F", "%E2%80%AE"])
def test_odd_names(remote: httpx.Client, name: str) -> None:
    answer = remote.put(f"/v1/documents/{name}", content=b"x")
    assert answer.status_code in {404, 422}, answer.text
    assert remote.get(f"/v1/documents/{name}").status_code in {200, 404}
    assert remote.get("/v1/documents").json()["items"] == []


def test_a_user_has_so_many_documents_and_no_more(
    alice: UserClient, bob: UserClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENTS", 2)
    answers = [alice.put(f"/v1/documents/{name}", content=b"1") for name in "abca"]
    assert [answer.status_code for answer in answers] == [201, 201, 429, 200]
    assert (answers[2].json()["code"], "2 documents" in answers[2].json()["detail"]) == ("quota_exceeded", True)
    assert bob.put("/v1/documents/c", content=b"1").status_code == 201
    alice.delete("/v1/documents/b")
    assert alice.put("/v1/documents/c", content=b"1").status_code == 201


def test_documents_together_have_a_limit_also_if_they_come_at_once(servers: Servers) -> None:
    half = 600 * 1024 * b"x"
    with make_home(servers, user_documents_mb=1) as home, home.client("alice") as alice:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda name: alice.put(f"/v1/documents/{name}", content=half), "abcd"))
        assert sorted(answer.status_code for answer in answers) == [201, 429, 429, 429]
        assert "1 MiB" in next(answer for answer in answers if answer.status_code == 429).json()["detail"]
        (kept,) = alice.get("/v1/documents").json()["items"]
        assert alice.put(f"/v1/documents/{kept['name']}", content=half + half[: 400 * 1024]).status_code == 200


def test_the_limit_of_32_mib(alice: UserClient) -> None:
    content = b"x" * (32 * 1024 * 1024)
    assert alice.put("/v1/documents/big", content=content).status_code == 201
    assert len(alice.get("/v1/documents/big").content) == len(content)
    answer = alice.put("/v1/documents/big", content=content + b"x")
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "the limit of 33554432 bytes" in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["x" * 256, "a\x01b", "\t"])
def test_a_content_type_that_cannot_be_one(alice: UserClient, kind: str) -> None:
    assert alice.put("/v1/documents/a", content=b"x", headers={"Content-Type": kind}).status_code == 422
