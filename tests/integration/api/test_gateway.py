"""The event stream: every event once, in order, over every kind of interruption."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from api.gateway.protocol import MAX_MESSAGE_BYTES, MAX_SOCKETS_PER_USER, PING_S
from api.state import EXTENSION
from lanewise.embedded import EmbeddedRedis
from lanewise.process import wait_until
from shared.signing import Signer
from tests.api_process import FakeWorker, Server, Stream, close_code, metric
from tests.integration.api.conftest import Fleet, Home, UserClient, make_fleet
from tests.services import Servers


def _hello(socket: ClientConnection, **frame: Any) -> None:
    socket.send(json.dumps({"t": "hello", "v": 1, **frame}))


@pytest.fixture(scope="module")
def early(shared_fleet: Fleet) -> Iterator[list[dict[str, Any]]]:
    """The frames of a client that is there from the first test on and answers pings."""
    frames: list[dict[str, Any]] = []

    def listen(stream: Stream) -> None:
        for text in stream.socket:
            frames.append(json.loads(text))
            if frames[-1]["t"] == "ping":
                stream.send(t="pong")

    with shared_fleet.server.stream("early") as stream:
        listening = threading.Thread(target=listen, args=(stream,))
        listening.start()
        shared_fleet.server.submit("early")
        yield frames
    listening.join(5)


@pytest.mark.usefixtures("early")
class TestReplay:
    def test_replay_then_live_then_reconnect_shows_each_event_once_in_order(self, fleet: Fleet, user: str) -> None:
        run_id = fleet.server.submit(user)
        run = fleet.worker.start(user, run_id)
        fleet.worker.say(run, *"abc")
        with fleet.server.stream(user, after=0) as stream:
            assert (stream.welcome["replay"], stream.welcome["head"], stream.welcome["recovered"]) == (5, 5, True)
            stream.until_live()
            assert stream.live_at == 5
            fleet.worker.say(run, *"de")
            stream.until_seq(7)
        fleet.worker.say(run, *"fg")
        with fleet.server.stream(user, after=7) as again:
            fleet.worker.finish(run)
            again.until_seq(10)
        assert stream.numbers + again.numbers == list(range(1, 11))
        assert [event["run_seq"] for event in (*stream.events, *again.events)] == list(range(1, 11))
        assert again.events[-1]["type"] == "run_completed"
        with fleet.server.client(user) as client:
            assert client.get(f"/v1/runs/{run_id}/events").json()["items"] == stream.events + again.events

    def test_a_long_replay_while_events_come_in(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        for _ in range(12):
            fleet.worker.say(run, *["x"] * 100)
        with fleet.server.socket(user) as connection:
            _hello(connection, after=0)
            for _ in range(10):
                fleet.worker.say(run, *["y"] * 10)
            numbers: list[int] = []
            while not numbers or numbers[-1] < 1302:
                frame = json.loads(connection.recv(timeout=10))
                numbers += [frame["seq"]] if frame["t"] == "event" else []
        assert numbers == list(range(1, 1303))

    def test_without_a_cursor_there_is_a_snapshot_as_of_the_head(self, fleet: Fleet, user: str) -> None:
        ended = fleet.worker.start(user, fleet.server.submit(user))
        fleet.worker.finish(ended)
        live = fleet.worker.start(user, fleet.server.submit(user))
        with fleet.server.stream(user, after=None) as stream:
            assert (stream.welcome["head"], stream.welcome["replay"]) == (5, 0)
            runs = {run["id"]: run["status"] for run in stream.welcome["snapshot"]["runs"]}
            assert runs == {ended.id: "completed", live.id: "running"}
            assert not stream.welcome["snapshot"]["more"]
            fleet.worker.say(live, "next")
            assert stream.until_seq(6).numbers == [6]

    def test_a_snapshot_holds_what_runs_and_leaves_out_large_inputs_and_the_end_of_a_long_queue(
        self, home: Home, worker: FakeWorker, alice: UserClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("api.reading.SNAPSHOT_LIVE", 6)
        monkeypatch.setattr("api.reading.SNAPSHOT_RECENT", 2)
        monkeypatch.setattr("api.reading.MAX_PAGE_BYTES", 2500)
        body = {"agent": "echo", "input": {"text": "x" * 1000}}
        ids = [alice.post("/v1/runs", json=body).json()["id"] for _ in range(9)]
        worker.start(alice.user_id, ids[5])
        with home.services.database.user_session(alice.user_id) as session:
            runs, more = home.app.extensions[EXTENSION].runs.snapshot(session, alice.user_id)
            assert ([run["id"] for run in runs], more) == ([ids[n] for n in (8, 7, 5, 4, 3, 2, 1, 0)], True)
            assert {run["id"] for run in runs if run["input"] is not None} == {ids[5], ids[0], ids[1]}
            for n in (0, 1, 2):
                alice.post(f"/v1/runs/{ids[n]}/cancel")
            runs, more = home.app.extensions[EXTENSION].runs.snapshot(session, alice.user_id)
            assert ([run["id"] for run in runs], more) == ([ids[n] for n in (8, 7, 6, 5, 4, 3)], False)

    def test_a_cursor_above_the_head_is_told(self, fleet: Fleet, user: str) -> None:
        fleet.server.submit(user)
        with fleet.server.stream(user, after=7) as stream:
            assert (stream.welcome["recovered"], stream.welcome["reason"]) == (False, "ahead")
            assert stream.welcome["head"] == 1
            assert len(stream.welcome["snapshot"]["runs"]) == 1
            assert stream.until_live().events == []

    def test_a_cursor_before_the_log_is_told_and_never_replayed_in_part(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        fleet.worker.say(run, *"abc")
        fleet.superuser.execute(
            # The second is of a run that is younger: it stays, and makes no difference.
            sa.text("DELETE FROM lanewise.run_events WHERE user_id = :user AND seq IN (1, 3)"),
            {"user": user},
        )
        fleet.superuser.execute(
            sa.text("UPDATE lanewise.user_streams SET trimmed = 3 WHERE user_id = :user"), {"user": user}
        )
        with fleet.server.stream(user, after=1) as stream:
            assert (stream.welcome["recovered"], stream.welcome["reason"]) == (False, "trimmed")
        with fleet.server.stream(user, after=2) as stream:
            assert (stream.welcome["recovered"], stream.welcome["reason"]) == (False, "trimmed")
            assert stream.until_live().events == []
        with fleet.server.stream(user, after=3) as stream:
            assert stream.welcome["recovered"]
            assert stream.until_live().numbers == [4, 5]

    def test_a_log_that_is_trimmed_while_it_is_replayed_is_not_written_out(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        fleet.worker.say(run, *"abc")
        fleet.superuser.execute(
            sa.text("DELETE FROM lanewise.run_events WHERE user_id = :user AND seq = 3"), {"user": user}
        )
        with fleet.server.stream(user, after=0) as stream:
            assert stream.welcome["recovered"]
            assert stream.closed_with() == 4410
            assert stream.events == []

    def test_someone_new_has_an_empty_stream(self, fleet: Fleet, user: str) -> None:
        with fleet.server.stream(user, after=0) as stream:
            assert stream.until_live().live_at == 0
            fleet.server.submit(user)
            assert stream.until_seq(1).events[0]["type"] == "run_queued"


class TestLoss:
    def test_a_lost_publish_is_repaired_by_the_next(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        with fleet.server.stream(user) as stream:
            stream.until_live()
            fleet.worker.say(run, "lost", "too", publish=False)
            fleet.worker.say(run, "heard")
            stream.until_seq(5)
        assert stream.numbers == [1, 2, 3, 4, 5]

    def test_the_last_publish_before_a_silence_is_found_by_comparing_heads(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        with fleet.server.stream(user) as stream:
            stream.until_live()
            fleet.worker.finish(run, publish=False)
            stream.until_seq(3, timeout_s=6)
        assert stream.events[-1]["type"] == "run_completed"

    def test_doubled_and_old_messages_change_nothing(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        channel = fleet.services.keys.events(user)
        with fleet.server.stream(user) as stream:
            stream.until_live()
            again = (json.dumps(stream.events), json.dumps(stream.events[::-1]))
            for message in (*again, "[]", "{", "null", '[{"seq":9}]'):
                fleet.services.redis.publish(channel, message)
            fleet.worker.say(run, "next")
            stream.until_seq(3)
        assert stream.numbers == [1, 2, 3]

    def test_a_number_above_the_log_is_not_believed(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        with fleet.server.stream(user) as stream:
            stream.until_live()
            forged = {**stream.events[0], "seq": 1000, "data": {"forged": True}}
            fleet.services.redis.publish(fleet.services.keys.events(user), json.dumps([forged]))
            fleet.worker.say(run, "next")
            stream.until_seq(3)
        assert stream.numbers == [1, 2, 3]

    def test_a_killed_subscription_loses_nothing(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        with fleet.server.stream(user) as stream:
            stream.until_live()
            for number in range(5):
                fleet.services.redis.client_kill_filter(_type="pubsub")
                fleet.worker.say(run, f"while it is away {number}")
                stream.until_seq(3 + number, timeout_s=6)
        assert stream.numbers == list(range(1, 8))

    def test_redis_away_and_back_loses_nothing(self, servers: Servers, tmp_path: Path) -> None:
        with ExitStack() as stack:
            redis = stack.enter_context(EmbeddedRedis(tmp_path / "data"))
            fleet = stack.enter_context(make_fleet(servers, tmp_path / "api.log", redis_url=redis.admin_url))
            server, worker = fleet.server, fleet.worker
            run = worker.start("alice", server.submit("alice"))
            stream = stack.enter_context(server.stream("alice")).until_live()
            redis.stop()
            worker.say(run, "away")
            stream.until_seq(3, timeout_s=6)
            second = server.submit("alice")  # accepted all the same
            stream.until_seq(4, timeout_s=6)
            redis.start()
            worker.say(run, "back")
            worker.finish(run)
            stream.until_seq(6, timeout_s=6)
            assert stream.numbers == [1, 2, 3, 4, 5, 6]
            assert stream.events[3]["run_id"] == second


class TestSeveralSockets:
    def test_all_sockets_of_a_user_see_the_same_and_no_other_user_does(self, fleet: Fleet, user: str) -> None:
        with ExitStack() as stack:
            own = [stack.enter_context(fleet.server.stream(user)).until_live() for _ in range(3)]
            other = stack.enter_context(fleet.server.stream(f"{user}-2")).until_live()
            run = fleet.worker.start(user, fleet.server.submit(user))
            fleet.worker.say(run, *"abc")
            assert all(stream.until_seq(5).events == own[0].events for stream in own)
            with pytest.raises(TimeoutError):
                other.receive(timeout_s=0.3)

    def test_the_oldest_socket_makes_room(self, fleet: Fleet, user: str) -> None:
        with ExitStack() as stack:
            first = stack.enter_context(fleet.server.stream(user)).until_live()
            for _ in range(MAX_SOCKETS_PER_USER):
                raw = stack.enter_context(_raw_stream(fleet.server, user))
            assert first.closed_with() == 4409
            fleet.server.submit(user)
            received = b""
            while b"run_queued" not in received:  # a heartbeat may come before it, and what is sent may come in parts
                received += raw.recv(4096)


class TestSignIn:
    def test_a_ticket_signs_in_once(self, fleet: Fleet, user: str) -> None:
        ticket = _ticket(fleet.server, user)
        with fleet.server.socket(None) as connection:
            _hello(connection, ticket=ticket, after=0)
            assert json.loads(connection.recv(timeout=5))["t"] == "welcome"
        with fleet.server.socket(None) as connection:
            _hello(connection, ticket=ticket, after=0)
            assert close_code(connection) == 4401

    def test_a_ticket_of_another_version_is_not_valid(self, fleet: Fleet, user: str) -> None:
        signer = Signer(fleet.settings.secrets, "ticket", fleet.settings.deployment)
        until = time.time() + 30
        older = signer.sign({"id": "1", "user_id": user, "scopes": ["runs"], "token_ends": until, "until": until})
        with fleet.server.socket(None) as connection:
            _hello(connection, ticket=older, after=0)
            assert close_code(connection) == 4401

    @pytest.mark.parametrize("ticket", [None, "", "x", "a.b.c", "ü" * 2000])
    def test_without_a_good_ticket_or_token_nothing_is_shown(self, fleet: Fleet, ticket: str | None) -> None:
        with fleet.server.socket(None) as connection:
            _hello(connection, ticket=ticket, after=0)
            assert close_code(connection) == 4401

    @pytest.mark.parametrize("header", ["Bearer x", "Basic abc", "Bearer"])
    def test_a_bad_token_is_refused(self, fleet: Fleet, header: str) -> None:
        with fleet.server.socket(None, additional_headers={"Authorization": header}) as connection:
            assert close_code(connection) == 4401

    def test_a_token_that_has_just_expired_gets_no_ticket(self, fleet: Fleet, user: str) -> None:
        """REST forgives clocks that differ by some seconds, but a stream would close at once, again and again."""
        with fleet.server.client(headers={"Authorization": f"Bearer {fleet.server.token(user, ttl_s=-3)}"}) as client:
            assert client.get("/v1/me").status_code == 200
            answer = client.post("/v1/tickets")
        assert (answer.status_code, answer.json()["detail"]) == (401, "the token has expired")

    def test_a_ticket_of_another_user_does_not_help_a_token(self, fleet: Fleet, user: str) -> None:
        with fleet.server.socket(user) as connection:
            _hello(connection, ticket=_ticket(fleet.server, f"{user}-2"), after=0)
            assert close_code(connection) == 4401

    def test_a_connection_ends_with_its_token_unless_prolonged(self, fleet: Fleet, user: str) -> None:
        header = {"Authorization": f"Bearer {fleet.server.token(user, ttl_s=5)}"}
        with ExitStack() as stack:
            short, long = (
                Stream(stack.enter_context(fleet.server.socket(None, additional_headers=header))) for _ in range(2)
            )
            long.send(t="auth", ref="a", ticket=_ticket(fleet.server, user))
            assert long.answer("a")["t"] == "ack"
            assert short.closed_with() == 4401
            fleet.server.submit(user)
            assert long.until_seq(1).numbers == [1]
            long.send(t="auth", ref="b", ticket=_ticket(fleet.server, f"{user}-2"))
            assert long.answer("b")["problem"]["code"] == "unauthorized"

    def test_the_scope_is_needed(self, fleet: Fleet, user: str) -> None:
        header = {"Authorization": f"Bearer {fleet.server.token(user, scopes=('other',))}"}
        with fleet.server.socket(None, additional_headers=header) as connection:
            _hello(connection, after=0)
            assert close_code(connection) == 4403

    @pytest.mark.parametrize(
        ("origin", "proto", "welcome"),
        [
            ("https://evil.example", "http", False),
            ("null", "http", False),
            ("http://{host}.evil.example", "http", False),
            ("http://{host}/", "http", False),
            ("ws://{host}", "http", False),
            ("http://user@{host}", "http", False),
            ("http://{host}", "http", True),
            ("https://{host}", "http", True),  # behind a proxy that ends TLS and does not say so
            ("https://{host}", "https", True),
            ("http://{host}", "https", False),
        ],
    )
    def test_pages_of_other_sites_are_refused(
        self, fleet: Fleet, user: str, origin: str, proto: str, *, welcome: bool
    ) -> None:
        origin = origin.format(host=fleet.server.url.removeprefix("http://"))
        headers = {"X-Forwarded-Proto": proto}
        with fleet.server.socket(user, origin=origin, additional_headers=headers) as connection:
            if welcome:
                assert Stream(connection).welcome["head"] == 0
            else:
                assert close_code(connection) == 4403


class TestMisuse:
    def test_who_says_nothing_is_sent_away(self, fleet: Fleet, user: str) -> None:
        with fleet.server.socket(user) as connection:
            assert close_code(connection) == 4428

    @pytest.mark.parametrize(
        "message",
        [
            "", "{", "[]", "null", "NaN", '"hello"', "[" * 5000, b"\x00\xff", '{"t":"pong"}', '{"t":"hello"}',
            '{"t":"hello","v":2,"after":0}', '{"t":"hello","v":1,"after":-1}', '{"t":"hello","v":1,"after":"0"}',
            '{"t":"hello","v":1,"after":1.5}', '{"t":"hello","v":1,"after":true}', '{"t":"hello","v":1,"ticket":7}',
            '{"t":"hello","v":1,"after":1' + "0" * 5000 + "}",
        ],
    )  # fmt: skip
    def test_what_is_no_hello_ends_the_connection(self, fleet: Fleet, user: str, message: str | bytes) -> None:
        with fleet.server.socket(user) as connection:
            connection.send(message)
            assert close_code(connection) == 4400

    def test_a_body_that_can_just_be_read_is_no_error_of_ours(self, fleet: Fleet, user: str) -> None:
        """What is a little deeper cannot be read at all, and ends the connection."""
        answers = []
        with fleet.server.stream(user) as stream, contextlib.suppress(ConnectionClosed):
            stream.until_live()
            for depth in range(900, 1000):
                metadata = '{"a":' * depth + "0" + "}" * depth
                frame = f'"t":"run.submit","agent":"echo","input":{{"text":"x"}},"metadata":{metadata}'
                stream.socket.send(f'{{{frame},"ref":"{depth}","idempotency_key":"k"}}')
                answers.append(stream.answer(str(depth))["problem"]["code"])
        assert set(answers) == {"invalid"}
        assert 1 < len(answers) < 100
        assert stream.socket.close_code == 4400

    def test_a_cursor_beyond_all_numbers_is_just_ahead(self, fleet: Fleet, user: str) -> None:
        with fleet.server.stream(user, after=10**30) as stream:
            assert stream.welcome["reason"] == "ahead"

    @pytest.mark.parametrize("message", ["{", '{"t":"nope"}', '{"t":7}', '{"t":"pong","ref":7}', b"binary"])
    def test_a_bad_frame_ends_a_live_connection(self, fleet: Fleet, user: str, message: str | bytes) -> None:
        with fleet.server.stream(user) as stream:
            stream.until_live()
            stream.socket.send(message)
            assert stream.closed_with() == 4400

    def test_a_message_above_the_limit(self, fleet: Fleet, user: str) -> None:
        with fleet.server.stream(user) as stream:
            stream.until_live()
            stream.socket.send("x" * (MAX_MESSAGE_BYTES + 1))
            assert stream.closed_with() == 1009

    def test_endless_fragments(self, fleet: Fleet, user: str) -> None:
        with fleet.server.stream(user) as stream:
            stream.until_live()

            def fragments() -> Iterator[str]:
                while stream.socket.close_code is None:
                    yield "x" * 1000

            with contextlib.suppress(ConnectionClosed):
                stream.socket.send(fragments())
            assert stream.closed_with() in {1009, 4429}

    def test_a_flood(self, fleet: Fleet, user: str) -> None:
        with fleet.server.stream(user) as stream:
            stream.until_live()
            with contextlib.suppress(ConnectionClosed):
                for _ in range(20_000):
                    stream.socket.send('{"t":"pong"}')
            assert stream.closed_with() == 4429

    def test_a_handshake_that_is_none(self, fleet: Fleet) -> None:
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        for headers in ({}, upgrade):
            answer = httpx.get(f"{fleet.server.url}/v1/stream", headers=headers)
            assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/problem+json")


class TestSlowReaders:
    def test_a_slow_reader_gets_whole_frames(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        host, port = fleet.server.url.removeprefix("http://").split(":")
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        narrow.connect((host, int(port)))
        with fleet.server.socket(user, sock=narrow) as connection:
            stream = Stream(connection).until_live()
            text = "x" * 50_000
            for _ in range(8):
                fleet.worker.say(run, *[text] * 10)  # more than the network's buffers hold
            while stream.events[-1]["seq"] < 82:
                stream.receive()
                time.sleep(0.005)
        assert stream.numbers == list(range(1, 83))
        assert all(event["data"]["text"] == text for event in stream.events[2:])

    def test_who_does_not_read_is_sent_away_and_can_resume(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        with _raw_stream(fleet.server, user) as raw:
            for _ in range(30):
                fleet.worker.say(run, *["x" * 60_000] * 10)
            received = _read_all(raw)
        assert received[-60:].find((4408).to_bytes(2)) >= 0
        with fleet.server.stream(user, after=100) as stream:
            assert stream.until_seq(302).numbers == list(range(101, 303))


class TestRequests:
    def test_submit_and_cancel_as_over_rest(self, fleet: Fleet, user: str) -> None:
        with fleet.server.stream(user) as stream, fleet.server.client(user) as client:
            stream.send(t="run.submit", ref="1", agent="echo", input={"text": "hello"}, metadata={"m": 1})
            run = stream.answer("1")["run"]
            assert (run["status"], run["input"], run["metadata"]) == ("queued", {"text": "hello"}, {"m": 1})
            assert client.get(f"/v1/runs/{run['id']}").json()["id"] == run["id"]
            stream.send(t="run.cancel", ref="2", run_id=run["id"])
            assert stream.answer("2")["run"]["status"] == "cancelled"
            assert [event["type"] for event in stream.until_seq(2).events] == ["run_queued", "run_cancelled"]

    def test_a_key_is_one_run_over_both_ways(self, fleet: Fleet, user: str) -> None:
        body = {"agent": "echo", "input": {"text": "hello"}}
        with fleet.server.stream(user) as stream, fleet.server.client(user) as client:
            stream.send(t="run.submit", ref="1", idempotency_key="k", **body, time_limit_s=5)
            run = stream.answer("1")["run"]
            again = client.post("/v1/runs", json=body | {"time_limit_s": 5.0}, headers={"Idempotency-Key": "k"})
            assert (again.status_code, again.json()["id"]) == (202, run["id"])
            stream.send(t="run.submit", ref="2", idempotency_key="k", agent="echo", input={"text": "other"})
            assert stream.answer("2")["problem"]["code"] == "idempotency_key_reused"

    @pytest.mark.parametrize(
        ("frame", "code"),
        [
            ({"t": "run.submit", "agent": "nobody", "input": {}}, "unknown_agent"),
            ({"t": "run.submit", "agent": "echo", "input": {}}, "invalid"),
            ({"t": "run.submit", "agent": "echo", "input": {"text": "x"}, "user_id": "mallory"}, "invalid"),
            ({"t": "run.submit", "agent": "echo", "input": {"text": "\0"}}, "invalid"),
            ({"t": "run.submit", "agent": "echo", "input": {"text": "x" * 300_000}}, "too_large"),
            ({"t": "run.submit", "agent": "echo", "input": {"text": "x"}, "thread_id": "0" * 32}, "not_found"),
            ({"t": "run.submit", "agent": "echo", "input": {"text": "x"}, "idempotency_key": 7}, "invalid"),
            ({"t": "run.submit"}, "invalid"),
            ({"t": "run.cancel", "run_id": "0" * 32}, "not_found"),
            ({"t": "run.cancel", "run_id": "\0"}, "not_found"),
            ({"t": "run.cancel"}, "invalid"),
            ({"t": "auth"}, "unauthorized"),
        ],
    )
    def test_what_is_refused_is_answered_and_the_connection_stays(
        self, fleet: Fleet, user: str, frame: dict[str, Any], code: str
    ) -> None:
        with fleet.server.stream(user) as stream:
            stream.send(**frame, ref="x")
            answer = stream.answer("x")
            assert (answer["t"], answer["problem"]["code"]) == ("error", code), answer
            fleet.server.submit(user)
            stream.until_seq(1)

    def test_a_run_of_another_user_cannot_be_cancelled(self, fleet: Fleet, user: str) -> None:
        run_id = fleet.server.submit(f"{user}-2")
        with fleet.server.stream(user) as stream:
            stream.send(t="run.cancel", ref="x", run_id=run_id)
            assert stream.answer("x")["problem"]["code"] == "not_found"


class TestWait:
    def test_it_ends_with_the_run(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        with fleet.server.client(user) as client:
            timer = threading.Timer(0.3, fleet.worker.finish, [run])
            timer.start()
            began = time.monotonic()
            view = client.get(f"/v1/runs/{run.id}/wait?timeout_s=20").json()
            timer.join()
        assert view["status"] == "completed"
        assert 0.2 < time.monotonic() - began < 4  # before it looks again by itself

    def test_it_ends_with_the_run_though_nothing_is_published(self, fleet: Fleet, user: str) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        with fleet.server.client(user) as client:
            timer = threading.Timer(0.3, fleet.worker.finish, [run], {"publish": False})
            timer.start()
            view = client.get(f"/v1/runs/{run.id}/wait?timeout_s=20").json()
            timer.join()
        assert view["status"] == "completed"

    def test_it_ends_after_its_time(self, fleet: Fleet, user: str) -> None:
        run_id = fleet.server.submit(user)
        with fleet.server.client(user) as client:
            began = time.monotonic()
            assert client.get(f"/v1/runs/{run_id}/wait?timeout_s=0.4").json()["status"] == "queued"
            assert 0.4 <= time.monotonic() - began < 4


class TestHeartbeat:
    def test_a_ping_says_how_far_the_stream_is(self, early: list[dict[str, Any]]) -> None:
        assert wait_until(lambda: any(frame["t"] == "ping" for frame in early), PING_S + 5)
        assert [frame["seq"] for frame in early if frame["t"] == "event"] == [1]
        assert {frame["seq"] for frame in early if frame["t"] == "ping"} == {1}


class TestDrain:
    def test_everybody_is_sent_home(self, fleet_apart: Fleet) -> None:
        server = fleet_apart.server
        run_id = server.submit("alice")
        accept = {"Accept": "text/event-stream"}
        with (
            server.stream("alice") as stream,
            server.client("alice") as client,
            client.stream("GET", f"/v1/runs/{run_id}/events", headers=accept) as events,
        ):
            stream.until_live()
            answers: list[httpx.Response] = []
            waiting = threading.Thread(
                target=lambda: answers.append(client.get(f"/v1/runs/{run_id}/wait?timeout_s=30"))
            )
            waiting.start()
            while metric(server, "lanewise_waiting_requests") == 0:
                time.sleep(0.01)
            began = time.monotonic()
            server.process.terminate()
            bye = stream.receive()
            assert bye["t"] == "bye"
            assert 0 <= bye["retry_ms"] <= 10_000
            assert stream.closed_with() == 1012
            assert events.read().count(b"data:") == 1
            waiting.join(5)
            assert answers[0].json()["status"] == "queued"
            assert server.process.wait(8) == 0
            assert time.monotonic() - began < 4  # though a connection was idle


def _ticket(server: Server, user_id: str) -> str:
    with server.client(user_id) as client:
        answer = client.post("/v1/tickets")
        assert answer.status_code == 201, answer.text
        assert answer.json()["expires_in_s"] == 30
        return str(answer.json()["ticket"])


@contextmanager
def _raw_stream(server: Server, user_id: str) -> Iterator[socket.socket]:
    """A WebSocket client that reads nothing by itself; it has seen the `live` frame."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        raw.sendall(
            f"GET /v1/stream HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {b64encode(os.urandom(16)).decode()}\r\n"
            f"Authorization: Bearer {server.token(user_id)}\r\n\r\n".encode()
        )
        received = b""
        while b"\r\n\r\n" not in received:
            received += raw.recv(1)
        assert received.startswith(b"HTTP/1.1 101"), received
        body = b'{"t":"hello","v":1,"after":null}'
        raw.sendall(bytes((0x81, 0x80 | len(body), 0, 0, 0, 0)) + body)  # masked with zeros
        while b'"live"' not in received:
            received += raw.recv(4096)
        yield raw


def _read_all(raw: socket.socket) -> bytes:
    received = b""
    while data := raw.recv(1 << 16):
        received += data
    return received
