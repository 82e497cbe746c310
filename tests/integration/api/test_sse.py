"""One run followed over server-sent events: the same objects as over REST, taken up again wherever it was cut."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from api.gateway import sse
from api.gateway.channel import Channel
from api.gateway.gate import Gate
from lanewise.process import wait_until
from shared.models import Run
from shared.tokens import Identity
from tests.api_process import FakeWorker, Server
from tests.integration.api.conftest import Fleet, Home, UserClient
from tests.services import missing

ACCEPT = {"Accept": "text/event-stream"}


class Events:
    """What a client of a stream reads, message by message."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.ids: list[int] = []
        self._lines = answer.iter_lines()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        event_id = None
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "id":
                event_id = int(value)
            elif name == "data":
                assert event_id is not None
                self.ids.append(event_id)
                yield json.loads(value)

    def take(self, count: int) -> list[dict[str, Any]]:
        return [event for _, event in zip(range(count), self, strict=False)]


@contextmanager
def follow(server: Server, user: str, run_id: str, query: str = "", **headers: str) -> Iterator[Events]:
    with (
        server.client(user) as client,
        client.stream("GET", f"/v1/runs/{run_id}/events{query}", headers={**ACCEPT, **headers}) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        yield Events(answer)


def sockets(server: Server) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("lanewise_sockets "))


