"""What WebSocket clients say: many messages to the code behind the socket, some thousands over real connections."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from flask import Flask
from structlog.testing import capture_logs

from api.gateway.executor import ConnectionExecutor
from api.gateway.protocol import CloseCode, StreamClosedError, parse_frame
from api.gateway.socket import StreamSocket
from api.gateway.stream import Stream, read_hello, sign_in
from api.state import EXTENSION, Api
from shared.ids import new_id
from shared.tokens import Identity
from tests.api_process import Server
from tests.fuzz.mutation import Mutator
from tests.fuzz.tally import ACCEPTED, Tally
from tests.websockets import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    Wire,
    close_code,
    frame,
    handshake,
    wire,
)

Frame = dict[str, Any]
PATIENCE_S = 15.0
SILENCE_S = 0.3
LAST = b'{"t":"run.cancel","ref":"last","run_id":"none"}'
TICKETS = 20


class Paper:
    """Stands where the socket is: says what was written down, and keeps what is answered."""

    closed = kept = ended = False

    def __init__(self) -> None:
        self.text = ""
        self.answers: list[Frame] = []

    def messages(self, deadline: float) -> Iterator[str]:
        """Says it."""
        del deadline
        yield self.text

    def write(self, frames: bytes) -> None:
        """Keeps a frame of ours."""
        head = {126: 4, 127: 10}.get(frames[1], 2)
        self.answers.append(json.loads(frames[head:]))


def sound_message(mutator: Mutator, runs: list[str], ticket: str) -> Frame:
    """Returns what an honest client might say."""
    submit = {"t": "run.submit", "ref": "1", "agent": "echo", "input": {"text": "hello", "times": 2}}
    return mutator.chance.choice((
        {"t": "pong"}, submit,
        {**submit, "thread_id": new_id(), "metadata": {"a": [1, None]}, "time_limit_s": 5, "idempotency_key": "key"},
        {"t": "run.cancel", "ref": "2", "run_id": mutator.chance.choice([*runs, new_id()])},
        {"t": "auth", "ref": "3", "ticket": ticket},
    ))  # fmt: skip


def sound_hello(mutator: Mutator, ticket: str) -> Frame:
    """Returns what it would begin with."""
    after = mutator.chance.choice((0, 7, None))
    return {"t": "hello", "v": 1, "ticket": ticket if mutator.maybe(0.3) else None, "after": after}


def fuzz_messages(tally: Tally, app: Flask, seed: int, inputs: int) -> None:
    """Says so many to the app's own parser, tickets and executor: a fifth of them hellos."""
    mutator, api = Mutator(f"messages {seed}"), cast("Api", app.extensions[EXTENSION])
    now = datetime.now(UTC)
    identity = Identity(f"fuzz-{seed}", frozenset({"runs"}), now, now + timedelta(hours=1))
    paper, runs, tickets = Paper(), [new_id()], [""]
    socket = cast("StreamSocket", paper)
    stream = Stream(socket, identity, ConnectionExecutor(api.services, api.submissions, identity), api.tickets)
    with capture_logs() as said:
        for number in range(inputs):
            if number % 2000 == 0:
                tickets = [api.tickets.issue(identity) for _ in range(TICKETS)]
            ticket, is_hello = mutator.chance.choice(tickets), number % 5 == 0
            sound = sound_hello(mutator, ticket) if is_hello else sound_message(mutator, runs, ticket)
            paper.text, paper.answers = mutator.text(mutator.value(sound)), []
            kind = "message.hello" if is_hello else "message"
            try:
                if is_hello:
                    sign_in(read_hello(socket), identity, api.tickets)
                    tally.count(kind, ACCEPTED)
                else:
                    stream._handle(parse_frame(paper.text))
                    _count_answer(tally, kind, paper, runs)
            except StreamClosedError as error:
                tally.count(kind, str(int(error.code)))
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                tally.find(kind, repr(error), paper.text)
            if errors := [line for line in said if line["log_level"] in {"error", "critical"}]:
                tally.find(kind, repr(errors), paper.text)
            said.clear()


def _count_answer(tally: Tally, kind: str, paper: Paper, runs: list[str]) -> None:
    if not paper.answers:
        tally.count(kind, ACCEPTED)
    for answer in paper.answers:
        problem = answer.get("problem")
        tally.count(kind, problem["code"] if problem else ACCEPTED)
        if problem and problem["status"] >= 500:
            tally.find(kind, problem["code"], paper.text)
        if "run" in answer:
            runs[:] = [*runs[-20:], answer["run"]["id"]]


