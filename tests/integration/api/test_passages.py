from __future__ import annotations

import pytest

from shared.models import Passage
from tests.integration.api.conftest import Home, UserClient

TEXT = "The office opens at nine."


@pytest.fixture
def passage(home: Home, alice: UserClient) -> Passage:
    """The second passage of alice's document, with the index's own record before it."""
    sha256 = alice.put("/v1/documents/house rules.md", content=TEXT.encode()).json()["sha256"]
    common = {"user_id": alice.user_id, "document": "house rules.md", "sha256": sha256, "page": None}
    stored = Passage(**common, number=2, heading="Rules > Hours", start_char=40, end_char=65, text=TEXT)
    record = Passage(**common, number=0, heading="1", start_char=0, end_char=0, text="a note")
    with home.services.database.user_session(alice.user_id) as session:
        session.add_all([stored, record])
    return stored


def test_a_passage_is_given_as_it_was_cited(alice: UserClient, passage: Passage) -> None:
    answer = alice.get("/v1/documents/house%20rules.md/passages/2")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "document": "house rules.md", "sha256": passage.sha256, "passage": 2, "heading": "Rules > Hours", "page": None,
        "start": 40, "end": 65, "text": TEXT,
    }  # fmt: skip


def test_anothers_passage_looks_like_none(alice: UserClient, bob: UserClient, passage: Passage) -> None:
    bob.put("/v1/documents/house rules.md", content=b"his own")
    answer = bob.get(f"/v1/documents/{passage.document}/passages/2")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.json()["detail"] == alice.get("/v1/documents/none/passages/2").json()["detail"]


@pytest.mark.parametrize("number", ["0", "1", "3", "-2", "02", "2.0", "x", "9" * 9, "9" * 30, "%00"])
def test_what_is_no_passage_is_not_found(alice: UserClient, passage: Passage, number: str) -> None:
    assert alice.get(f"/v1/documents/{passage.document}/passages/{number}").status_code == 404


def test_passages_go_with_their_document(alice: UserClient, passage: Passage) -> None:
    assert alice.delete(f"/v1/documents/{passage.document}").status_code == 204
    assert alice.get(f"/v1/documents/{passage.document}/passages/2").status_code == 404
