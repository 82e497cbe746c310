"""Frames of a sandbox: many against a `Supervisor` whose calls are answered from memory."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Iterable
from typing import Any

from lanewise.authoring.memory import Memory, MemoryRecords, UserValues
from shared.event_types import MAX_DATA_BYTES, SANDBOX_TYPES
from shared.events import Event
from shared.frames import MAX_FRAME_BYTES, FrameReader
from shared.jsonvalue import check_json
from shared.models import Run
from shared.outcomes import Cancelled, Completed, Failed, Lost
from tests.fuzz.mutation import Mutator
from tests.fuzz.tally import ACCEPTED, Tally
from tests.services import a_context
from worker.calls import Calls
from worker.live import LiveRun
from worker.supervise import MAX_MESSAGE, MAX_NAME, MAX_OUTPUT_BYTES, MAX_TRACE, READ_BYTES, Supervisor
from worker.zygote_client import SandboxProcess

DATA: tuple[dict[str, Any], ...] = (
    {"text": "thinking"}, {"fraction": 0.5, "note": "half"}, {"fraction": 1, "run_fraction": 0.25, "note": ""}, {},
    {"duration_s": 0.1}, {"tool": "x", "reason": "not_granted"}, {"tool": "x", "parameters": {"a": [1, 2]}},
    {"error": {"type": "ValueError", "message": "x"}, "duration_s": 0.1},
)  # fmt: skip
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("store.get", {"key": "k"}),
    ("store.set", {"key": "k", "value": {"a": [1, None, "x"]}, "ttl_s": 60}),
    ("step.load", {"name": "step one"}),
    ("step.record", {"name": "step one", "value": {"rows": 3}}),
    ("state.load", {"agent": "echo", "scope": "thread"}),
    ("state.save", {"agent": "echo", "scope": "run", "expected": 0, "value": {"a": 1}, "token": "t" * 32}),
    ("artifact.save", {"name": "report.md", "content_type": "text/markdown; charset=utf-8",
                       "content": base64.b64encode(b"# Report").decode()}),
    ("usage.add", {"model": "m", "input_tokens": 10, "output_tokens": 20}),
)  # fmt: skip
ENDS: tuple[dict[str, Any], ...] = (
    {"t": "result", "output": {"words": 3, "list": ["x", None, 1.5]}},
    {"t": "cancelled"},
    {"t": "error", "type": "ValueError", "message": "bad", "trace": "File x"},
    {"t": "retry", "message": "later", "after_s": 1.5},
)


ENDLESS = b"\x7f\xff\xff\xff" + bytes(8 * 1024 * 1024)


def sound_frame(mutator: Mutator) -> dict[str, Any]:
    """Returns a frame as an honest sandbox might send it."""
    dice = mutator.chance.random()
    if dice < 0.45:
        kind = mutator.chance.choice(sorted(SANDBOX_TYPES))
        data = DATA[1] if kind == "agent_progress" else mutator.chance.choice(DATA)
        return {"t": "event", "type": str(kind), "agent": "echo", "data": data}
    if dice < 0.9:
        method, parameters = mutator.chance.choice(CALLS)
        return {"t": "call", "id": mutator.chance.randrange(1000), "method": method, "params": parameters}
    return mutator.chance.choice(ENDS)


def packed(body: bytes) -> bytes:
    """Returns a frame with a right length."""
    return struct.pack("!I", len(body)) + body


def odd_frame(mutator: Mutator) -> bytes:
    """Returns the bytes of a frame that is odd in some way, or sound after all."""
    frame = sound_frame(mutator)
    part = "data" if frame["t"] == "event" else "params" if frame["t"] == "call" else None
    if part is not None and mutator.maybe(0.6):  # what is deeper is where the code is
        frame = {**frame, part: mutator.value(frame[part])}
    else:
        frame = mutator.value(frame, untouched=0.3)
    found = packed(mutator.text(frame).encode(errors="surrogatepass"))
    return mutator.bytes(found) if mutator.maybe(0.02) else found


class Exited(threading.Event):
    """Of a sandbox that ends as soon as somebody waits for its end."""

    def wait(self, timeout: float | None = None) -> bool:
        """Ends it."""
        del timeout
        self.set()
        return True


def hostile_sandbox(frames: Iterable[bytes]) -> tuple[SandboxProcess, socket.socket]:
    """Returns a sandbox that has said this and has closed its end for writing, and that end."""
    near, far = socket.socketpair()
    for side, option in ((far, socket.SO_SNDBUF), (near, socket.SO_SNDBUF)):
        side.setsockopt(socket.SOL_SOCKET, option, 4 * 1024 * 1024)
    data = memoryview(b"".join(frames))
    far.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        data = data[far.send(data) :]
    far.setblocking(True)
    if data:
        threading.Thread(target=_say, args=(far, data), daemon=True).start()
    else:
        far.shutdown(socket.SHUT_WR)
    return SandboxProcess(1, near, lambda: None, pid=os.getpid(), exited=Exited()), far


def _say(far: socket.socket, data: memoryview) -> None:
    with contextlib.suppress(OSError):  # the runner may have had enough
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)


class Watched(Supervisor):
    """Counts the frames that it has handled."""

    handled = 0

    def _handle(self, frame: dict[str, Any]) -> Any:
        self.handled += 1
        return super()._handle(frame)


def fuzz_frames(tally: Tally, seed: int, inputs: int) -> None:
    """Makes so many of them, in sandboxes that each send some until one breaks the protocol."""
    mutator = Mutator(f"frames {seed}")
    memory = Memory()
    _one_sandbox(tally, [ENDLESS], memory)
    upto = tally.inputs("frame") + inputs
    while tally.inputs("frame") < upto:
        if mutator.maybe(0.002):
            memory = Memory()
        sent = [odd_frame(mutator) for _ in range(mutator.chance.choice((1, 3, 6, 12)))]
        _one_sandbox(tally, sent if mutator.maybe(0.999) else [*sent[:3], ENDLESS], memory)


def _one_sandbox(tally: Tally, sent: list[bytes], memory: Memory) -> None:
    context = a_context()
    run = Run(
        user_id=context.user_id, id=context.run_id, thread_id=context.thread_id, attempt=1, agent="echo",
        time_limit_s=60, ran_s=0.0, context=context.to_dict(), lost=[], correlation_id=context.correlation_id,
    )  # fmt: skip
    sandbox, far = hostile_sandbox(sent)
    live = LiveRun(run)
    events: list[Event] = []

    def keep(event: Event, timeout_s: float) -> bool:
        del timeout_s
        events.append(event)
        return True

    answer = Calls(UserValues(memory, run.user_id), MemoryRecords(memory, run)).answer
    supervisor = Watched(
        live, sandbox, kill=lambda _: sandbox.exited.set(), put_event=keep, answer_call=answer, grace_s=0.1
    )
    with far:
        try:
            outcome = supervisor.run({"t": "start"})
            if len(supervisor._reader._buffer) > MAX_FRAME_BYTES + 2 * READ_BYTES:
                tally.find("frame", "more was kept than one frame", sent)
            _count(tally, supervisor, outcome, sent)
            _count_events(tally, events, sent)
            _count_replies(tally, far, sent)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            tally.find("frame", repr(error), sent)
        finally:
            supervisor.close()
            live.close()


def _count(tally: Tally, supervisor: Watched, outcome: Any, sent: list[bytes]) -> None:
    text = outcome.message if isinstance(outcome, Failed | Lost) else ""
    refused = isinstance(outcome, Failed) and outcome.type == "sandbox_protocol"
    unread = refused and any(words in text for words in ("frame that is not", "is announced"))
    tally.count("frame", ACCEPTED, supervisor.handled - (refused and not unread))
    if refused:
        tally.count("frame", "not a frame" if unread else "against the protocol")
    tally.count("frame.end", "refused" if refused else f"{ACCEPTED} {type(outcome).__name__.lower()}")
    if len(text) > MAX_MESSAGE or len(supervisor.trace) > MAX_TRACE:
        tally.find("frame", "a message without a limit", sent)
    if isinstance(outcome, Completed) and _size(outcome.output) > MAX_OUTPUT_BYTES:
        tally.find("frame", "an output without a limit", sent)
    if not isinstance(outcome, Completed | Failed | Lost | Cancelled):
        tally.find("frame", f"it ended as {outcome!r}", sent)


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def _count_events(tally: Tally, events: list[Event], sent: list[bytes]) -> None:
    for event in events:
        check_json(event.data, "data", MAX_DATA_BYTES)  # raises what no database could store
        check_json(event.agent, "agent", 4 * MAX_NAME + 2)
    tally.count("frame.event", ACCEPTED, len(events))
    if len(events) > len(sent):
        tally.find("frame.event", "more events than frames", sent)


def _count_replies(tally: Tally, far: socket.socket, sent: list[bytes]) -> None:
    far.setblocking(False)
    reader = FrameReader()
    while True:
        try:
            data = far.recv(65_536)
        except (BlockingIOError, ConnectionResetError):
            return
        if not data:
            return
        for reply in reader.feed(data):
            if reply["t"] == "reply":
                tally.count("frame.call", reply.get("code", ACCEPTED))
                if reply.get("code") == "internal":
                    tally.find("frame.call", reply["error"], sent)
