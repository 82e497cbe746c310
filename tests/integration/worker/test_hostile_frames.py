"""A sandbox that says what it should not: its own run fails, and nobody else notices."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from shared.frames import MAX_FRAME_BYTES, encode_frame
from shared.outcomes import Completed, Failed, Lost
from tests.integration.worker.conftest import Begin
from tests.sandboxes import all_gone
from worker import supervise
from worker.zygote_client import ZygoteClient


def raw(value: Any) -> bytes:
    """Returns a frame of anything, also of what `encode_frame` would refuse."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("!I", len(body)) + body


def event(kind: Any = "agent_thinking", agent: Any = "hostile", data: Any = None, **further: Any) -> bytes:
    return raw({"t": "event", "type": kind, "agent": agent, "data": {} if data is None else data, **further})


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


HOSTILE: dict[str, bytes] = {
    "garbage": b"\xff" * 64,
    "a request of another protocol": b"GET / HTTP/1.1\r\n\r\n",
    "a huge length": struct.pack("!I", 0xFFFFFFFF),
    "a length above the limit": struct.pack("!I", MAX_FRAME_BYTES + 1),
    "no json": raw(b"{'a': 1}"),
    "no object": raw([1, 2]),
    "an empty frame": raw(b""),
    "no text": raw(b'{"t": "\xff"}'),
    "deep nesting": raw(b'{"t":"event","x":' + nested(100_000) + b"}"),
    "a huge number": raw(b'{"t":"event","x":' + b"9" * 10_000 + b"}"),
    "no type": raw({}),
    "an unknown type": raw({"t": "exec"}),
    "a type that is no text": raw({"t": {"a": []}}),
    "a frame of the runner": raw({"t": "start"}),
    "a cancel": raw({"t": "cancel"}),
    "an end of the run": event("run_completed"),
    "a start of the run": event("run_started"),
    "an event of no kind": event("agent_exploded"),
    "an event whose kind is no text": event(["agent_thinking"]),
    "an event without a kind": event(None),
    "a long agent name": event(agent="x" * 65),
    "an agent name that is no text": event(agent={"a": 1}),
    "data that is a list": event(data=[1]),
    "data that is a text": event(data="text"),
    "data that is too large": event(data={"text": "x" * 70_000}),
    "data with 100,000 keys": event(data={str(number): number for number in range(100_000)}),
    "data nested deeply": raw(b'{"t":"event","type":"agent_thinking","agent":"x","data":{"a":' + nested(600) + b"}}"),
    "data with nan": raw(b'{"t":"event","type":"agent_thinking","agent":"x","data":{"a":NaN}}'),
    "data with infinity": raw(b'{"t":"event","type":"agent_thinking","agent":"x","data":{"a":1e999}}'),
    "a denial for a reason of its own": event("tool_denied", data={"tool": "x", "reason": "words of an agent"}),
    "a denial whose reason is no text": event("tool_denied", data={"tool": "x", "reason": ["not_granted"]}),
    "a denial of no tool": event("tool_denied", data={"reason": "not_granted"}),
    "progress without a fraction": event("agent_progress"),
    "progress whose fraction is true": event("agent_progress", data={"fraction": True}),
    "progress whose fraction is a text": event("agent_progress", data={"fraction": "0.5"}),
    "progress beyond the end": event("agent_progress", data={"fraction": 1.5}),
    "progress beyond all numbers": raw(
        b'{"t":"event","type":"agent_progress","agent":"x","data":{"fraction":1' + b"0" * 400 + b"}}"
    ),
    "progress with a note that is no text": event("agent_progress", data={"fraction": 0.5, "note": {"a": 1}}),
    "a call without anything": raw({"t": "call"}),
    "a call whose id is no number": raw({"t": "call", "id": "1", "method": "store.get", "params": {"key": "k"}}),
    "a call whose id is true": raw({"t": "call", "id": True, "method": "store.get", "params": {"key": "k"}}),
    "a call whose method is no text": raw({"t": "call", "id": 1, "method": ["store.get"], "params": {"key": "k"}}),
    "a call whose params are a list": raw({"t": "call", "id": 1, "method": "store.get", "params": ["k"]}),
    "a result that is too large": raw({"t": "result", "output": "x" * (1024 * 1024)}),
    "a result nested deeply": raw(b'{"t":"result","output":' + nested(600) + b"}"),
    "a result with nan": raw(b'{"t":"result","output":NaN}'),
    "a retry without a message": raw({"t": "retry"}),
    "a retry whose message is no text": raw({"t": "retry", "message": ["x"]}),
    "a retry nested deeply": raw(b'{"t":"retry","message":"x","after_s":' + nested(600) + b"}"),
    "a retry before now": raw({"t": "retry", "message": "x", "after_s": -0.001}),
    "a retry after a day": raw({"t": "retry", "message": "x", "after_s": 86_400.001}),
    "a retry after ages": raw(b'{"t":"retry","message":"x","after_s":1' + b"0" * 400 + b"}"),
    "a retry after nan": raw(b'{"t":"retry","message":"x","after_s":NaN}'),
    "a retry after infinity": raw(b'{"t":"retry","message":"x","after_s":1e999}'),
    "a retry after a text": raw({"t": "retry", "message": "x", "after_s": "5"}),
    "a retry after true": raw({"t": "retry", "message": "x", "after_s": True}),
    "an error nested deeply": raw(b'{"t":"error","type":"x","message":' + nested(600) + b"}"),
}


