"""Contexts and task messages: what comes over the broker, with a good signature and without."""

from __future__ import annotations

import json
import zlib
from typing import Any

from itsdangerous.encoding import base64_encode

from shared.context import MAX_ID_LENGTH, UserExecutionContext, validate_user_context
from shared.errors import InvalidContextError, SignatureError
from shared.messages import PURPOSE, RunMessage
from shared.signing import Signer
from tests.fuzz.mutation import Mutator
from tests.fuzz.tally import ACCEPTED, Tally
from tests.services import SECRETS, a_context

SIGNER = Signer(SECRETS, PURPOSE, "fuzz")


def sound_context(mutator: Mutator) -> UserExecutionContext:
    """Returns a root context, or one further down."""
    filled = {
        "websocket_client_id": "c" * 32,
        "agent_context": {"locale": "de", "nested": {"list": [1, 2.5, None, "x"]}},
        "audit_metadata": {"source": "rest"},
    }
    context = a_context(
        mutator.chance.choice(("alice", "bob@example.org", "ü/x")), **(filled if mutator.maybe(0.7) else {})
    )
    for _ in range(mutator.chance.choice((0, 0, 0, 1, 5, 16))):
        context = context.create_child_context("tool:x", {"step": 1})
    return context


def sign(raw: bytes, mutator: Mutator, signer: Signer = SIGNER) -> str:
    """Returns these bytes signed with the right key, packed or not, as `Signer` signs JSON."""
    body = base64_encode(raw)
    if mutator.maybe(0.2):
        body = b"." + base64_encode(zlib.compress(raw))
    if mutator.maybe(0.02):
        body = mutator.bytes(body)
    made: bytes = signer._serializer.make_signer(signer._serializer.salt).sign(body)
    return made.decode("latin-1")


def fuzz_codec(tally: Tally, seed: int, inputs: int) -> None:
    """Makes so many: a quarter contexts, half messages signed after the change, a quarter changed after that."""
    mutator = Mutator(f"codec {seed}")
    for number in range(inputs):
        if number % 500 == 0:
            contexts = [sound_context(mutator).to_dict() for _ in range(20)]
            messages = [{"context": one, "attempt": mutator.chance.randrange(4)} for one in contexts]
            texts = [SIGNER.sign(message) for message in messages]
        match number % 4:
            case 0:
                _context(tally, mutator, mutator.chance.choice(contexts))
            case 1 | 2:
                _signed(tally, mutator, mutator.chance.choice(messages))
            case _:
                _changed(tally, mutator, mutator.chance.choice(texts))


def _context(tally: Tally, mutator: Mutator, sound: dict[str, Any]) -> None:
    changed = mutator.value(sound)
    try:
        context = UserExecutionContext.from_dict(changed)
    except InvalidContextError as error:
        tally.count("context", type(error).__name__)
        if not error.errors:
            tally.find("context", "the error names no field", changed)
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        tally.find("context", repr(error), changed)
    else:
        tally.count("context", ACCEPTED)
        if (problem := _wrong_with(context)) is not None:
            tally.find("context", problem, changed)


def _wrong_with(context: UserExecutionContext) -> str | None:
    written = validate_user_context(context).to_dict()
    if UserExecutionContext.from_dict(json.loads(json.dumps(written))).to_dict() != written:
        return "it does not survive being written and read"
    if max(map(len, (context.user_id, context.run_id, context.thread_id))) > MAX_ID_LENGTH:
        return "an id is too long"
    return None


def _signed(tally: Tally, mutator: Mutator, sound: dict[str, Any]) -> None:
    raw = mutator.text(mutator.value(sound)).encode(errors="surrogatepass")
    _decode(tally, "message.signed", sign(raw, mutator))


def _changed(tally: Tally, mutator: Mutator, sound: str) -> None:
    kept = mutator.chance.choice((0, 0, len(sound) - 50, len(sound) - 3))  # time and signature, or its end
    text = sound[:kept] + mutator.characters(sound[kept:]) if mutator.maybe(0.95) else mutator.odd()
    message = _decode(tally, "message.changed", text)
    if message is not None and text != sound:
        tally.find("message.changed", "a text that nobody signed is taken", text)


def _decode(tally: Tally, kind: str, text: object) -> RunMessage | None:
    try:
        message = RunMessage.decode(text, SIGNER)
        again = RunMessage.decode(message.encode(SIGNER), SIGNER)
    except SignatureError as error:
        tally.count(kind, error.message.removeprefix("the message is ").removeprefix("the "))
        return None
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        tally.find(kind, repr(error), text)
        return None
    tally.count(kind, ACCEPTED)
    if again != message or type(message.attempt) is not int or message.attempt < 0:
        tally.find(kind, "it does not survive being written and read", text)
    return message
