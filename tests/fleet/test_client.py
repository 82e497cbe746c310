from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice

import pytest

from lanewise import ApiError, Client
from tests.fleet.fleet import Event, Fleet, new_user

TEXT = {"text": "one two three"}


def first_event(client: Client, run_id: str) -> object:
    """Opens a stream, closes it again, and returns what came first."""
    with client.stream(run_id=run_id) as stream:
        return next(stream)


@pytest.fixture
def client(fleet: Fleet, user: str) -> Client:
    return fleet.client(user)


def test_a_run_from_submission_to_result(client: Client) -> None:
    assert {"data", "talk"} <= {agent["name"] for agent in client.agents()}
    with client.stream().open() as everything:
        run = client.submit("talk", TEXT, metadata={"a": 1})
        with client.stream(run_id=run["id"]) as stream:
            events = list(stream)
        assert [event["run_seq"] for event in events] == list(range(1, len(events) + 1))
        assert (events[0]["type"], events[-1]["type"]) == ("run_queued", "run_completed")
        assert list(islice(everything, len(events))) == events
    assert list(client.events(run["id"])) == events
    assert list(client.events(run["id"], after=3)) == events[3:]
    ended = client.wait(run["id"], 10)
    assert (ended["status"], ended["output"], ended["metadata"]) == (
        "completed",
        {"words": TEXT["text"].split()},
        {"a": 1},
    )
    assert client.run(run["id"]) == ended
    assert list(client.runs(status="completed")) == [ended]
    assert list(client.runs(status="failed")) == []
    assert client.me()["running"] == 0


def test_a_stream_that_was_closed_goes_on_where_it_was(client: Client) -> None:
    with client.stream(0) as stream:
        run = client.submit("talk", TEXT)
        seen = list(islice(stream, 4))
        last = stream.last
    client.wait(run["id"], 10)
    with client.stream(last) as stream:
        while seen[-1]["type"] != "run_completed":
            seen.append(next(stream))
    assert seen == list(client.events(run["id"]))
    with client.stream(last, run["id"]) as stream:
        assert list(stream) == seen[4:]


def test_nothing_is_missed_when_the_api_is_killed(fleet: Fleet, client: Client) -> None:
    seen: list[Event] = []
    with client.stream(0).open() as stream:
        runs = [client.submit("talk", TEXT) for _ in range(3)]
        fleet.kill("api.worker")
        runs += [client.submit("talk", TEXT) for _ in range(5)]
        while sum(event["type"] == "run_completed" for event in seen) < len(runs):
            seen.append(next(stream))
        assert stream.connections > 1
    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    for run in runs:
        assert [event for event in seen if event["run_id"] == run["id"]] == list(client.events(run["id"]))
    assert len(list(client.runs())) == len(runs)


def test_one_key_is_one_run_also_from_many_threads(client: Client) -> None:
    ids: list[str] = []
    threads = [
        threading.Thread(target=lambda: ids.append(client.submit("talk", TEXT, idempotency_key="same")["id"]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert len(list(client.runs())) == 1


def test_a_run_is_cancelled_in_flight(client: Client) -> None:
    run = client.submit("hold", {})
    with client.stream(run_id=run["id"]) as stream:
        next(event for event in stream if event["type"] == "agent_thinking")
        client.cancel(run["id"])
        assert list(stream)[-1]["type"] == "run_cancelled"
    assert client.cancel(run["id"])["status"] == "cancelled"


def test_waiting_ends_after_its_time(client: Client) -> None:
    run = client.submit("hold", {})
    assert client.wait(run["id"], 0.3)["status"] in ("queued", "running")
    client.cancel(run["id"])
    assert client.wait(run["id"], 10)["status"] == "cancelled"


def test_documents_and_threads_are_the_user_s_own(fleet: Fleet, client: Client) -> None:
    other = fleet.client(new_user("other"))
    client.put_document("a.csv", "x,y\n1,2\n3,4\n")
    assert client.document("a.csv") == b"x,y\n1,2\n3,4\n"
    assert [document["name"] for document in client.documents()] == ["a.csv"]
    thread = client.create_thread({"topic": "sums"})
    query = {"document": "a.csv", "sql": "SELECT sum(y) AS total FROM data"}
    run = client.submit("data", query, thread_id=thread["id"])
    assert client.wait(run["id"], 30)["output"]["query"]["rows"] == [[6]]
    assert client.thread(thread["id"])["metadata"] == {"topic": "sums"}
    assert [item["id"] for item in client.runs(thread_id=thread["id"])] == [run["id"]]
    calls: list[Callable[[], object]] = [
        lambda: other.run(run["id"]),
        lambda: other.cancel(run["id"]),
        lambda: list(other.events(run["id"])),
        lambda: first_event(other, run["id"]),
        lambda: other.document("a.csv"),
        lambda: other.thread(thread["id"]),
        lambda: other.submit("talk", TEXT, thread_id=thread["id"]),
    ]
    for call in calls:
        with pytest.raises(ApiError) as caught:
            call()
        assert caught.value.status == 404
    client.delete_document("a.csv")
    client.delete_thread(thread["id"])
    assert list(client.documents()) == []
    assert list(client.threads()) == []


def test_what_is_wrong_is_said_field_by_field(client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        client.submit("talk", {"text": 7})
    assert (caught.value.status, caught.value.code) == (422, "invalid")
    assert "text" in caught.value.errors[0]["field"]
    with pytest.raises(ApiError) as caught:
        client.submit("tlak", {})
    assert (caught.value.status, caught.value.code) == (422, "unknown_agent")
