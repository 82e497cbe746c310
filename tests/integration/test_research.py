"""Research over real documents, as the run's own role: exact quotes, one's own documents only, never a stale index."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy as sa

from shared.services import Services
from shared.settings import Settings
from tests.evaluation.measure import put, research_tools
from tests.parts import RecordingBridge
from tests.pdfs import a_pdf
from tests.services import in_parallel
from worker.authoring import ToolError
from worker.tools import deep_research
from worker.tools.passages import index
from worker.toolsystem import UserToolSystem

HANDBOOK = """\
# Handbook

## Travel

Travel above 2,000 euros is approved by the treasurer. Cheaper travel needs no approval.

## Offices

The office in Oslo opens at nine and closes at five. Its caretaker is Ingrid Solberg.

## People

Ingrid Solberg keeps the keys of every building. She is in on weekdays.

"""
LEAVE = "Holidays\n========\n\nEverybody has thirty days of holidays a year. Unused days expire in March.\n"


@pytest.fixture
def bridge() -> RecordingBridge:
    return RecordingBridge()


@pytest.fixture
def tools(services: Services, settings: Settings, bridge: RecordingBridge) -> Iterator[UserToolSystem]:
    """The research tool in a running run of alice's."""
    with research_tools(services, settings, "alice", bridge) as made:
        yield made


