"""The one way of a worker into the event log: ordered, bounded, and patient."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from lanewise.process import wait_until
from shared import runs
from shared.event_types import EventType
from shared.events import Attempt, Event, StoredEvent, read_run, read_stream
from shared.models import Run
from shared.outcomes import Completed
from shared.services import Services
from tests.nodes import Node
from tests.services import OpenServices, Servers, start_run, submit_run
from tests.steps import LOST, finish
from worker import writer as writer_module
from worker.live import LiveRun
from worker.writer import EventWriter

PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Of this file's own: they are stopped here, and others keep connections to theirs."""
    with Servers.start() as running:
        yield running


@pytest.fixture
def refused() -> list[Attempt]:
    return []


@pytest.fixture
def writer(services: Services, refused: list[Attempt]) -> Iterator[EventWriter]:
    """A writer that has not been started yet."""
    writer = EventWriter(services, refused.append)
    yield writer
    writer.stop(PATIENCE_S)


class Held(NamedTuple):
    """Says when the writer has begun with its first batch, and when it may go on."""

    entered: threading.Event
    release: threading.Event


@pytest.fixture
def held(writer: EventWriter, monkeypatch: pytest.MonkeyPatch) -> Held:
    held = Held(threading.Event(), threading.Event())
    write = writer._write

    def slowly(batch: list[Event]) -> list[StoredEvent]:
        held.entered.set()
        assert held.release.wait(PATIENCE_S)
        return write(batch)

    monkeypatch.setattr(writer, "_write", slowly)
    return held


def attempt(run: Run) -> Attempt:
    return Attempt(run.id, 1)


def event(run: Run, number: int, attempt: int = 1) -> Event:
    return Event(run.user_id, run.id, attempt, EventType.AGENT_THINKING, run.agent, {"text": str(number)})


def written(services: Services, run: Run) -> list[int]:
    """Returns the numbers in the texts of the run's events in the log, in its order."""
    log: list[dict[str, Any]] = []
    with services.database.user_session(run.user_id) as session:
        while page := read_run(session, run.user_id, run.id, len(log), 100_000):
            log += page
    assert [item["run_seq"] for item in log] == list(range(1, len(log) + 1))
    return [int(number) for item in log for number in item["data"].get("text", "").split(":") if number]


def stream_is_gapless(services: Services, user_id: str) -> bool:
    with services.database.user_session(user_id) as session:
        log = read_stream(session, user_id, 0, 100_000)
    return [item["seq"] for item in log] == list(range(1, len(log) + 1))


def test_many_runs_write_at_once_and_each_keeps_its_order(services: Services, writer: EventWriter) -> None:
    started = [start_run(services, submit_run(services, f"user-{n % 3}")) for n in range(6)]
    writer.start()

    def emit(run: Run) -> None:
        for number in range(300):
            assert writer.put(event(run, number), PATIENCE_S)

    threads = [threading.Thread(target=emit, args=(run,)) for run in started]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    writer.stop(PATIENCE_S)
    for run in started:
        assert written(services, run) == list(range(300))
    assert all(stream_is_gapless(services, f"user-{n}") for n in range(3))


