from __future__ import annotations

import socket
import threading
import time
from itertools import islice
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect
from werkzeug.wrappers import Response

from lanewise import ApiError, Client, StreamClosedError, UnreachableError, retry
from lanewise import stream as stream_module
from tests.scripted import CUT, WAIT_S, Connection, Service, answer, event, problem, says, welcome

LIVE = {"t": "live", "seq": 0}


def seqs(client: Client, count: int, after: int | None = 0) -> list[int]:
    with client.stream(after) as stream:
        return [item["seq"] for item in islice(stream, count)]


def test_replay_and_live_events_come_in_order_with_the_token_in_a_header(service: Service, client: Client) -> None:
    def script(connection: Connection) -> None:
        assert connection.authorization == "Bearer a-token"
        connection.send(welcome(2), event(1), event(2), {"t": "live", "seq": 2}, event(3))
        connection.stay()

    service.connections = [script]
    assert seqs(client, 3) == [1, 2, 3]
    assert service.hellos == [{"t": "hello", "v": 1, "after": 0}]
    assert "a-token" not in service.requests[0].url


@pytest.mark.parametrize("code", [4400, 4403, 4409, 1009])
def test_four_close_codes_end_it_with_an_error(service: Service, client: Client, code: int) -> None:
    service.connections = [says(welcome(1), event(1), then=code)]
    with client.stream(0) as stream:
        assert next(stream)["seq"] == 1
        with pytest.raises(StreamClosedError, match="because") as caught:
            next(stream)
        assert caught.value.close_code == code
        assert list(stream) == []
    assert len(service.hellos) == 1


def test_a_close_code_counts_also_if_the_connection_then_stays_open(service: Service, client: Client) -> None:
    done = threading.Event()

    def script(connection: Connection) -> None:
        connection.send(welcome(0))
        connection.close(4403, "because")
        done.wait(WAIT_S)

    service.connections = [script]
    started = time.monotonic()
    with client.stream(0) as stream, pytest.raises(StreamClosedError, match="because"):
        next(stream)
    assert time.monotonic() - started < WAIT_S / 2
    done.set()


def test_the_problem_sent_before_the_close_is_what_the_error_says(service: Service, client: Client) -> None:
    frame = {"t": "error", "ref": None, "problem": {"detail": "after must be a number"}}
    service.connections = [says(frame, then=4400)]
    with client.stream(0) as stream, pytest.raises(StreamClosedError, match="after must be a number"):
        next(stream)


def test_without_a_cursor_there_is_a_snapshot_and_then_what_follows_its_head(service: Service, client: Client) -> None:
    runs = {"runs": [{"id": "r1"}]}
    service.connections = [
        says(welcome(41, snapshot=runs), LIVE, event(42), then=CUT),
        says(welcome(43), event(43)),
    ]
    with client.stream().open() as stream:
        assert (stream.snapshot, stream.last) == (runs, 41)
        assert [item["seq"] for item in islice(stream, 2)] == [42, 43]
        assert (stream.last, stream.connections) == (43, 2)
    assert [hello["after"] for hello in service.hellos] == [None, 42]


def test_a_service_that_accepts_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, "t", timeout_s=0.1, retry_s=0.3) as client, client.stream(0) as stream:
            started = time.monotonic()
            with pytest.raises(UnreachableError, match=url):
                next(stream)
            assert time.monotonic() - started < 3


def test_a_refused_token_is_an_error_at_once(service: Service, client: Client) -> None:
    service.connections = [says(then=4401)]
    service.on("GET", "/v1/me", problem(401, "unauthorized", "the token has expired"))
    with client.stream(0) as stream, pytest.raises(ApiError, match="the token has expired") as caught:
        next(stream)
    assert (caught.value.status, caught.value.code) == (401, "unauthorized")
    assert len(service.hellos) == 1


@pytest.mark.parametrize("me", [answer({}), problem(500, "internal", "sorry"), problem(503, "unavailable", "later")])
def test_a_token_that_is_not_refused_by_rest_is_shown_again(service: Service, client: Client, me: Response) -> None:
    service.connections = [says(then=4401), says(welcome(1), event(1))]
    service.on("GET", "/v1/me", me)
    assert seqs(client, 1) == [1]


def test_a_service_that_welcomes_and_hangs_up_is_not_asked_for_ever(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "LAST_S", 0.2)
    service.connections += [says(welcome(0), then=1013)] * 100
    failing = pytest.raises(UnreachableError, match="closed with code 1013")
    with Client(service.url, "t", retry_s=0.8) as client, client.stream(0) as stream, failing:
        next(stream)
    assert 3 <= len(service.hellos) <= 12


def test_a_quiet_stream_that_is_cut_now_and_then_goes_on(service: Service) -> None:
    service.connections += [*[says(welcome(0), LIVE, then=CUT)] * 10, says(welcome(1), event(1))]
    with Client(service.url, "t", retry_s=0.3) as client, client.stream(0) as stream:
        assert next(stream)["seq"] == 1
        assert stream.connections == 11


