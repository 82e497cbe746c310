"""Tokens on their way into the log: fewer events, the same text, nothing late, lost or doubled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from lanewise.process import wait_until
from shared.errors import UnavailableError
from shared.event_types import EventType
from shared.events import Attempt, Event, StoredEvent, read_run
from shared.models import Run
from shared.services import Services
from tests.nodes import Node
from tests.services import start_run, submit_run
from worker import writer as writer_module
from worker.writer import EventWriter

PATIENCE_S = 10.0


@pytest.fixture
def writer(services: Services) -> Iterator[EventWriter]:
    """A writer that has not been started yet."""
    writer = EventWriter(services, lambda _: None)
    yield writer
    writer.stop(PATIENCE_S)


def put(writer: EventWriter, run: Run, texts: Sequence[str], kind: EventType = EventType.AGENT_TOKEN) -> None:
    """Emits some events, as the supervisor numbers them."""
    for text in texts:
        assert writer.put(Event(run.user_id, run.id, 1, kind, run.agent, {"text": text}, int(text)), PATIENCE_S)


def said(services: Services, run: Run) -> list[str]:
    """Returns the texts of the run's events in the log."""
    with services.database.user_session(run.user_id) as session:
        log = read_run(session, run.user_id, run.id, 0, 10_000)
    return [item["data"]["text"] for item in log if "text" in item["data"]]


def test_a_token_without_a_successor_is_in_the_log_soon(services: Services, writer: EventWriter) -> None:
    run = start_run(services, submit_run(services))
    writer.start()
    put(writer, run, "1")
    assert wait_until(lambda: said(services, run) == ["1"], PATIENCE_S)
    put(writer, run, "23")
    assert wait_until(lambda: "".join(said(services, run)) == "123", PATIENCE_S)


def test_other_events_keep_their_place_among_tokens(services: Services, writer: EventWriter) -> None:
    run, other = (start_run(services, submit_run(services)) for _ in range(2))
    put(writer, run, "12")
    put(writer, other, "12")
    put(writer, run, "3", EventType.AGENT_THINKING)
    put(writer, run, "45")
    put(writer, other, "34")
    writer.start()
    writer.stop(PATIENCE_S)
    assert said(services, run) == ["12", "3", "45"]
    assert said(services, other) == ["1234"]


def test_what_is_held_goes_with_the_end_of_the_run(services: Services, writer: EventWriter) -> None:
    mine, other = (start_run(services, submit_run(services)) for _ in range(2))
    put(writer, mine, "1", EventType.AGENT_THINKING)
    put(writer, mine, "23")
    put(writer, other, "12")
    taken = writer.take(Attempt(mine.id, 1), lambda: False)
    assert [item.data["text"] for item in taken] == ["1", "23"]
    writer.start()
    writer.stop(PATIENCE_S)
    assert said(services, mine) == []
    assert said(services, other) == ["12"]


def test_tokens_join_nothing_whose_commit_may_have_been_made(
    services: Services, writer: EventWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers of three commits are lost, one after the other, while tokens go on coming."""
    monkeypatch.setattr(writer_module, "RETRY_S", 0.03)
    run = start_run(services, submit_run(services))
    write, to_lose, to_come = writer._write, iter("abc"), iter("23456789")

    def and_lose_the_answer(batch: list[Event]) -> list[StoredEvent]:
        stored = write(batch)
        put(writer, run, next(to_come, ""))
        if next(to_lose, None):
            raise UnavailableError("the answer is lost")
        return stored

    writer._write = and_lose_the_answer  # type: ignore[method-assign]
    put(writer, run, "1")
    writer.start()
    assert wait_until(lambda: "".join(said(services, run)) == "123456789", PATIENCE_S), said(services, run)
    assert next(to_lose, None) is None


def test_an_agent_that_streams_fast_makes_few_events(node: Node) -> None:
    run = node.begin("chatty", {"events": 3000})
    assert node.wait(run).output == {"count": 3000}
    log = node.log(run)
    texts: list[Any] = [event["data"]["text"] for event in log if event["type"] == "agent_token"]
    assert "".join(texts) == "".join(f"{number}:" for number in range(3000))
    assert len(texts) < 300
    assert [event["run_seq"] for event in log] == list(range(1, len(log) + 1))