def test_what_arrives_while_one_batch_is_written_forms_the_next(
    services: Services, writer: EventWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAX_QUEUED_PER_RUN", 1200)
    run = start_run(services, submit_run(services))
    for number in range(1200):
        assert writer.put(event(run, number), 0)
    batches: list[int] = []
    write = writer._write
    writer._write = lambda batch: (batches.append(len(batch)), write(batch))[1]  # type: ignore[method-assign,func-returns-value]
    writer.start()
    writer.stop(PATIENCE_S)
    assert written(services, run) == list(range(1200))
    assert batches == [500, 500, 200]


def test_a_batch_is_bounded_by_the_size_of_its_events_too(services: Services, writer: EventWriter) -> None:
    run = start_run(services, submit_run(services))
    for number in range(40):
        loud = Event(run.user_id, run.id, 1, EventType.AGENT_THINKING, run.agent, {"text": f"{number}:" + ":" * 60_000})
        assert writer.put(loud, 0)
    batches: list[int] = []
    write = writer._write
    writer._write = lambda batch: (batches.append(len(batch)), write(batch))[1]  # type: ignore[method-assign,func-returns-value]
    writer.start()
    writer.stop(PATIENCE_S)
    assert written(services, run) == list(range(40))
    assert batches == [17, 17, 6]  # of 1 MiB


def test_the_queue_is_bounded_and_says_when_it_is_full(
    services: Services, writer: EventWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAX_QUEUED_PER_RUN", 10)
    run = start_run(services, submit_run(services))
    assert all(writer.put(event(run, number), 0) for number in range(10))
    assert not writer.put(event(run, 10), 0.01)
    assert len(writer._queue) == 10
    waiting = threading.Thread(target=writer.put, args=(event(run, 10), PATIENCE_S))
    waiting.start()
    writer.start()  # makes room
    waiting.join(PATIENCE_S)
    writer.stop(PATIENCE_S)
    assert written(services, run) == list(range(11))


def test_a_run_that_talks_too_much_waits_alone(
    services: Services, writer: EventWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAX_QUEUED_PER_RUN", 10)
    loud, quiet = (start_run(services, submit_run(services)) for _ in range(2))
    assert all(writer.put(event(loud, number), 0) for number in range(10))
    assert not writer.put(event(loud, 10), 0)
    assert writer.put(event(quiet, 0), 0)
    writer.take(attempt(loud), lambda: False)
    assert writer.put(event(loud, 10), 0)


def test_what_is_taken_for_the_end_of_a_run_is_not_written_twice(services: Services, writer: EventWriter) -> None:
    mine, other = (start_run(services, submit_run(services)) for _ in range(2))
    for number in range(5):
        writer.put(event(mine, number), 0)
        writer.put(event(other, number), 0)
    taken = writer.take(attempt(mine), lambda: False)
    assert [item.data["text"] for item in taken] == list("01234")
    writer.start()
    writer.stop(PATIENCE_S)
    assert written(services, mine) == []
    assert written(services, other) == list(range(5))


def test_taking_waits_for_what_is_being_written(services: Services, writer: EventWriter, held: Held) -> None:
    run = start_run(services, submit_run(services))
    entered, release = held
    writer.start()
    writer.put(event(run, 0), 0)
    assert entered.wait(PATIENCE_S)
    writer.put(event(run, 1), 0)
    taken: list[Event] = []
    taking = threading.Thread(target=lambda: taken.extend(writer.take(attempt(run), lambda: False)))
    taking.start()
    taking.join(0.1)
    assert taking.is_alive()
    release.set()
    taking.join(PATIENCE_S)
    # The second event was taken, or it was being written already and is in the log now.
    assert [*written(services, run), *(int(item.data["text"]) for item in taken)] == [0, 1]


@pytest.mark.parametrize("first", ["the end", "the batch"])
def test_an_end_that_waits_no_longer_leaves_no_hole_and_doubles_nothing(
    services: Services, writer: EventWriter, held: Held, first: str
) -> None:
    run = start_run(services, submit_run(services))
    entered, release = held
    writer.start()
    writer.put(replace(event(run, 1), ordinal=1), 0)
    assert entered.wait(PATIENCE_S)
    writer.put(replace(event(run, 2), ordinal=2), 0)
    pending = writer.take(attempt(run), lambda: True)
    if first == "the batch":
        release.set()
        assert wait_until(lambda: written(services, run) == [1], PATIENCE_S)
    assert runs.end(services.database.once(run.user_id), run, Completed({}), "worker", pending)
    release.set()
    writer.stop(PATIENCE_S)
    assert written(services, run) == [1, 2]


def test_taking_leaves_what_could_be_doubled(services: Services, writer: EventWriter) -> None:
    run = start_run(services, submit_run(services))
    writer._writing = [event(run, 0)]  # without an ordinal
    assert writer.take(attempt(run), lambda: True) == []
    writer._writing = []


def test_a_superseded_run_is_reported_and_its_neighbours_in_the_batch_are_written(
    services: Services, writer: EventWriter, refused: list[Attempt], superuser: sa.Connection
) -> None:
    mine, superseded, ended = (start_run(services, submit_run(services)) for _ in range(3))
    superuser.execute(sa.text("UPDATE lanewise.runs SET attempt = 2 WHERE id = :id"), {"id": superseded.id})
    superuser.execute(
        sa.text("UPDATE lanewise.runs SET status = 'completed', finished_at = now() WHERE id = :id"), {"id": ended.id}
    )
    for number in range(3):
        for run in (mine, superseded, ended):
            writer.put(event(run, number), 0)
    writer.start()
    writer.stop(PATIENCE_S)
    assert sorted(refused) == sorted(map(attempt, [superseded, ended]))
    assert written(services, mine) == [0, 1, 2]
    assert written(services, superseded) == written(services, ended) == []


def test_the_late_events_of_an_attempt_touch_nothing_of_the_next_one(node: Node) -> None:
    earlier = start_run(node.services, node.submit("echo"), node.id)
    finish(node.services.database, earlier, LOST)
    now = start_run(node.services, node.now(earlier), node.id)
    live = LiveRun(now)
    node.parts.live[now.id] = live
    try:
        node.parts.writer.put(event(now, 0, attempt=1), 0)
        node.parts.writer.put(event(now, 1, attempt=2), 0)
        assert wait_until(lambda: written(node.services, now) == [1], PATIENCE_S)
        node.parts.writer.take(attempt(now), lambda: False)  # so that all is reported
        assert not live.superseded
        node.parts._refused(Attempt(now.id, 2))
        assert live.superseded
    finally:
        del node.parts.live[now.id]
        live.close()


def test_an_attempt_takes_nothing_of_the_next_one(services: Services, writer: EventWriter) -> None:
    run = submit_run(services)
    for number in (1, 2, 1, 2):
        writer.put(event(run, number, attempt=number), 0)
    assert [item.attempt for item in writer.take(Attempt(run.id, 1), lambda: False)] == [1, 1]
    assert [item.attempt for item in writer.take(Attempt(run.id, 2), lambda: False)] == [2, 2]


def test_the_end_of_a_run_does_not_wait_for_a_redis_that_hangs(services: Services, open_services: OpenServices) -> None:
    run = start_run(services, submit_run(services))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = open_services(redis_url=SecretStr(f"redis://127.0.0.1:{silent.getsockname()[1]}/0"))
        writer = EventWriter(hanging, lambda _: None)
        writer.start()
        writer.put(event(run, 0), 0)
        assert wait_until(lambda: written(services, run) == [0], PATIENCE_S)
        before = time.monotonic()
        writer.take(attempt(run), lambda: False)
        assert time.monotonic() - before < 1
        writer.stop(PATIENCE_S)


def test_one_event_that_the_database_refuses_costs_no_other_one(services: Services, writer: EventWriter) -> None:
    mine, other = (start_run(services, submit_run(services)) for _ in range(2))
    writer.put(event(mine, 0), 0)
    poison: dict[str, Any] = {"text": "\0"}
    writer.put(Event("alice", other.id, 1, EventType.AGENT_THINKING, "echo", poison), 0)
    writer.put(event(mine, 1), 0)
    writer.put(event(other, 2), 0)
    writer.start()
    writer.stop(PATIENCE_S)
    assert written(services, mine) == [0, 1]
    assert written(services, other) == [2]


def test_what_cannot_be_published_does_not_end_the_writing(
    services: Services, writer: EventWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TypeError

    run = start_run(services, submit_run(services))
    monkeypatch.setattr(Services, "publish", fail)
    writer.start()
    writer.put(event(run, 0), 0)
    assert wait_until(lambda: written(services, run) == [0], PATIENCE_S)
    writer.put(event(run, 1), 0)
    assert wait_until(lambda: written(services, run) == [0, 1], PATIENCE_S)


def test_a_restart_of_postgres_in_the_middle_loses_nothing(node: Node, servers: Servers) -> None:
    writer, began, stopped = node.parts.writer, threading.Event(), threading.Event()
    write = writer._write

    def when_stopped(batch: list[Event]) -> list[StoredEvent]:
        began.set()
        assert stopped.wait(PATIENCE_S)
        return write(batch)

    writer._write = when_stopped  # type: ignore[method-assign]
    chatty = node.begin("chatty", {"events": 3000})
    brief = node.begin("echo", user_id="bob")
    for run in (chatty, brief):
        node.wait_for_kind(run, "run_started")
    assert began.wait(PATIENCE_S)
    servers.postgres.stop()
    try:
        assert node.parts.live  # the run goes on, as far as the queue reaches
        stopped.set()
    finally:
        servers.postgres.start()
    assert node.wait(chatty, timeout_s=20).output == {"count": 3000}
    assert node.wait(brief).status == "completed"
    assert written(node.services, chatty) == list(range(3000))
    assert node.log(chatty)[-1]["type"] == "run_completed"
    assert stream_is_gapless(node.services, "alice")
    node.join()
    assert node.now(chatty).attempt == 1


def test_a_stopping_writer_gives_up_on_a_database_that_is_away(
    services: Services, writer: EventWriter, servers: Servers
) -> None:
    run = start_run(services, submit_run(services))
    writer.start()
    servers.postgres.stop()
    try:
        writer.put(event(run, 0), 0)
        assert wait_until(lambda: bool(writer._writing), PATIENCE_S)
        writer.stop(3)
        assert not writer._thread.is_alive()
    finally:
        servers.postgres.start()
