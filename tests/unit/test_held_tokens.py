"""Tokens that wait for those that follow: joined by agent, bounded, never out of order."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.event_types import MAX_DATA_BYTES, EventType
from shared.events import Attempt, Event
from worker.held import MAX_HOLD_S, MAX_JOINED_BYTES, HeldTokens

MINE = Attempt("run-1", 1)


def event(ordinal: int, text: Any, agent: str = "a", kind: EventType = EventType.AGENT_TOKEN) -> Event:
    return Event("alice", MINE.run_id, MINE.number, kind, agent, {"text": text}, ordinal)


def place(item: Event) -> int:
    assert item.ordinal is not None
    return item.ordinal


def put(tokens: HeldTokens, item: Event) -> list[Event]:
    """Does with an event what the writer does, returns what is ready."""
    return [] if tokens.join(item) else tokens.add(item)


texts = st.text(max_size=5) | st.sampled_from(["x" * 7000, "\x01" * 1500, "💡" * 2000, "y" * 20_000])
emitted = st.tuples(
    st.sampled_from([EventType.AGENT_TOKEN] * 4 + [EventType.AGENT_THINKING]), st.sampled_from("ab"), texts
)


@given(st.lists(emitted | st.none(), max_size=30))
def test_each_agents_texts_stay_in_order_and_ordinals_rise(steps: list[tuple[EventType, str, str] | None]) -> None:
    """None: the time is over. Another event comes after all that was emitted before it, and before all after it."""
    tokens, written, numbered = HeldTokens(), list[Event](), list[Event]()
    for step in steps:
        if step is None:
            written += tokens.release_older(0)
        else:
            kind, agent, text = step
            numbered.append(event(len(numbered) + 1, text, agent, kind))
            written += put(tokens, numbered[-1])
    written += tokens.release(MINE)
    for agent in "ab":
        said, meant = ("".join(e.data["text"] for e in log if e.agent == agent) for log in (written, numbered))
        assert said == meant
    places = list(map(place, written))
    assert places == sorted(set(places))
    for other in (item for item in written if item.type != EventType.AGENT_TOKEN):
        before = "".join(item.data["text"] for item in written[: written.index(other)])
        assert sorted(before) == sorted("".join(item.data["text"] for item in numbered[: place(other) - 1]))
    for item in written:
        assert len(json.dumps(item.data)) <= MAX_DATA_BYTES or item in numbered  # the latter: as it came


def test_tokens_of_one_agent_become_one_event_with_the_first_ones_number() -> None:
    tokens = HeldTokens()
    assert [put(tokens, event(n, f"{n} ")) for n in (1, 2, 3)] == [[], [], []]
    assert tokens.release(MINE) == [event(1, "1 2 3 ")]
    assert tokens.release(MINE) == []


def test_agents_in_parallel_are_joined_each_for_itself() -> None:
    tokens = HeldTokens()
    for number in range(1, 7):
        assert put(tokens, event(number, str(number), "ab"[number % 2])) == []
    thought = event(7, "so", kind=EventType.AGENT_THINKING)
    assert put(tokens, thought) == [event(1, "135", "b"), event(2, "246", "a"), thought]


def test_a_joined_text_is_bounded() -> None:
    tokens, ready = HeldTokens(), list[Event]()
    for number in range(1, 101):
        ready += put(tokens, event(number, "é" * 100))
    ready += tokens.release(MINE)
    assert "".join(item.data["text"] for item in ready) == "é" * 10_000
    sizes = [len(json.dumps(item.data["text"])) for item in ready]
    assert len(sizes) > 1
    assert max(sizes) <= MAX_JOINED_BYTES


@pytest.mark.parametrize("data", [{"text": 5}, {"text": "x", "further": 1}, {}, {"text": "x" * MAX_JOINED_BYTES}])
def test_what_is_no_plain_small_token_goes_alone_and_in_its_place(data: dict[str, Any]) -> None:
    tokens = HeldTokens()
    odd = Event("alice", MINE.run_id, MINE.number, EventType.AGENT_TOKEN, "a", data, 2)
    put(tokens, event(1, "1"))
    assert put(tokens, odd) == [event(1, "1"), odd]
    assert put(tokens, event(3, "3")) == []
    assert tokens.release(MINE) == [event(3, "3")]


def test_each_attempt_is_held_for_itself_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("worker.held.time.monotonic", lambda: now)
    tokens = HeldTokens()
    assert tokens.due_in_s() is None
    put(tokens, event(1, "mine"))
    now += MAX_HOLD_S / 2
    theirs = Event("bob", "run-2", 1, EventType.AGENT_TOKEN, "a", {"text": "theirs"}, 1)
    put(tokens, theirs)
    put(tokens, event(2, "!"))  # what joins makes nobody wait longer
    assert tokens.due_in_s() == pytest.approx(MAX_HOLD_S / 2)
    now += MAX_HOLD_S / 2
    assert tokens.due_in_s() == pytest.approx(0)
    assert tokens.release_older(MAX_HOLD_S * 0.99) == [event(1, "mine!")]
    assert tokens.due_in_s() == pytest.approx(MAX_HOLD_S / 2)
    assert tokens.release_older(0) == [theirs]
    assert tokens.due_in_s() is None