def fuzz_sockets(tally: Tally, server: Server, seed: int, inputs: int) -> None:
    """Sends so many over connections of a real gateway: odd messages in sound frames, and odd frames."""
    mutator, number, upto = Mutator(f"sockets {seed}"), 0, tally.inputs("socket.frame") + inputs
    while tally.inputs("socket.frame") < upto:
        number += 1
        with wire(server) as connection:
            connection.raw.settimeout(PATIENCE_S)
            connection.send(handshake(server, f"fuzz-{seed}-{number % 50}"))
            sent: list[bytes] = []
            try:
                assert connection.head()[0] == 101, "no upgrade"
                sent = _say(mutator, connection)
                code = _end_of(connection)
            except TimeoutError:
                tally.find("socket.frame", f"no end within {PATIENCE_S:g} s", sent)
                continue
            ended = code not in {None, CloseCode.NORMAL}
            tally.count("socket.frame", ACCEPTED, len(sent) - ended)
            if ended:
                tally.count("socket.frame", str(code))
            if code is not None and (code not in {*CloseCode} or code == CloseCode.OVERLOADED):
                tally.find("socket.frame", f"it was closed with {code}", sent)


def _say(mutator: Mutator, connection: Wire) -> list[bytes]:
    """Says hello, or something like it, then some more, and something sound; returns what was sent before that."""
    hello: Frame = {"t": "hello", "v": 1, "after": 0}
    messages = [mutator.value(hello, untouched=0.85)]
    messages += [
        mutator.value(sound_message(mutator, [], "x.y.z"), untouched=0.5)
        for _ in range(mutator.chance.choice((1, 3, 8)))
    ]
    sent = [_framed(mutator, mutator.text(message).encode(errors="surrogatepass")) for message in messages]
    for data in sent:
        connection.send(data)
    connection.send(frame(TEXT, LAST))
    return sent


def _framed(mutator: Mutator, payload: bytes) -> bytes:
    """Returns a message in one sound frame, in several, or in what is none."""
    if mutator.maybe(0.75):
        return frame(TEXT, payload)
    match mutator.chance.randrange(5):
        case 0:
            cuts = sorted(mutator.chance.randrange(len(payload) + 1) for _ in range(2))
            parts = [payload[: cuts[0]], payload[cuts[0] : cuts[1]], payload[cuts[1] :]]
            between = frame(PING, b"x") if mutator.maybe(0.5) else b""
            return (
                frame(TEXT, parts[0], fin=False)
                + between
                + frame(CONTINUATION, parts[1], fin=False)
                + frame(CONTINUATION, parts[2])
            )
        case 1:
            opcode = mutator.chance.choice((CONTINUATION, BINARY, PING, PONG, 0x3, 0xB, 0xF, CLOSE))
            return frame(opcode, payload[:125], rsv=mutator.chance.choice((0, 0, 1, 4)))
        case 2:
            return frame(TEXT, payload, mask=mutator.chance.choice((MASK, None)), fin=mutator.maybe(0.8))
        case 3:
            odd = mutator.chance.choice(
                (b"\x7f" + b"\xff" * 8, b"\x7f" + b"\0" * 8, b"\x7e\0\1", b"\x7f\0\0\0\0\0\x20\0\1")
            )
            return frame(TEXT, payload, length=odd)
        case _:
            return mutator.bytes(frame(TEXT, payload))


def _end_of(connection: Wire) -> int | None:
    """Closes when the last message is answered, or is not; returns the close code, None if there was none."""
    until = time.monotonic() + PATIENCE_S
    connection.raw.settimeout(SILENCE_S)
    code = None
    try:
        while (found := connection.read()) is not None and found.opcode != CLOSE:
            if b'"ref":"last"' in found.payload:
                connection.send(frame(CLOSE, b"\x03\xe8"))
        code = close_code(found) if found is not None else None
    except TimeoutError:  # it waits for the rest of what was begun
        connection.raw.settimeout(PATIENCE_S)
        connection.raw.shutdown(1)
        while connection.raw.recv(65_536):
            if time.monotonic() > until:
                raise
    except ConnectionError:
        pass  # the end came while we still sent
    return code