def ask(tools: UserToolSystem, question: str, **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = tools.call("deep_research", question=question, **options)
    return answer


def passages(superuser: sa.Connection, user_id: str = "alice") -> list[Any]:
    """Returns what the index holds of a user: rows of document, number, sha256."""
    statement = sa.text(
        "SELECT document, number, sha256, text FROM lanewise.document_passages WHERE user_id = :user_id "
        "ORDER BY document, number"
    )
    return list(superuser.execute(statement, {"user_id": user_id}))


def test_an_answer_is_quoted_with_citations_that_are_exact(services: Services, tools: UserToolSystem) -> None:
    sha256 = put(services, "alice", "handbook.md", HANDBOOK, "text/markdown")
    put(services, "alice", "leave.txt", LEAVE)
    answer = ask(tools, "Who approves travel above 2,000 euros?")
    assert answer["found"]
    assert answer["answer"].startswith("“Travel above 2,000 euros is approved by the treasurer.” [1]")
    best = answer["citations"][0]
    assert (best["document"], best["sha256"], best["heading"]) == ("handbook.md", sha256, "Handbook > Travel")
    for number, (passage, cited) in enumerate(zip(answer["passages"], answer["citations"], strict=True), 1):
        source = {"handbook.md": HANDBOOK, "leave.txt": LEAVE}[cited["document"]]
        assert source[cited["start"] : cited["end"]] == cited["quote"] == passage["text"]
        assert passage["citation"] == cited["id"] == number
    scores = [passage["score"] for passage in answer["passages"]]
    assert scores == sorted(scores, reverse=True)


def test_words_that_stand_together_count_more(services: Services, tools: UserToolSystem) -> None:
    put(
        services,
        "alice",
        "a.md",
        "# A\n\nThe red house has by its gate a blue door.\n\n# B\n\nOne red door, one gate here.\n",
    )
    put(services, "alice", "b.md", "# C\n\nThe door of this house is blue, and its gate red.\n")
    assert ask(tools, "Where is the red door?")["citations"][0]["heading"] == "B"


README = """\
# Lanes

## Ask

Ask in plain words.

<!-- run -->
```console
$ lanes ask '{"request": "What happens to runs beyond the slots of a user?"}'
```

## Fairness

Each user has a number of slots; what is beyond waits in Postgres.
"""


def test_code_that_holds_the_question_does_not_answer_it(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "readme.md", README)
    answer = ask(tools, "What happens to runs beyond the slots of a user?")
    assert answer["answer"] == "“Each user has a number of slots; what is beyond waits in Postgres.” [1]"
    assert answer["citations"][0]["heading"] == "Lanes > Fairness"


def test_only_sentences_that_answer_are_quoted(services: Services, tools: UserToolSystem) -> None:
    birds = (
        "# Mallards\n\nMallards are ducks. In autumn mallards migrate to the south.\n\n## Food\n\nMallards eat grass.\n"
    )
    put(services, "alice", "birds.md", birds)
    put(services, "alice", "deploy.md", "# Deploy\n\nFirst migrate the database. Then start it.\n")
    answer = ask(tools, "When do mallards migrate?")
    assert answer["answer"] == "“In autumn mallards migrate to the south.” [1]"
    assert len(answer["passages"]) > 1


def test_what_several_sentences_say_together_is_quoted_once(services: Services, tools: UserToolSystem) -> None:
    # Each sentence has a third of what was asked for: none answers by itself, the passage does.
    put(services, "alice", "a.txt", "Rooks are here. Elms are there. Storms came last.\n")
    answer = ask(tools, "rooks elms storms")
    assert answer["answer"] == "“Rooks are here.” [1]"


def test_headings_count_and_underlined_ones_too(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "leave.txt", LEAVE)
    put(services, "alice", "handbook.md", HANDBOOK)
    assert ask(tools, "When do holidays expire?")["citations"][0]["heading"] == "Holidays"


def test_terms_that_come_up_are_followed(services: Services, tools: UserToolSystem, bridge: RecordingBridge) -> None:
    put(services, "alice", "handbook.md", HANDBOOK * 3 + LEAVE)
    answer = ask(tools, "When does the Oslo office open?")
    assert {"Ingrid", "Solberg"} <= set(answer["follow_ups"])
    assert any(data["text"].startswith("following up: ") for data in bridge.data("agent_thinking"))


@pytest.mark.parametrize(
    "question",
    [
        "Who approves the purchase of helicopters?",
        "When does the office in Bergen open?",
        "What did Frobnicator announce?",
        'Is "closes at nine" the rule in the Oslo office?',
        'Where are "closes at five" and "closes at nine" in the rules of the Oslo office?',
        "What is it?",
        "?!?",
        "\0\0\0 \\ ' & | ! <-> ( :*",
    ],
)
def test_what_the_documents_do_not_say_is_not_found(services: Services, tools: UserToolSystem, question: str) -> None:
    put(services, "alice", "handbook.md", HANDBOOK)
    answer = ask(tools, question)
    assert (answer["found"], answer["passages"], answer["citations"]) == (False, [], [])
    assert answer["answer"].startswith("Not found: the documents do not say it.")


def test_words_that_are_nowhere_are_named(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "handbook.md", HANDBOOK)
    assert "Nowhere in them: Frobnicator, announce." in ask(tools, "What did Frobnicator announce?")["answer"]


def test_a_name_that_is_nowhere_counts_twice(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "handbook.md", HANDBOOK)
    assert ask(tools, "Has the treasurer approved travel above many euros to zanzibar?")["found"]
    assert not ask(tools, "Has the treasurer approved travel above many euros to Zanzibar?")["found"]


def test_the_nearest_passage_is_told_with_what_it_lacks(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "handbook.md", HANDBOOK)
    answer = ask(tools, "Does travel above 2,000 euros need a helicopter or a submarine?")
    assert not answer["found"]
    assert "The nearest passage, 2 of handbook.md > Handbook > Travel, is not about: " in answer["answer"]
    assert answer["answer"].endswith("helicopter, submarine.")


def test_a_phrase_in_quotes_has_to_be_there(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "handbook.md", HANDBOOK)
    answer = ask(tools, 'Who says "closes at  five"?')
    assert answer["citations"]
    assert all("closes at five" in cited["quote"] for cited in answer["citations"])


def test_each_part_of_a_question_is_answered_or_named(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "handbook.md", HANDBOOK)
    question = "Who approves travel above 2,000 euros, and when does the Oslo office open? Who owns the helicopter?"
    answer = ask(tools, question)
    quotes = "".join(cited["quote"] for cited in answer["citations"][:2])
    assert "treasurer" in quotes
    assert "opens at nine" in quotes
    assert answer["answer"].endswith("Not found: Who owns the helicopter?")


def test_each_user_has_their_own_documents(services: Services, settings: Settings, superuser: sa.Connection) -> None:
    secrets = {"alice": "The password of the vault is heron.", "bob": "The password of the vault is magpie."}
    with ExitStack() as stack:
        tools = {user: stack.enter_context(research_tools(services, settings, user)) for user in secrets}
        for user, text in secrets.items():
            put(services, user, "vault.txt", text)
        answers: dict[str, str] = {}

        def research(number: int) -> None:
            user = list(secrets)[number % 2]
            answers[user] = str(ask(tools[user], "What is the password of the vault?"))

        in_parallel(2, research)
    assert secrets["alice"] in answers["alice"]
    assert "magpie" not in answers["alice"]
    assert secrets["bob"] in answers["bob"]
    assert "heron" not in answers["bob"]
    assert [row.text for row in passages(superuser, "bob")] == ["", secrets["bob"]]


def test_another_users_document_does_not_exist(services: Services, tools: UserToolSystem) -> None:
    put(services, "bob", "vault.txt", "The password of the vault is magpie.")
    with pytest.raises(ToolError, match=r"there are no documents to search yet \(PUT /v1/documents"):
        ask(tools, "What is the password of the vault?")
    put(services, "alice", "notes.txt", "The password of the garden is wren.")
    with pytest.raises(
        ToolError, match=r"no document is called 'vault.txt'; did you mean 'notes.txt'\?; there are: notes.txt$"
    ):
        ask(tools, "What is the password of the vault?", documents=["vault.txt"])


def test_an_unknown_document_is_told_with_the_nearest_name(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "handbook.md", HANDBOOK)
    put(services, "alice", "leave.txt", LEAVE)
    with pytest.raises(
        ToolError,
        match=r"no document is called 'handbok.md'; did you mean 'handbook.md'\?; there are: handbook.md, leave",
    ):
        ask(tools, "Who approves travel?", documents=["leave.txt", "handbok.md"])


def test_only_the_named_documents_are_searched(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "handbook.md", HANDBOOK)
    put(services, "alice", "leave.txt", LEAVE)
    assert ask(tools, "How many holidays has everybody?", documents=["leave.txt"])["found"]
    answer = ask(tools, "How many holidays has everybody?", documents=["handbook.md"])
    assert (answer["found"], answer["searched"]) == (False, 1)


def test_a_document_is_indexed_once_and_again_when_it_was_replaced(
    services: Services, tools: UserToolSystem, superuser: sa.Connection, bridge: RecordingBridge
) -> None:
    def readings() -> int:
        return sum(data["note"] == "reading a.txt" for data in bridge.data("agent_progress"))

    first = put(services, "alice", "a.txt", "The heron lives at the lake.\n\n" * 100)
    assert ask(tools, "Where does the heron live?")["found"]
    assert ask(tools, "Where does the heron live?")["citations"][0]["sha256"] == first
    assert readings() == 1
    second = put(services, "alice", "a.txt", "The magpie lives in the wood.")
    assert not ask(tools, "Where does the heron live?")["found"]
    assert readings() == 2
    assert [(row.number, row.sha256) for row in passages(superuser)] == [(0, second), (1, second)]
    assert ask(tools, "Where does the magpie live?")["found"]


def test_another_version_of_reading_makes_the_index_anew(
    services: Services, tools: UserToolSystem, monkeypatch: pytest.MonkeyPatch, bridge: RecordingBridge
) -> None:
    put(services, "alice", "a.txt", LEAVE)
    ask(tools, "When do holidays expire?")
    monkeypatch.setattr(index, "VERSION", "next")
    assert ask(tools, "When do holidays expire?")["found"]
    assert sum(data["note"] == "reading a.txt" for data in bridge.data("agent_progress")) == 2


def test_passages_go_with_their_document(services: Services, tools: UserToolSystem, superuser: sa.Connection) -> None:
    put(services, "alice", "a.txt", LEAVE)
    ask(tools, "When do holidays expire?")
    assert len(passages(superuser)) == 2
    superuser.execute(sa.text("DELETE FROM lanewise.documents WHERE user_id = 'alice'"))
    assert passages(superuser) == []


def test_runs_at_once_on_a_fresh_document_find_the_same(
    services: Services, settings: Settings, superuser: sa.Connection
) -> None:
    text = "".join(f"Bird number {number} lives in tree {number}.\n\n" for number in range(8_000))
    put(services, "alice", "birds.txt", text)
    answers: list[Any] = []
    with ExitStack() as stack:
        runs = [stack.enter_context(research_tools(services, settings)) for _ in range(3)]
        in_parallel(3, lambda number: answers.append(ask(runs[number], "In which tree lives bird number 4711?")))
    assert len({str(answer["citations"]) for answer in answers}) == 1
    assert "tree 4711." in answers[0]["citations"][0]["quote"]
    assert [row.number for row in passages(superuser)] == list(range(len(passages(superuser))))


def test_a_document_that_is_replaced_while_it_is_indexed_is_not_mixed(
    services: Services, settings: Settings, superuser: sa.Connection
) -> None:
    def content(number: int) -> str:
        return f"The heron of version {number} sleeps.\n\n" * (40 * (number % 3 + 1))

    put(services, "alice", "a.txt", content(0))
    done = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            for version in range(1, 30):
                put(services, "alice", "a.txt", content(version))
            done.set()
            return
        with research_tools(services, settings) as tools:
            while not done.is_set():
                ask(tools, "Which version of the heron sleeps?")

    in_parallel(3, work)
    with research_tools(services, settings) as tools:
        ask(tools, "Which version of the heron sleeps?")
    rows = passages(superuser)
    assert len({row.sha256 for row in rows}) == 1
    assert {word for row in rows for word in row.text.split() if word.isdigit()} == {"29"}
    assert [row.number for row in rows] == list(range(len(rows)))


def test_what_cannot_be_read_is_noted_and_no_reason_to_fail(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "a.bin", bytes(range(256)) * 10)
    put(services, "alice", "b.pdf", b"%PDF-1.4 broken")
    put(services, "alice", "c.csv", "a,b\n1,2\n")
    put(services, "alice", "d.txt", "")
    put(services, "alice", "leave.txt", LEAVE.encode("utf-16"))
    for _ in range(2):  # when they are indexed, and from the index
        answer = ask(tools, "When do holidays expire?")
        assert answer["found"]
        assert [note.split(": ")[0] for note in answer["notes"]] == ["a.bin", "b.pdf", "c.csv", "d.txt"]
        assert answer["notes"][0] == "a.bin: is binary, not text"
        assert not ask(tools, "Which table is for the data agent?")["found"]
        assert answer["notes"][2:] == ["c.csv: is a table: ask the data agent about it", "d.txt: is empty"]


def test_pdf_and_html_are_cited_by_page_and_heading(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "a.pdf", a_pdf("Of lakes.", "The heron sleeps on one leg."), "application/pdf")
    put(services, "alice", "b.html", "<title>Birds</title><h1>Magpies</h1><p>The magpie steals <b>silver</b> spoons.")
    cited = ask(tools, "On how many legs does the heron sleep?")["citations"][0]
    assert (cited["document"], cited["page"], cited["quote"]) == ("a.pdf", 2, "The heron sleeps on one leg.")
    cited = ask(tools, "What does the magpie steal?")["citations"][0]
    assert (cited["heading"], cited["page"]) == ("Birds > Magpies", None)
    assert cited["quote"].endswith("The magpie steals silver spoons.")


def test_a_text_that_several_documents_hold_is_shown_once(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "leave.txt", LEAVE)
    put(services, "alice", "copy.txt", LEAVE.replace("\n", "\r\n"))
    assert [cited["document"] for cited in ask(tools, "When do holidays expire?")["citations"]] == ["copy.txt"]


def test_a_name_that_no_document_can_have_is_refused(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "leave.txt", LEAVE)
    with pytest.raises(ToolError, match=r"documents\.0: "):
        ask(tools, "When do holidays expire?", documents=["\0"])


def test_limits_are_kept_and_told(
    services: Services, tools: UserToolSystem, superuser: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep_research, "MAX_DOCUMENTS", 2)
    monkeypatch.setattr(index, "MAX_PASSAGES", 3)
    put(services, "alice", "a.txt", "".join(f"Heron number {number} sleeps. " for number in range(1000)))
    for name in ("b.txt", "c.txt"):
        put(services, "alice", name, LEAVE)
    answer = ask(tools, "Who sleeps?", max_passages=2)
    assert (len(answer["passages"]), answer["searched"]) == (2, 2)
    assert answer["notes"][0].startswith("a.txt: only its first 3 passages (")
    assert answer["notes"][1].startswith("only the first 2 documents by name were searched")
    assert [row.document for row in passages(superuser)] == ["a.txt"] * 4 + ["b.txt"] * 2
