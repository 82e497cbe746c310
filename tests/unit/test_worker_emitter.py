from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shared.context import UserExecutionContext
from shared.errors import InvalidContextError, InvalidError, TooLargeError
from shared.event_types import MAX_DATA_BYTES, EventType
from shared.frames import FrameSocket
from tests.parts import RecordingBridge
from tests.services import a_context
from worker.bridge import WebSocketBridge
from worker.emitter import UserWebSocketEmitter
from worker.link import RunnerLink


@pytest.fixture
def bridge() -> RecordingBridge:
    return RecordingBridge()


@pytest.fixture
def emit(bridge: RecordingBridge) -> UserWebSocketEmitter:
    return UserWebSocketEmitter(a_context(), bridge, "agent-1")


def test_what_an_author_says_is_counted_and_out_before_the_call_returns(
    emit: UserWebSocketEmitter, bridge: RecordingBridge
) -> None:
    emit.thinking("so")
    assert (emit.count, bridge.kinds) == (1, ["agent_thinking"])
    emit.progress(0.5, "half way")
    emit.progress(1)
    emit.token("a")
    assert emit.count == 4
    assert [(kind, agent, data) for kind, agent, data, _ in bridge.sent] == [
        ("agent_thinking", "agent-1", {"text": "so"}),
        ("agent_progress", "agent-1", {"fraction": 0.5, "note": "half way"}),
        ("agent_progress", "agent-1", {"fraction": 1.0, "note": ""}),
        ("agent_token", "agent-1", {"text": "a"}),
    ]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), float("inf"), "0.5", None, True])
def test_a_fraction_goes_from_0_to_1(emit: UserWebSocketEmitter, bridge: RecordingBridge, fraction: Any) -> None:
    with pytest.raises(InvalidError, match="fraction"):
        emit.progress(fraction)
    assert (emit.count, bridge.sent) == (0, [])


@pytest.mark.parametrize("value", [None, 5, b"bytes", ["a"]])
def test_texts_are_texts(emit: UserWebSocketEmitter, bridge: RecordingBridge, value: Any) -> None:
    for name, call in (("text", emit.thinking), ("text", emit.token), ("note", lambda note: emit.progress(0, note))):
        with pytest.raises(InvalidError, match=f"{name} must be a string"):
            call(value)
    assert bridge.sent == []


@pytest.mark.parametrize(
    ("say", "around"),
    [
        (UserWebSocketEmitter.thinking, '{"text": ""}'),
        (UserWebSocketEmitter.token, '{"text": ""}'),
        (lambda emit, note: emit.progress(0.5, note), '{"fraction": 0.5, "note": ""}'),
    ],
)
def test_the_limit_of_an_events_data(
    emit: UserWebSocketEmitter, bridge: RecordingBridge, say: Callable[[UserWebSocketEmitter, str], None], around: str
) -> None:
    room = MAX_DATA_BYTES - len(around)
    say(emit, "x" * room)
    with pytest.raises(TooLargeError, match=f"{MAX_DATA_BYTES + 1} bytes; the limit is {MAX_DATA_BYTES}"):
        say(emit, "x" * (room + 1))
    assert emit.count == len(bridge.sent) == 1


@pytest.mark.parametrize("data", [{"x": float("nan")}, {"x": object()}, {"x": {1, 2}}])
def test_data_is_json(emit: UserWebSocketEmitter, bridge: RecordingBridge, data: dict[str, Any]) -> None:
    with pytest.raises(InvalidError, match="not JSON"):
        emit.emit(EventType.AGENT_THINKING, data)
    assert bridge.sent == []


def test_an_emitter_is_bound_for_good(emit: UserWebSocketEmitter) -> None:
    for name in ("context", "user_id", "run_id", "bridge", "anything"):
        with pytest.raises(AttributeError):
            setattr(emit, name, "other")
    with pytest.raises(AttributeError):
        emit.count = 0  # type: ignore[misc]


def test_no_emitter_for_a_context_that_was_tampered_with(bridge: RecordingBridge) -> None:
    context = a_context()
    object.__setattr__(context, "user_id", "*")
    with pytest.raises(InvalidContextError, match="user_id"):
        UserWebSocketEmitter(context, bridge, "agent-1")


@pytest.fixture
def ends() -> Iterator[tuple[RunnerLink, FrameSocket]]:
    """The sandbox's end as a link, and the runner's as frames."""
    sandbox, runner = socket.socketpair()
    runner.settimeout(5)
    with sandbox, runner:
        yield RunnerLink(sandbox), FrameSocket(runner)


def test_the_bridge_writes_each_event_out_as_a_frame_that_names_nobody(ends: tuple[RunnerLink, FrameSocket]) -> None:
    link, runner = ends
    context = a_context()
    UserWebSocketEmitter(context.create_child_context("agent:x"), WebSocketBridge(link, context), "x").thinking("so")
    assert runner.receive() == {"t": "event", "type": "agent_thinking", "agent": "x", "data": {"text": "so"}}


@pytest.mark.parametrize("field", ["user_id", "thread_id", "run_id"])
def test_the_bridge_is_the_run_s_own(ends: tuple[RunnerLink, FrameSocket], field: str) -> None:
    link, runner = ends
    own = a_context()
    ids: dict[str, Any] = {"user_id": own.user_id, "thread_id": own.thread_id, "run_id": own.run_id}
    bridge = WebSocketBridge(link, own)
    pointed_elsewhere = UserWebSocketEmitter(UserExecutionContext(**(ids | {field: "other"})), bridge, "x")
    with pytest.raises(InvalidContextError, match="does not belong"):
        pointed_elsewhere.thinking("so")
    tampered = a_context()
    emit = UserWebSocketEmitter(tampered, bridge, "x")
    object.__setattr__(tampered, field, "")
    with pytest.raises(InvalidContextError, match=field):
        emit.thinking("so")
    bridge.send_event(own, "agent_token", "x", {"text": "first"})
    frame = runner.receive()
    assert frame is not None
    assert frame["data"] == {"text": "first"}