def test_a_frame_above_the_limit_ends_the_stream(
    service: Service, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "MAX_FRAME_BYTES", 10_000)
    service.connections = [says(welcome(1), event(1, text="x" * 20_000))]
    with client.stream(0) as stream, pytest.raises(StreamClosedError) as caught:
        next(stream)
    assert caught.value.close_code == 1009


def test_close_from_another_thread_ends_an_iteration(service: Service, client: Client) -> None:
    welcomed = threading.Event()

    def script(connection: Connection) -> None:
        connection.send(welcome(0), LIVE)
        welcomed.set()
        connection.stay()

    service.connections = [script]
    stream = client.stream(0)
    seen: list[object] = []
    reader = threading.Thread(target=lambda: seen.extend(stream))
    reader.start()
    assert welcomed.wait(5)
    stream.close()
    reader.join(5)
    assert not reader.is_alive()
    assert seen == []


def test_close_during_a_connect_ends_an_iteration(service: Service, client: Client) -> None:
    connecting, closed = threading.Event(), threading.Event()
    stream = client.stream(0)

    def slowly(*args: Any, **options: Any) -> ClientConnection:
        connecting.set()
        assert closed.wait(WAIT_S)
        made: ClientConnection = connect(*args, **options)
        return made

    service.connections = [says(welcome(1), event(1))]
    seen: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lanewise.stream.connect", slowly)
        reader = threading.Thread(target=lambda: seen.extend(stream))
        reader.start()
        assert connecting.wait(WAIT_S)
        stream.close()
        closed.set()
        reader.join(WAIT_S)
    assert not reader.is_alive()
    assert seen == service.hellos == []


def test_the_stream_of_a_run_starts_with_its_past_and_ends_with_it(service: Service, client: Client) -> None:
    past = [event(3, "run_queued", run_seq=1), event(5, "run_started", run_seq=2), event(7, run_seq=3)]
    service.on("GET", "/v1/runs/r1/events", answer({"items": past, "next_cursor": None}))
    service.connections = [
        says(welcome(5), LIVE, event(6, run_id="r2", run_seq=9), past[2], then=CUT),  # read and live: told once
        says(welcome(9), event(8, run_id="r2", run_seq=10), event(9, "run_completed", run_seq=4)),
    ]
    with client.stream(run_id="r1") as stream:
        assert [item["run_seq"] for item in stream] == [1, 2, 3, 4]
    assert [hello["after"] for hello in service.hellos] == [None, 7]


def test_the_past_of_a_run_is_read_as_it_is_taken_and_goes_on_after_a_failure(service: Service, client: Client) -> None:
    pages = [answer({"items": [event(seq, run_seq=seq)], "next_cursor": "more"}) for seq in (1, 2)]
    last = answer({"items": [event(3, "run_completed", run_seq=3)], "next_cursor": None})
    service.on("GET", "/v1/runs/r1/events", *pages, problem(400, "bad_request", "no"), last)
    service.connections = [says(welcome(3), LIVE)]
    with client.stream(run_id="r1") as stream:
        assert next(stream)["seq"] == 1
        assert [request.path for request in service.requests].count("/v1/runs/r1/events") == 1
        assert next(stream)["seq"] == 2
        with pytest.raises(ApiError, match="no"):
            next(stream)
        assert [item["seq"] for item in stream] == [3]


def test_the_stream_of_a_run_that_has_ended_is_its_past(service: Service, client: Client) -> None:
    past = [event(3, "run_queued", run_seq=1), event(5, "run_failed", run_seq=2)]
    service.on("GET", "/v1/runs/r1/events", answer({"items": past, "next_cursor": None}))
    service.connections = [says(welcome(9), LIVE)] * 2
    assert [item["run_seq"] for item in client.stream(run_id="r1")] == [1, 2]
    assert [item["run_seq"] for item in client.stream(3, run_id="r1")] == [2]


def test_the_stream_of_a_run_reads_again_what_the_stream_could_not_replay(service: Service, client: Client) -> None:
    page = [event(3, "run_queued", run_seq=1)]
    more = [event(8, run_seq=2), event(9, run_seq=3)]
    service.on(
        "GET",
        "/v1/runs/r1/events",
        answer({"items": page, "next_cursor": None}),
        answer({"items": more, "next_cursor": None}),
    )
    service.connections = [
        says(welcome(3), LIVE, then=CUT),
        says(welcome(9, recovered=False, reason="trimmed"), LIVE, event(10, "run_cancelled", run_seq=4)),
    ]
    with client.stream(run_id="r1") as stream:
        assert [item["run_seq"] for item in stream] == [1, 2, 3, 4]
    assert [request.args["after"] for request in service.requests if request.path.endswith("events")] == ["0", "1"]


def test_a_run_that_is_not_ours_has_no_stream(service: Service, client: Client) -> None:
    service.on("GET", "/v1/runs/r1/events", problem(404, "not_found", "no run r1"))
    service.connections = [says(welcome(9), LIVE)]
    with client.stream(run_id="r1") as stream, pytest.raises(ApiError, match="no run r1"):
        next(stream)