@contextmanager
def unread(server: Server, user: str, run_id: str) -> Iterator[socket.socket]:
    """A client that has seen the head of the answer and reads nothing by itself."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(
            f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {server.token(user)}\r\n\r\n".encode()
        )
        received = b""
        while b"retry:" not in received:
            received += raw.recv(1)
        yield raw


class TestFollowing:
    def test_the_log_then_live_up_to_the_end_as_over_rest(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        other = fleet.worker.start(user, fleet.server.submit(user))
        fleet.worker.say(run, *"ab")
        with follow(fleet.server, user, run.id) as events:
            assert events.answer.headers["Content-Type"] == "text/event-stream"
            assert events.answer.headers["Cache-Control"] == "no-store"
            assert events.answer.headers["X-Accel-Buffering"] == "no"
            found = events.take(4)
            fleet.worker.say(other, "not of this run")
            fleet.worker.say(run, "c")
            fleet.worker.finish(run)
            found += list(events)  # the server ends it
        with fleet.server.client(user) as client:
            assert found == client.get(f"/v1/runs/{run.id}/events").json()["items"]
        assert events.ids == [event["run_seq"] for event in found] == list(range(1, 7))

    def test_each_cut_is_taken_up_by_the_last_id(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        fleet.worker.say(run, *(str(number) for number in range(700)))  # more than a page of the log
        fleet.worker.finish(run)
        ids: list[int] = []
        for _ in range(5):
            with follow(fleet.server, user, run.id, **{"Last-Event-ID": str(len(ids))}) as events:
                events.take(150)
            ids += events.ids
        assert ids == list(range(1, 704))
        headers = {**ACCEPT, "Last-Event-ID": "703"}
        with fleet.server.client(user) as client:
            assert client.get(f"/v1/runs/{run.id}/events", headers=headers).status_code == 204

    def test_after_counts_as_well_and_the_higher_one_holds(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        fleet.worker.say(run, *"abcd")
        fleet.worker.finish(run)
        for query, last, first in (("?after=3", "", 4), ("?after=3", "5", 6), ("?after=5", "3", 6)):
            headers = {"Last-Event-ID": last} if last else {}
            with follow(fleet.server, user, run.id, query, **headers) as events:
                assert [event["run_seq"] for event in events] == list(range(first, 8))

    def test_what_was_never_published_comes_too(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        with follow(fleet.server, user, run.id) as events:
            events.take(2)
            fleet.worker.finish(run, publish=False)
            assert [event["type"] for event in events] == ["run_completed"]

    def test_curl_follows_a_run_to_its_end(self, fleet: Fleet, user: str) -> None:
        curl = shutil.which("curl")
        if curl is None:
            missing("curl")
        run = fleet.worker.start(user, fleet.server.submit(user))
        argv = (curl, "-sSN", "--fail-with-body", "--max-time", "20", "-H", "Accept: text/event-stream", "-K", "-",
                f"{fleet.server.url}/v1/runs/{run.id}/events")  # fmt: skip
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f'header = "Authorization: Bearer {fleet.server.token(user)}"\n')
            process.stdin.close()
            lines = iter(process.stdout)
            seen = [next(lines) for _ in range(8)]  # at once, not when the run ends
            fleet.worker.finish(run)
            seen += lines
            assert process.wait(10) == 0
        assert [line.strip() for line in seen if line.startswith(("retry", "id"))] == [
            "retry: 1000",
            "id: 1",
            "id: 2",
            "id: 3",
        ]


class TestEnds:
    def test_a_slow_reader_is_cut_and_resumes(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        before = sockets(fleet.server)
        with unread(fleet.server, user, run.id) as raw:
            assert sockets(fleet.server) == before + 1
            for _ in range(30):
                fleet.worker.say(run, *["x" * 60_000] * 10)
            assert wait_until(lambda: sockets(fleet.server) == before, 20)
            received = b""
            while data := raw.recv(1 << 16):
                received += data
        whole = received.rpartition(b"\n\n")[0]
        last = max(int(line[4:]) for line in whole.splitlines() if line.startswith(b"id: "))
        assert 2 < last < 302
        with follow(fleet.server, user, run.id, **{"Last-Event-ID": str(last)}) as events:
            assert [event["run_seq"] for event in events.take(302 - last)] == list(range(last + 1, 303))

    def test_a_client_that_goes_away_is_noticed_though_nothing_happens(self, fleet: Fleet, user: str) -> None:
        run_id = fleet.server.submit(user)
        assert wait_until(lambda: sockets(fleet.server) == 0, sse.LOOK_S + 2)  # those of earlier tests
        with follow(fleet.server, user, run_id) as events:
            events.take(1)
            assert sockets(fleet.server) == 1
        assert wait_until(lambda: sockets(fleet.server) == 0, sse.LOOK_S + 2)

    def test_it_ends_with_its_token(self, fleet: Fleet, user: str) -> None:
        run_id = fleet.server.submit(user)
        token = {"Authorization": f"Bearer {fleet.server.token(user, ttl_s=5)}"}
        with follow(fleet.server, user, run_id, **token) as events:
            assert [event["type"] for event in events] == ["run_queued"]

    def test_a_stream_in_which_nothing_happens_beats(
        self,
        home: Home,
        worker: FakeWorker,
        alice: UserClient,
        body: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(sse, "HEARTBEAT_S", 0.05)
        run = worker.start(alice.user_id, alice.post("/v1/runs", json=body).json()["id"])
        with opened(home, run) as (stream, _):
            assert next(stream) == b"retry: 1000\n\n"
            assert next(stream).count(b"data:") == 2
            assert [next(stream) for _ in range(2)] == [b":\n\n", b":\n\n"]

    def test_a_stream_of_a_run_that_was_removed_meanwhile_ends(self, home: Home) -> None:
        with opened(home, Run(user_id="alice", id="0" * 32, last_run_seq=900)) as (stream, _):
            assert list(stream) == [b"retry: 1000\n\n"]

    def test_the_end_that_is_published_between_log_and_live_is_seen(
        self, home: Home, worker: FakeWorker, alice: UserClient, body: dict[str, Any]
    ) -> None:
        run = worker.start(alice.user_id, alice.post("/v1/runs", json=body).json()["id"])
        with opened(home, run) as (stream, channel):
            assert next(stream) == b"retry: 1000\n\n"
            assert next(stream).count(b"data:") == 2
            worker.finish(run)
            channel.receive([{"seq": 3}])  # before anybody listens
            assert b"run_completed" in next(stream)
            assert list(stream) == []


@contextmanager
def opened(home: Home, run: Run) -> Iterator[tuple[Iterator[bytes], Channel]]:
    """Yields a stream of a run from its beginning, in this process, and the channel that it is to listen to."""
    identity = Identity(run.user_id, frozenset(), datetime.now(UTC), datetime.now(UTC) + timedelta(seconds=60))
    channel = Channel(run.user_id, "channel")
    channel.place(run.last_run_seq)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield sse.RunStream(home.services.database, Gate(), identity, run, 0, ours).follow(channel), channel


class TestAnswers:
    @pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "1 2", "1" * 10, "½"])
    def test_a_bad_last_event_id_is_named(self, fleet: Fleet, user: str, value: str) -> None:
        run_id = fleet.server.submit(user)
        with fleet.server.client(user) as client:
            headers = {**ACCEPT, "Last-Event-ID": value.encode()}
            answer = client.get(f"/v1/runs/{run_id}/events", headers=headers)  # type: ignore[arg-type] # bytes too
        assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/problem+json")
        assert "Last-Event-ID" in answer.json()["detail"]

    def test_who_has_seen_more_than_there_is_is_told(self, fleet: Fleet, user: str) -> None:
        run_id = fleet.server.submit(user)
        with fleet.server.client(user) as client:
            answer = client.get(f"/v1/runs/{run_id}/events?after=2", headers=ACCEPT)
        assert answer.status_code == 400
        assert "above 1" in answer.json()["detail"]

    def test_what_is_anothers_is_not_there(self, fleet: Fleet, user: str) -> None:
        run_id = fleet.server.submit(f"{user}-2")
        with fleet.server.client(user) as client:
            for of in (run_id, "0" * 32, "x"):
                answer = client.get(f"/v1/runs/{of}/events", headers=ACCEPT)
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert httpx.get(f"{fleet.server.url}/v1/runs/{run_id}/events", headers=ACCEPT).status_code == 401

    @pytest.mark.parametrize(
        ("accept", "streams"),
        [
            ("text/event-stream", True),
            ("text/event-stream, */*;q=0.1", True),
            ("application/json;q=0.5, text/event-stream", True),
            ("text/*", True),
            ("*/*", False),
            ("", False),
            ("text/html", False),
            ("application/json", False),
            ("application/json, text/event-stream", False),
            ("application/json, text/event-stream;q=0.9", False),
            ("*/*, text/event-stream;q=0", False),
        ],
    )
    def test_the_form_that_the_client_prefers_and_json_without_preference(
        self, fleet: Fleet, user: str, accept: str, *, streams: bool
    ) -> None:
        run_id = fleet.server.submit(user)
        with fleet.server.client(user) as client:
            client.post(f"/v1/runs/{run_id}/cancel")
            answer = client.get(f"/v1/runs/{run_id}/events", headers={"Accept": accept})
        assert answer.headers["Content-Type"] == ("text/event-stream" if streams else "application/json")