@pytest.mark.parametrize("frames", HOSTILE.values(), ids=HOSTILE)
def test_what_breaks_the_protocol_fails_its_own_run_at_once(begin: Begin, frames: bytes) -> None:
    neighbour = begin("wait")
    neighbour.wait_for()
    hostile = begin("hostile", {"bytes": base64.b64encode(frames).decode()})
    pid = hostile.pid
    outcome = hostile.outcome(3)
    assert isinstance(outcome, Failed)
    assert outcome.type == "sandbox_protocol"
    assert len(outcome.message) < 500
    assert hostile.kinds == ["agent_started", "agent_token"]
    assert all_gone(pid)
    assert not neighbour.sandbox.exited.is_set()


def test_frames_before_a_broken_one_still_count(begin: Begin) -> None:
    frames = event(data={"text": "first"}) + event("run_failed") + event(data={"text": "never"})
    hostile = begin("hostile", {"bytes": base64.b64encode(frames).decode()})
    assert isinstance(hostile.outcome(3), Failed)
    assert [found.data.get("text") for found in hostile.events if found.type == "agent_thinking"] == ["first"]


def test_denials_without_end_fill_the_log_and_not_the_audit_trail(begin: Begin) -> None:
    denial = event("tool_denied", data={"tool": "the words of an agent", "reason": "not_granted"})
    named = event("tool_denied", data={"tool": "shop__buy", "reason": "unknown_tool"})
    frames = denial + named * (supervise.MAX_DENIALS + 49)
    hostile = begin("hostile", {"bytes": base64.b64encode(frames).decode(), "then": "return"})
    assert hostile.outcome(5) == Completed({"returned": True})
    denied = [found for found in hostile.events if found.type == "tool_denied"]
    deeds = [found.deed for found in denied if found.deed is not None]
    assert (len(denied), len(deeds)) == (supervise.MAX_DENIALS + 50, supervise.MAX_DENIALS)
    assert (deeds[0].detail["tool"], deeds[0].outcome) == ("?", "not_granted")
    assert (deeds[1].detail["tool"], deeds[1].outcome) == ("shop__buy", "unknown_tool")


def test_events_without_end_are_an_end(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "MAX_EVENTS", 50)
    many = base64.b64encode(
        event("agent_token", data={"text": "x"}) * 500 + event() * 48
    ).decode()  # and two of its engine
    assert begin("hostile", {"bytes": many, "then": "return"}).outcome(3) == Completed({"returned": True})
    hostile = begin("hostile", {"bytes": base64.b64encode(event() * 50).decode()})
    assert hostile.outcome(3) == Failed("quota_exceeded", "it emitted more than 50 events, besides tokens")
    assert len(hostile.kinds) == 1 + 50  # a token that says that it began, and no event more


def test_words_without_end_are_an_end(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "MAX_READ_BYTES", 500_000)
    frames = event("agent_token", data={"text": "x" * 60_000}) * 10
    outcome = begin("hostile", {"bytes": base64.b64encode(frames).decode(), "then": "return"}).outcome(3)
    assert isinstance(outcome, Failed)
    assert "more than 500,000 bytes in one attempt" in outcome.message


ENDLESS = 1_000_000
SPACES = 5 * 1024 * 1024  # behind an event, of which nothing is kept
BIG = struct.pack("!I", len(event()) - 4 + SPACES) + event()[4:]


def test_a_million_events_end_at_the_limit(begin: Begin) -> None:
    hostile = begin("hostile", {"bytes": base64.b64encode(event()).decode(), "times": ENDLESS})
    assert hostile.outcome(60) == Failed("quota_exceeded", "it emitted more than 100,000 events, besides tokens")
    assert len(hostile.kinds) == 1 + 100_000


def test_without_the_limit_there_would_be_more_of_them(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "MAX_EVENTS", ENDLESS)
    hostile = begin("hostile", {"bytes": base64.b64encode(event()).decode(), "times": 120_000, "then": "return"})
    assert hostile.outcome(60) == Completed({"returned": True})
    assert len(hostile.kinds) > 120_000


