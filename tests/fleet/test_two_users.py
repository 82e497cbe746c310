"""Two users run the built-in agents on different documents of the same names at once: nothing of theirs ever mixes."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fleet.canaries import Canaries
from tests.fleet.fleet import Fleet, new_user

REQUESTS = (
    "How many sales are there per region, and who approves a refund?",
    "total amount by region",
    "Who approves a refund?",
)
DIRECT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("data", {"document": "sales.csv", "sql": "SELECT region, sum(amount) AS total FROM data GROUP BY region"}),
    ("research", {"question": "Who approves a refund?"}),
    ("triage", {"request": "total amount by region"}),
)


class Person:
    """A user with a table and a text of the same names as everybody's, full of canaries."""

    def __init__(self, fleet: Fleet, canaries: Canaries, number: int) -> None:
        self.fleet = fleet
        self.name = new_user(f"person{number}")
        self.regions = [canaries.make(self.name, f"region {place}") for place in range(3)]
        self.boss = canaries.make(self.name, "boss")
        self.amounts = [number * 1000 + place for place in range(9)]
        self.canaries = canaries
        self.paths: list[str] = []
        self.runs: list[dict[str, Any]] = []

    def give(self) -> None:
        rows = [f"{self.regions[place % 3]},{amount}" for place, amount in enumerate(self.amounts)]
        client = self.fleet.client(self.name)
        client.put_document("sales.csv", "\n".join(["region,amount", *rows, ""]))
        client.put_document("refunds.md", f"# Refunds\n\nA refund is approved by {self.boss} and by nobody else.\n")

    def work(self) -> None:
        submit = [*(("supervisor", {"request": request}) for request in REQUESTS), *DIRECT]
        self.runs = [self.fleet.submit(self.name, agent, given) for agent, given in submit]
        self.runs = [self.fleet.wait(self.name, run["id"]) for run in self.runs]

    def look(self) -> None:
        """Keeps everything that this user can read of the own runs."""
        http = self.fleet.http(self.name)
        for run in self.runs:
            paths = [f"/v1/runs/{run['id']}", f"/v1/runs/{run['id']}/events", f"/v1/runs/{run['id']}/artifacts"]
            files = http.get(paths[-1]).json()["items"]
            for path in (*paths, *(f"{paths[-1]}/{file['name']}" for file in files)):
                answer = http.get(path)
                assert answer.status_code == 200, (path, answer.text)
                self.canaries.see(self.name, "rest", path, answer.content)
                self.paths.append(path)

    def output(self, place: int) -> dict[str, Any]:
        return dict(self.runs[place]["output"])


@pytest.fixture(scope="module")
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture(scope="module")
def people(fleet: Fleet, canaries: Canaries) -> list[Person]:
    """Two, after all their runs went on at the same time."""
    found = [Person(fleet, canaries, number) for number in (1, 2)]
    with ThreadPoolExecutor(len(found)) as pool:
        for step in (Person.give, Person.work, Person.look):
            list(pool.map(step, found))
    return found


def test_nobody_sees_a_canary_of_the_other(people: list[Person], canaries: Canaries) -> None:
    assert canaries.leaks == []
    for person in people:  # or else we looked past them
        assert canaries.unseen(person.name, "rest", {"region 0", "region 1", "region 2", "boss"}) == set()


def test_everybody_gets_the_own_figures(people: list[Person]) -> None:
    for person in people:
        sums = {person.regions[place]: sum(person.amounts[place::3]) for place in range(3)}
        assert dict(person.output(3)["query"]["rows"]) == sums
        markdown = person.output(1)["markdown"]
        assert all(f"| {region} | {total} |" in markdown for region, total in sums.items())
        assert all(f"| {region} | 3 |" in person.output(0)["markdown"] for region in person.regions)
        assert person.boss in person.output(2)["markdown"]
        assert [citation["document"] for citation in person.output(0)["citations"]] == ["refunds.md"]


def test_what_one_made_the_other_cannot_read(fleet: Fleet, people: list[Person]) -> None:
    for person, other in zip(people, reversed(people), strict=True):
        http = fleet.http(person.name)
        for path in other.paths:
            answer = http.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
        own = http.get("/v1/documents/refunds.md/passages/1").json()
        assert person.boss in own["text"]
        assert other.boss not in own["text"]


def test_tool_systems_and_memories_are_each_run_s_own(fleet: Fleet, people: list[Person]) -> None:
    ids = [{event["correlation_id"] for event in fleet.events(p.name, run["id"])} for p in people for run in p.runs]
    assert all(len(found) == 1 for found in ids)  # events of tools and parts too
    assert len(set().union(*ids)) == len(ids)
    for person, other in zip(people, reversed(people), strict=True):
        answer = fleet.http(person.name).post(
            "/v1/runs", json={"agent": "triage", "input": {"request": "and by amount?"},
                              "thread_id": other.runs[0]["thread_id"]},
        )  # fmt: skip
        assert answer.status_code == 404
        asked = fleet.submit(
            person.name, "triage", {"request": "and by amount?"}, thread_id=person.runs[5]["thread_id"]
        )
        routed = fleet.wait(person.name, asked["id"])["output"]
        assert "as asked before" in json.dumps(routed["routes"])
