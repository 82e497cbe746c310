"""One request in plain words over real documents and a real table: figures as computed here, citations that resolve."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from typing import Any
from urllib.parse import unquote

import pytest

from lanewise.demo import documents
from tests.fleet.fleet import Fleet, Run

COUNTRIES = "How many certificates are there per country, and from which project was certifi extracted?"


@pytest.fixture
def certificates(fleet: Fleet, user: str) -> list[dict[str, Any]]:
    """The user has the certificates that HTTPS trusts, and what their publisher says of them."""
    return give_certificates(fleet, user)


def give_certificates(fleet: Fleet, user: str) -> list[dict[str, Any]]:
    for document in (documents.certificates(), documents.about_certificates()):
        fleet.client(user).put_document(document.name, document.content)
    return [json.loads(line) for line in documents.certificates().content.splitlines()]


def ask(fleet: Fleet, user: str, request: str, **fields: Any) -> Run:
    run = fleet.submit(user, "supervisor", {"request": request}, **fields)
    return fleet.wait(user, run["id"])


def table_of(markdown: str) -> dict[str, str]:
    """The first table: its first column to its last."""
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    first = next(number for number, line in enumerate(markdown.splitlines()) if line.startswith("| "))
    length = next(n for n, line in enumerate([*markdown.splitlines()[first:], ""]) if not line.startswith("| "))
    return {row[0]: row[-1] for row in rows[2:length]}


def artifact(fleet: Fleet, user: str, path: str) -> str:
    answer = fleet.http(user).get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_figures_equal_an_independent_computation_and_citations_resolve(
    fleet: Fleet, user: str, certificates: list[dict[str, Any]]
) -> None:
    run = ask(fleet, user, COUNTRIES)
    output = run["output"]
    counted = Counter(record["country"] or "(none)" for record in certificates)
    assert table_of(output["markdown"]) == {country: str(count) for country, count in counted.items()}
    assert [(part["step"], part["status"]) for part in output["parts"]] == [
        ("triage", "completed"), ("data", "completed"), ("research", "completed"), ("report", "completed"),
    ]  # fmt: skip

    assert "“It has been extracted from" in output["markdown"]
    assert output["citations"]
    for citation in output["citations"]:
        passage = fleet.http(user).get(citation["url"]).json()
        for field in ("document", "sha256", "heading", "page", "start", "end"):
            assert passage[field] == citation[field]
        assert passage["text"] == citation["quote"]
        text = fleet.client(user).document(citation["document"]).decode()
        assert text[citation["start"] : citation["end"]] == citation["quote"]
        assert f"[{citation['id']}]" in output["markdown"].partition("## Sources")[0]
    marks = set(re.findall(r"(?<!\\)\[(\d+)\]", output["markdown"]))
    assert marks == {str(citation["id"]) for citation in output["citations"]}


def test_what_the_report_links_is_there(fleet: Fleet, user: str, certificates: list[dict[str, Any]]) -> None:
    run = ask(fleet, user, COUNTRIES)
    markdown = run["output"]["markdown"]
    links = re.findall(r"\]\((/[^)]*)\)", markdown)
    assert len(links) > 4
    assert all(fleet.http(user).get(link).status_code == 200 for link in links)
    listed = fleet.http(user).get(f"/v1/runs/{run['id']}/artifacts").json()["items"]
    assert {item["name"] for item in listed} == set(run["output"]["artifacts"]) == {
        "chart.svg", "result.csv", "report.md",
    }  # fmt: skip
    base = f"/v1/runs/{run['id']}/artifacts"
    assert artifact(fleet, user, f"{base}/report.md") == markdown
    assert artifact(fleet, user, f"{base}/chart.svg").startswith("<svg")
    rows = list(csv.reader(io.StringIO(artifact(fleet, user, f"{base}/result.csv"))))
    counted = Counter(record["country"] or "" for record in certificates)
    assert {row[0]: int(row[1]) for row in rows[1:]} == dict(counted)
    assert {unquote(link) for link in links if "passages" not in link} >= {"/v1/documents/certificates.jsonl"}


def test_the_events_tell_a_person_what_happens(fleet: Fleet, user: str, certificates: list[dict[str, Any]]) -> None:
    del certificates
    run = ask(fleet, user, COUNTRIES)
    events = fleet.events(user, run["id"])
    thoughts = {event["agent"] for event in events if event["type"] == "agent_thinking"}
    assert thoughts == {"supervisor", "triage", "data", "research", "report"}
    whole = [event["data"]["run_fraction"] for event in events if "run_fraction" in event["data"]]
    assert whole == sorted(whole)
    assert whole[-1] == 1.0
    assert run["progress"]["fraction"] == 1.0


def test_a_question_that_nothing_answers_is_told_so(
    fleet: Fleet, user: str, certificates: list[dict[str, Any]]
) -> None:
    del certificates
    output = ask(fleet, user, "What is the boiling point of water?")["output"]
    assert "Nothing of yours answers this." in output["markdown"]
    assert "boiling, point, water" in output["markdown"]
    assert (output["citations"], output["artifacts"]) == ([], ["report.md"])
    assert output["routing"]["routes"] == []


def test_a_thread_remembers_and_only_its_own(fleet: Fleet, user: str, certificates: list[dict[str, Any]]) -> None:
    first = ask(fleet, user, "How many certificates are there per country?")
    second = ask(fleet, user, "and by key?", thread_id=first["thread_id"])
    keys = Counter(record["key"] for record in certificates)
    assert table_of(second["output"]["markdown"]) == {key: str(count) for key, count in keys.items()}
    third = ask(fleet, user, "the same for PL", thread_id=first["thread_id"])
    keys = Counter(record["key"] for record in certificates if record["country"] == "PL")
    assert table_of(third["output"]["markdown"]) == {key: str(count) for key, count in keys.items()}

    elsewhere = ask(fleet, user, "the same for PL")  # another thread of the same user
    assert "Nothing of yours answers this." in elsewhere["output"]["markdown"] or not any(
        "as asked before" in route["reason"] for route in elsewhere["output"]["routing"]["routes"]
    )
    stranger = f"{user}-other"
    give_certificates(fleet, stranger)
    answer = fleet.http(stranger).post(
        "/v1/runs", json={"agent": "supervisor", "input": {"request": "and by key?"}, "thread_id": first["thread_id"]}
    )
    assert answer.status_code == 404


def test_only_the_documents_that_are_named_are_used(
    fleet: Fleet, user: str, certificates: list[dict[str, Any]]
) -> None:
    del certificates
    fleet.client(user).put_document("other.md", "certifi was extracted from the project of somebody else.")
    run = fleet.submit(user, "supervisor", {"request": COUNTRIES, "documents": ["certificates.jsonl", "certifi.md"]})
    output = fleet.wait(user, run["id"])["output"]
    assert {citation["document"] for citation in output["citations"]} == {"certifi.md"}
    run = fleet.submit(user, "supervisor", {"request": COUNTRIES, "documents": ["nothing.csv"]})
    failed = fleet.wait(user, run["id"], status="failed")
    assert "no document is called 'nothing.csv'" in failed["error"]["message"]
