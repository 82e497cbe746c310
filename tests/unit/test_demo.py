from __future__ import annotations

import csv
import json
from contextlib import ExitStack, closing
from typing import Any

import pytest

from lanewise import ApiError, Client
from lanewise.demo import documents, lanes
from lanewise.demo.fleet import DemoError
from lanewise.demo.lanes import Job, Lanes, Trip
from tests.scripted import Service, answer, event, problem, says, welcome
from tests.unit.test_cli import DONE, RUN

LIVE = {"t": "live", "seq": 0}


def ended(service: Service, *streams: list[Any]) -> tuple[Lanes, list[Trip]]:
    """Two users, ada and grace, who submitted a run each (`a1`, `g1`) and whose streams brought these events."""
    service.connections = [says(welcome(0, snapshot={"runs": []}), LIVE, *events) for events in streams]
    service.on("POST", "/v1/runs", answer({**RUN, "id": "a1"}, 202), answer({**RUN, "id": "g1"}, 202))
    with ExitStack() as stack:
        clients = {user: stack.enter_context(Client(service.url, user, retry_s=0.2)) for user in ("ada", "grace")}
        found = stack.enter_context(closing(Lanes(clients)))
        trips = found.submit({"ada": [Job("one", "count", {})]}) + found.submit({"grace": [Job("two", "count", {})]})
        found.follow(trips, lambda _trip, _event: None)
    for trip in trips:
        trip.run = {**DONE, "id": trip.view.id, "output": f"of {trip.user}"}
    return found, trips


def of(run_id: str, *kinds: str, first: int = 1, **data: Any) -> list[Any]:
    return [event(seq, kind, run_id=run_id, run_seq=seq, **data) for seq, kind in enumerate(kinds, first)]


WHOLE = ("run_queued", "run_started", "agent_started", "run_completed")


def test_lanes_that_are_apart_pass_all_checks(service: Service) -> None:
    found, trips = ended(service, of("a1", *WHOLE), of("g1", *WHOLE))
    assert (found.foreign(), found.gaps(), found.leaks({"ada": "xx", "grace": "yy"})) == ([], [], [])
    assert found.most_in_progress() == 1
    assert [trip.view.status for trip in trips] == ["completed", "completed"]
    assert all(0 <= (trip.first_s or -1) <= trip.total_s for trip in trips)
    with ExitStack() as stack:
        found.clients = {user: stack.enter_context(Client(service.url, user)) for user in found.clients}
        assert found.trespass() == (2, [])


def test_an_event_of_another_user_is_found(service: Service) -> None:
    leak = event(3, "agent_thinking", run_id="g1", text="hers")
    found, _ = ended(
        service, [*of("a1", "run_queued", "run_started"), leak, *of("a1", "run_completed", first=4)], of("g1", *WHOLE)
    )
    assert found.foreign() == ["ada saw agent_thinking of run g1"]


def test_a_missing_event_is_found(service: Service) -> None:
    found, _ = ended(service, of("a1", *WHOLE), of("g1", *WHOLE))
    del found.events["grace"][1]
    assert found.gaps() == ["grace: 3 after 1"]


@pytest.mark.parametrize("place", ["event", "output"])
def test_another_user_s_secret_is_found(service: Service, place: str) -> None:
    note = "the-secret-of-ada" if place == "event" else ""
    found, trips = ended(service, of("a1", *WHOLE), of("g1", *WHOLE, note=note))
    if place == "output":
        trips[1].run["output"] = {"rows": [["the-secret-of-ada"]]}
    assert found.leaks({"ada": "the-secret-of-ada", "grace": "hers"}) == ["grace saw ada's secret"]


def test_a_run_that_can_be_read_by_another_is_found(service: Service) -> None:
    found, _ = ended(service, of("a1", *WHOLE), of("g1", *WHOLE))
    service.on("GET", "/v1/runs/a1", answer(DONE))
    service.on("GET", "/v1/runs/g1", problem(500, "internal", "oops"))
    with ExitStack() as stack:
        found.clients = {user: stack.enter_context(Client(service.url, user)) for user in found.clients}
        tries, failures = found.trespass()
    assert (tries, len(failures)) == (2, 2)


def test_too_many_in_progress_are_counted(service: Service) -> None:
    more = of("a2", "run_started") + of("a3", "run_started") + of("a2", "run_recovering")
    for seq, item in enumerate(more, 3):
        item["seq"] = seq
    found, _ = ended(service, [*of("a1", *WHOLE[:2]), *more, *of("a1", "run_completed", first=6)], of("g1", *WHOLE))
    assert found.most_in_progress() == 3


def test_a_run_that_does_not_end_is_told_by_its_title(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_S", 0.3)
    with pytest.raises(DemoError, match=r"two \(running\)"):
        ended(service, of("a1", *WHOLE), of("g1", *WHOLE[:3]))


def test_a_stream_that_breaks_is_told(service: Service) -> None:
    with pytest.raises(ApiError, match="no more connections"):
        ended(service, of("a1", *WHOLE), [*of("g1", "run_queued"), "{"])


def test_documents_are_real_tables() -> None:
    characters = list(csv.DictReader(documents.characters().content.decode().splitlines()))
    assert {"code": "U+0041", "name": "LATIN CAPITAL LETTER A", "first_word": "LATIN", "category": "Lu",
            "kind": "letter"} in characters  # fmt: skip
    assert len(characters) == documents.characters().rows > 30_000
    assert {row["category"] for row in characters} <= set(documents.CATEGORIES) | {"Cc", "Co"}
    certificates = [json.loads(line) for line in documents.certificates().content.splitlines()]
    assert len(certificates) > 100
    assert {"US", "DE"} <= {record["country"] for record in certificates}
    assert all(record["valid_from"] < record["valid_until"] and record["name"] for record in certificates)
    docs = list(csv.DictReader(documents.documentation().content.decode().splitlines()))
    assert {row["kind"] for row in docs} >= {"heading", "text", "code", "blank"}
    assert sum(int(row["words"]) for row in docs) > 100
