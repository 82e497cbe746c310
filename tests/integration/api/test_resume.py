"""Clients that come back together: one reading of the log serves a user's, and each still sees all, once, in order."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from api.gateway.channel import Batch, Channel
from api.gateway.gate import PATIENCE_S, Gate
from api.gateway.replay import Replay
from api.gateway.ring import MAX_FRAMES
from api.state import EXTENSION
from lanewise.process import wait_until
from shared.errors import UnavailableError
from tests.api_process import FakeWorker, Server, Stream, metric
from tests.integration.api.conftest import Fleet, Home, UserClient
from tests.integration.api.test_sse import follow
from tests.services import in_parallel

SOCKETS = 20
LANEWISE_JS = Path(__file__).parents[3] / "api" / "console" / "lanewise.js"


class Ear:
    """Listens to nothing."""

    def offer(self, deliveries: Batch) -> None:
        pass

    def lose(self) -> None:
        pass


def replays(server: Server) -> dict[str, int]:
    """Returns how many clients were caught up, by where from."""
    found = {"memory": 0, "log": 0}
    for line in httpx.get(f"{server.url}/metrics").text.splitlines():
        for source in found:
            if line.startswith(f'lanewise_replays_total{{source="{source}"}}'):
                found[source] = int(float(line.split()[-1]))
    return found


def resume(stack: ExitStack, server: Server, user: str, afters: Sequence[int]) -> list[Stream]:
    """Opens a socket for each position, all at once."""
    sockets = [stack.enter_context(server.socket(user)) for _ in afters]

    def hello(number: int) -> Stream:
        return Stream(sockets[number], afters[number]).until_live()

    return in_parallel(len(afters), hello)


def test_the_log_is_read_once_for_all_sockets_of_a_user(fleet: Fleet, user: str) -> None:
    run = fleet.worker.start(user, fleet.server.submit(user))
    fleet.worker.say(run, *(str(number) for number in range(98)))
    before = replays(fleet.server)
    with ExitStack() as stack:
        streams = resume(stack, fleet.server, user, [10] * SOCKETS)  # nobody has been listening for this user
        after = replays(fleet.server)
        assert (after["log"] - before["log"], after["memory"] - before["memory"]) == (1, SOCKETS - 1)
        assert {stream.live_at for stream in streams} == {100}
        fleet.worker.say(run, "live")
        for stream in streams:
            assert stream.until_seq(101).numbers == list(range(11, 102))
            assert stream.welcome["recovered"]
            assert (stream.welcome["head"], stream.welcome["replay"]) == (100, 90)
        later = resume(stack, fleet.server, user, [101, 100, 50, 10])
        assert replays(fleet.server)["log"] == after["log"]
        with fleet.server.client(user) as client:
            stored = client.get(f"/v1/runs/{run.id}/events?limit=200").json()["items"]
        for stream, begin in zip(later, (101, 100, 50, 10), strict=True):
            assert stream.events == stored[begin:]
        (earlier,) = resume(stack, fleet.server, user, [3])  # before what is at hand: only that is read
        assert earlier.events == stored[3:]


def test_more_than_is_kept_comes_from_the_log_alone(fleet: Fleet, user: str) -> None:
    run = fleet.worker.start(user, fleet.server.submit(user))
    with ExitStack() as stack:
        (first,) = resume(stack, fleet.server, user, [0])
        for _ in range(3):
            fleet.worker.say(run, *["x"] * (MAX_FRAMES // 2))
        head = 2 + 3 * (MAX_FRAMES // 2)
        assert first.until_seq(head).numbers == list(range(1, head + 1))
        edge = head - MAX_FRAMES
        for stream, begin in zip(
            resume(stack, fleet.server, user, [edge, edge - 1, 0]), (edge, edge - 1, 0), strict=True
        ):
            assert stream.numbers == list(range(begin + 1, head + 1))


def test_large_events_are_kept_by_their_bytes(fleet: Fleet, user: str) -> None:
    run = fleet.worker.start(user, fleet.server.submit(user))
    with ExitStack() as stack:
        (first,) = resume(stack, fleet.server, user, [2])
        fleet.worker.say(run, *["x" * 50_000] * 8)
        first.until_seq(10)
        before = replays(fleet.server)
        resume(stack, fleet.server, user, [7])  # three fit
        assert replays(fleet.server) == {"memory": before["memory"] + 1, "log": before["log"]}
        (second,) = resume(stack, fleet.server, user, [2])
        assert replays(fleet.server) == {"memory": before["memory"] + 1, "log": before["log"] + 1}
        assert second.events == first.events


def test_large_events_come_to_an_end_by_every_way(fleet: Fleet, user: str) -> None:
    run = fleet.worker.start(user, fleet.server.submit(user))
    with fleet.server.stream(user) as stream, follow(fleet.server, user, run.id) as events:
        stream.until_seq(2)
        events.take(2)
        fleet.worker.say(run, *["x" * 60_000] * 40, publish=False)  # more than two pages: the log is read for it
        assert stream.until_seq(42).numbers == list(range(1, 43))
        events.take(40)
    with fleet.server.stream(user) as late, follow(fleet.server, user, run.id) as again:
        assert late.until_live().numbers == list(range(1, 43))
        again.take(42)
    assert events.ids == again.ids == list(range(1, 43))
    with fleet.server.client(user) as client:
        pages: list[list[int]] = []
        answer: dict[str, Any] = {"next_cursor": "0"}
        while answer["next_cursor"] is not None:
            answer = client.get(f"/v1/runs/{run.id}/events?limit=200&cursor={answer['next_cursor']}").json()
            pages.append([event["run_seq"] for event in answer["items"]])
    assert len(pages) == 3
    assert [number for page in pages for number in page] == list(range(1, 43))


def test_a_place_that_is_not_to_be_had_is_told_though_later_ones_are_at_hand(fleet: Fleet, user: str) -> None:
    run = fleet.worker.start(user, fleet.server.submit(user))
    fleet.worker.say(run, *"abcdef")
    fleet.superuser.execute(sa.text("DELETE FROM lanewise.run_events WHERE user_id = :u AND seq <= 4"), {"u": user})
    fleet.superuser.execute(sa.text("UPDATE lanewise.user_streams SET trimmed = 4 WHERE user_id = :u"), {"u": user})
    with ExitStack() as stack:
        good, trimmed, ahead = resume(stack, fleet.server, user, [4, 3, 9])
        assert (good.welcome["recovered"], good.numbers) == (True, [5, 6, 7, 8])
        assert (trimmed.welcome["recovered"], trimmed.welcome["reason"], trimmed.events) == (False, "trimmed", [])
        assert (ahead.welcome["recovered"], ahead.welcome["reason"], ahead.events) == (False, "ahead", [])
        fleet.worker.say(run, "g")
        for stream in (good, trimmed, ahead):
            assert stream.until_seq(9).numbers[-1] == 9


def test_all_waiting_up_to_the_welcome_has_one_bound(
    home: Home, worker: FakeWorker, alice: UserClient, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = worker.start(alice.user_id, alice.post("/v1/runs", json=body).json()["id"])
    channel, gate, state = Channel(run.user_id, "channel"), Gate(1), home.app.extensions[EXTENSION]
    channel.place(2)
    monkeypatch.setattr("api.gateway.replay.PATIENCE_S", -1.0)  # it has waited elsewhere
    late = Replay(home.services.database, run.user_id, state.runs, gate, state.metrics)
    began = time.monotonic()
    with gate.enter(), pytest.raises(UnavailableError):
        late.open(0)
    with gate.enter(), pytest.raises(UnavailableError):
        late.recall(channel, Ear(), 0)
    with channel.recalling.enter(), pytest.raises(UnavailableError):
        late.recall(channel, Ear(), 0)
    assert time.monotonic() - began < PATIENCE_S
    (client_waits_s,) = re.findall(r"^const WELCOME_S = (\d+);", LANEWISE_JS.read_text(), re.MULTILINE)
    assert int(client_waits_s) > PATIENCE_S
    frames = late.recall(channel, Ear(), 0)  # who need not wait is served
    assert frames is not None
    assert len(frames) == 2


def test_postgres_back_at_a_backup_ends_streams_and_is_told(fleet: Fleet, user: str) -> None:
    run = fleet.worker.start(user, fleet.server.submit(user))
    with fleet.server.stream(user) as stream:
        fleet.worker.say(run, *"abcdef")
        stream.until_seq(8)
        for statement in (
            "DELETE FROM lanewise.run_events WHERE user_id = :u AND seq > 5",
            "UPDATE lanewise.user_streams SET head = 5 WHERE user_id = :u",
            "UPDATE lanewise.runs SET last_run_seq = 5 WHERE user_id = :u",
        ):
            fleet.superuser.execute(sa.text(statement), {"u": user})
        assert stream.closed_with() == 4410
    with fleet.server.stream(user, after=8) as again:
        assert (again.welcome["recovered"], again.welcome["reason"], again.welcome["head"]) == (False, "ahead", 5)
        fleet.worker.say(run, "new")
        assert again.until_seq(6).events[0]["data"] == {"text": "new"}


def test_a_storm_of_many_users_leaves_rest_responsive(fleet: Fleet, user: str) -> None:
    users = [f"{user}-{number}" for number in range(12)]
    in_parallel(4, lambda part: [_talk(fleet, name) for name in users[part::4]])
    with ExitStack() as stack, fleet.server.client(user) as client, ThreadPoolExecutor(60) as pool:
        sockets = [(name, stack.enter_context(fleet.server.socket(name))) for name in users for _ in range(5)]
        before, channels = replays(fleet.server), metric(fleet.server, "lanewise_channels ")
        with _held(fleet):
            streams = [pool.submit(_follow, fleet.server, *each) for each in sockets]
            assert wait_until(lambda: metric(fleet.server, "lanewise_channels ") >= channels + len(users), 10)
            assert wait_until(lambda: _readers(fleet) >= 8, 10)
            assert [client.get("/v1/runs").status_code for _ in range(5)] == [200] * 5
            assert _readers(fleet) == 8
        assert [stream.result(60) for stream in streams] == [list(range(1, 53))] * len(sockets)
        after = replays(fleet.server)
    assert after["log"] - before["log"] + after["memory"] - before["memory"] == len(sockets)


def _follow(server: Server, name: str, socket: ClientConnection) -> list[int]:
    """Returns the numbers of the events up to now. Whoever waited too long is sent away, and comes back."""
    try:
        return Stream(socket, 0).until_live().numbers
    except ConnectionClosed as error:
        if error.rcvd is None or error.rcvd.code != 1013:
            raise
        with server.stream(name) as again:
            return again.until_live().numbers


@contextmanager
def _held(fleet: Fleet) -> Iterator[None]:
    """Holds up whoever reads the head of a stream until the end of the block; a lock would be given up after 2 s."""
    for statement in (
        """CREATE FUNCTION lanewise.pass() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
            WHILE NOT pg_try_advisory_xact_lock_shared(1) LOOP PERFORM pg_sleep(0.02); END LOOP;
            RETURN true; END $$""",
        "SELECT pg_advisory_lock(1)",
        "CREATE POLICY held ON lanewise.user_streams AS RESTRICTIVE FOR SELECT USING (lanewise.pass())",
    ):
        fleet.superuser.execute(sa.text(statement))
    try:
        yield
    finally:
        for statement in (
            "SELECT pg_advisory_unlock(1)",
            "DROP POLICY held ON lanewise.user_streams",
            "DROP FUNCTION lanewise.pass()",
        ):
            fleet.superuser.execute(sa.text(statement))


def _readers(fleet: Fleet) -> int:
    """Returns how many are reading the head of a stream, but for the sweep."""
    statement = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'
        AND query LIKE '%user_streams%' AND query NOT LIKE '%ANY%' AND pid <> pg_backend_pid()"""
    return int(fleet.superuser.scalar(sa.text(statement)) or 0)


def _talk(fleet: Fleet, user: str) -> str:
    run = fleet.worker.start(user, fleet.server.submit(user))
    fleet.worker.say(run, *["x"] * 50)
    return run.id
