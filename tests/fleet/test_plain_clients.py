"""Clients that are not ours, by the published contract alone: curl submits, a plain WebSocket follows."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.fleet.fleet import Fleet, Run
from tests.services import missing

ENDS = {"run_completed", "run_failed", "run_cancelled", "run_timed_out"}
BOUND_S = "20"


def curl(fleet: Fleet, user: str, path: str, *arguments: str) -> Any:
    """Returns what curl prints. The token comes by its standard input: a command line is no place for it."""
    program = shutil.which("curl")
    if program is None:
        missing("curl")
    header = f'header = "Authorization: Bearer {fleet.token(user)}"\n'
    argv = (program, "-sS", "--fail-with-body", "--max-time", BOUND_S, "-K", "-", *arguments, fleet.url + path)
    done = subprocess.run(argv, input=header, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def curl_submits(fleet: Fleet, user: str, text: str) -> Run:
    body = json.dumps({"agent": "talk", "input": {"text": text}})
    json_type = ("-H", "Content-Type: application/json")
    return dict(curl(fleet, user, "/v1/runs", *json_type, "-H", "Idempotency-Key: from curl", "-d", body))


def frames(socket: ClientConnection) -> Iterator[dict[str, Any]]:
    """Yields frames, and answers pings as the contract asks."""
    while True:
        frame = json.loads(socket.recv(timeout=20))
        if frame["t"] == "ping":
            socket.send('{"t":"pong"}')
        else:
            yield frame


def follow(socket: ClientConnection, run_id: str, last: int) -> list[dict[str, Any]]:
    """Returns the run's events up to its end, holding every frame to the rule that `seq` is the last one plus one."""
    events = []
    for frame in frames(socket):
        if frame["t"] == "live":
            assert frame["seq"] == last
            continue
        assert frame["t"] == "event"
        assert frame["seq"] == last + 1
        last = frame["seq"]
        if frame["run_id"] == run_id:
            events.append(frame)
            if frame["type"] in ENDS:
                return events
    raise AssertionError


def test_curl_submits_and_a_plain_websocket_follows(fleet: Fleet, user: str) -> None:
    headers = {"Authorization": f"Bearer {fleet.token(user)}"}
    with connect(fleet.stream_url, additional_headers=headers, compression=None) as socket:
        socket.send('{"t":"hello","v":1,"after":0}')
        welcome = next(frames(socket))
        assert {**welcome, "connection_id": "", "expires_at": ""} == {
            "t": "welcome", "connection_id": "", "head": 0, "recovered": True, "reason": None, "replay": 0,
            "ping_s": 25, "expires_at": "", "snapshot": None,
        }  # fmt: skip
        run = curl_submits(fleet, user, "hello from curl")
        events = follow(socket, run["id"], 0)
    assert [event["run_seq"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["type"], events[-1]["type"]) == ("run_queued", "run_completed")
    assert [event["data"]["text"] for event in events if event["type"] == "agent_token"] == ["hello from curl"]
    waited = curl(fleet, user, f"/v1/runs/{run['id']}/wait?timeout_s=10")
    assert (waited["status"], waited["output"]) == ("completed", {"words": ["hello", "from", "curl"]})
    assert curl(fleet, user, f"/v1/runs/{run['id']}/events")["items"] == events
    assert curl_submits(fleet, user, "hello from curl")["id"] == run["id"]


def test_a_browser_signs_in_with_a_ticket_and_submits_over_its_socket(fleet: Fleet, user: str) -> None:
    earlier = curl_submits(fleet, user, "earlier")
    fleet.wait(user, earlier["id"])
    ticket = curl(fleet, user, "/v1/tickets", "-X", "POST")["ticket"]
    with connect(fleet.stream_url, origin=Origin(fleet.url)) as socket:
        socket.send(json.dumps({"t": "hello", "v": 1, "ticket": ticket, "after": None}))
        welcome = next(frames(socket))
        assert [run["id"] for run in welcome["snapshot"]["runs"]] == [earlier["id"]]
        body = {"agent": "talk", "input": {"text": "now"}, "idempotency_key": "from a browser"}
        socket.send(json.dumps({"t": "run.submit", "ref": "7", **body}))
        received = []
        for frame in frames(socket):
            received.append(frame)
            if frame.get("type") in ENDS:
                break
        (ack,) = [frame for frame in received if frame["t"] == "ack"]
        events = [frame for frame in received if frame["t"] == "event"]
        assert ack["ref"] == "7"
        assert {event["run_id"] for event in events} == {ack["run"]["id"]}
        assert [event["seq"] for event in events] == list(range(welcome["head"] + 1, welcome["head"] + 10 - 1))
        socket.send(json.dumps({"t": "run.submit", "ref": "8", "agent": "talk", "input": {"text": 1}}))
        refusal = next(frames(socket))
        assert (refusal["t"], refusal["ref"], refusal["problem"]["status"]) == ("error", "8", 422)
        assert [error["field"] for error in refusal["problem"]["errors"]] == ["input.text"]
    with connect(fleet.stream_url, origin=Origin(fleet.url)) as socket:
        socket.send(json.dumps({"t": "hello", "v": 1, "ticket": ticket}))  # a ticket is for one use
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


def test_a_page_of_another_site_gets_nothing(fleet: Fleet, user: str) -> None:
    ticket = fleet.http(user).post("/v1/tickets").json()["ticket"]
    with connect(fleet.stream_url, origin=Origin("https://elsewhere.example")) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            socket.send(json.dumps({"t": "hello", "v": 1, "ticket": ticket}))
            socket.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4403


def test_who_comes_to_a_stream_that_is_ahead_of_the_log_is_sent_to_resume(fleet: Fleet, user: str) -> None:
    """As after a return to a backup of Postgres: what was delivered is not in the log any more."""
    headers = {"Authorization": f"Bearer {fleet.token(user)}"}
    with connect(fleet.stream_url, additional_headers=headers) as first:
        first.send('{"t":"hello","v":1,"after":0}')
        assert [next(frames(first))["t"] for _ in range(2)] == ["welcome", "live"]
        forgotten = {"t": "event", "seq": 1, "run_id": "gone", "type": "run_queued"}
        fleet.services.redis.publish(fleet.services.keys.events(user), json.dumps([forgotten]))
        assert next(frames(first)) == forgotten
        with connect(fleet.stream_url, additional_headers=headers) as second:
            second.send('{"t":"hello","v":1,"after":0}')
            assert next(frames(second))["t"] == "welcome"
            with pytest.raises(ConnectionClosed) as closed:  # it may be told from memory what the first one was told
                while True:
                    second.recv(timeout=10)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4410


def test_it_resumes_where_it_was_cut(fleet: Fleet, user: str) -> None:
    headers = {"Authorization": f"Bearer {fleet.token(user)}"}
    run = curl_submits(fleet, user, "a b c d")
    with connect(fleet.stream_url, additional_headers=headers) as socket:
        socket.send('{"t":"hello","v":1,"after":0}')
        last = 0
        while last < 4:
            frame = next(frames(socket))
            last = frame["seq"] if frame["t"] == "event" else last
    fleet.wait(user, run["id"])
    with connect(fleet.stream_url, additional_headers=headers) as socket:
        socket.send(json.dumps({"t": "hello", "v": 1, "after": last}))
        welcome = next(frames(socket))
        assert (welcome["recovered"], welcome["replay"]) == (True, welcome["head"] - 4)
        events = follow(socket, run["id"], last)
    assert [event["run_seq"] for event in events] == list(range(5, 5 + len(events)))