def test_10_gib_of_words_end_at_the_limit(begin: Begin) -> None:
    hostile = begin("hostile", {"bytes": base64.b64encode(BIG).decode(), "spaces": SPACES, "again": 2048})
    outcome = hostile.outcome(60)
    assert isinstance(outcome, Failed)
    assert "more than 536,870,912 bytes in one attempt" in outcome.message
    assert len(hostile.kinds) < 110


def test_without_the_limit_there_would_be_more_words(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "MAX_READ_BYTES", 20 * 2**30)
    hostile = begin(
        "hostile", {"bytes": base64.b64encode(BIG).decode(), "spaces": SPACES, "again": 110, "then": "return"}
    )
    assert hostile.outcome(60) == Completed({"returned": True})
    assert len(hostile.kinds) > 110


def test_of_two_results_the_first_counts(begin: Begin) -> None:
    frames = raw({"t": "result", "output": 1}) + raw({"t": "result", "output": 2}) + raw({"t": "error", "type": "x"})
    hostile = begin("hostile", {"bytes": base64.b64encode(frames).decode()})
    pid = hostile.pid
    assert hostile.outcome(3) == Completed(1)
    assert all_gone(pid)  # it would have slept on


def test_nothing_counts_after_the_result(begin: Begin) -> None:
    frames = raw({"t": "result", "output": 1}) + event() * 10
    hostile = begin("hostile", {"bytes": base64.b64encode(frames).decode()})
    assert hostile.outcome(3) == Completed(1)
    assert hostile.kinds == ["agent_started", "agent_token"]


def test_a_sandbox_cannot_cancel_its_run(begin: Begin) -> None:
    outcome = begin("hostile", {"bytes": base64.b64encode(raw({"t": "cancelled"})).decode()}).outcome(3)
    assert outcome == Failed("cancelled", "the agent cancelled itself")


def test_unknown_keys_are_passed_over_and_nothing_of_them_is_kept(begin: Begin) -> None:
    further = {f"key-{number}": number for number in range(100_000)}
    frames = event(data={"text": "x"}, user_id="bob", run_id="other", attempt=99, seq=1, **further)
    hostile = begin("hostile", {"bytes": base64.b64encode(frames).decode(), "then": "return"})
    assert hostile.outcome(5) == Completed({"returned": True})
    (found,) = [found for found in hostile.events if found.type == "agent_thinking"]
    assert (found.user_id, found.run_id, found.attempt, found.data) == ("alice", hostile.run.id, 1, {"text": "x"})


def test_what_cannot_be_stored_is_replaced(begin: Begin) -> None:
    frames = event(agent="a\0", data={"text": "\0", "b\0": "\ud800"}) + raw({"t": "result", "output": "\0\udfff"})
    hostile = begin("hostile", {"bytes": base64.b64encode(frames).decode()})
    assert hostile.outcome(3) == Completed("\ufffd\ufffd")
    (found,) = [found for found in hostile.events if found.type == "agent_thinking"]
    assert (found.agent, found.data) == ("a\ufffd", {"text": "\ufffd", "b\ufffd": "\ufffd"})


def test_an_error_is_cut_to_what_may_be_stored(begin: Begin) -> None:
    frames = raw({"t": "error", "type": "x" * 1000, "message": "\0" * 100_000, "trace": "y" * 100_000})
    outcome = begin("hostile", {"bytes": base64.b64encode(frames).decode()}).outcome(3)
    assert outcome == Failed("x" * 64, "\ufffd" * 2000)


def test_a_retry_is_a_counted_loss_and_its_message_is_cut_to_what_may_be_stored(begin: Begin) -> None:
    frames = raw({"t": "retry", "message": "\0" * 100_000, "after_s": 86_400, "counted": False, "type": "drained"})
    outcome = begin("hostile", {"bytes": base64.b64encode(frames).decode()}).outcome(3)
    assert outcome == Lost("retry", "\ufffd" * 2000, counted=True, after_s=86_400.0)


@pytest.mark.parametrize("then", ["close", "return"])
def test_a_frame_that_never_ends(begin: Begin, then: str) -> None:
    half = encode_frame({"t": "event", "x": "y" * 1000})[:-1]
    outcome = begin("hostile", {"bytes": base64.b64encode(half).decode(), "then": then}).outcome(4)
    assert isinstance(outcome, Lost | Failed)


def test_a_sandbox_that_never_reads_its_answers_is_stopped(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "READS_NOTHING_S", 0.5)
    neighbour = begin("echo", {"n": 1})
    deaf = begin("deaf")
    deaf.wait_for()
    assert isinstance(neighbour.outcome(), Completed)
    pid = deaf.pid
    outcome = deaf.outcome(8)
    assert isinstance(outcome, Failed)
    assert outcome.type == "sandbox_protocol"
    assert all_gone(pid)


def test_the_zygote_is_unharmed(begin: Begin, zygote: ZygoteClient) -> None:
    assert isinstance(begin("echo").outcome(), Completed)
    assert zygote.restarts == 0
