"""What somebody with access to the broker could do to the messages in it."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable
from typing import Any

from itsdangerous import URLSafeTimedSerializer

from shared.messages import PURPOSE
from shared.signing import Signer
from tests.chaos.stores import Stores

QUEUE = "lw:default:broker:default"
LOOK_S = 8.0
TAKEN_S = 10.0
# The next message to be taken is the last one of the list.
DOUBLE = "local m = redis.call('LINDEX', KEYS[1], -1) if m then redis.call('RPUSH', KEYS[1], m) end return m"
REMOVE = "return redis.call('RPOP', KEYS[1])"
LOOK = "return redis.call('LINDEX', KEYS[1], -1)"


def double(stores: Stores) -> dict[str, Any]:
    """Puts a copy of the next message beside it."""
    found = _catch(stores, DOUBLE)
    return {"doubled": _task(found)} if found else {}


def remove(stores: Stores) -> dict[str, Any]:
    """Takes the next message away."""
    found = _catch(stores, REMOVE)
    return {"removed": _task(found)} if found else {}


def forge(stores: Stores, chance: random.Random, other_user: str) -> dict[str, Any]:
    """Puts something in front of the next message that looks like it, and waits until a worker has taken it."""
    how, change = chance.choice(FORGERIES)
    found = _catch(stores, LOOK)
    if not found:
        return {}
    message = json.loads(found)
    arguments = json.loads(base64.b64decode(message["body"]))
    arguments[0][0] = change(arguments[0][0], other_user)
    message["body"] = base64.b64encode(json.dumps(arguments).encode()).decode()
    forged = json.dumps(message)
    stores.broker.rpush(QUEUE, forged)
    deadline = time.monotonic() + TAKEN_S
    while stores.broker.lpos(QUEUE, forged) is not None:
        if time.monotonic() > deadline:
            return {}
        time.sleep(0.01)
    return {"forged": how, "from": _task(found)}


def _unsigned(text: str, _other: str) -> str:
    return text.rpartition(".")[0]


def _wrong_key(text: str, _other: str) -> str:
    return Signer(("another-secret-" + "0" * 32,), PURPOSE, "default").sign(_content(text))


def _edited_user(text: str, other: str) -> str:
    content = _content(text)
    content["context"]["user_id"] = other
    return _with_content(text, content)


def _edited_attempt(text: str, _other: str) -> str:
    content = _content(text)
    content["attempt"] += 1
    return _with_content(text, content)


FORGERIES: list[tuple[str, Callable[[str, str], str]]] = [
    ("unsigned", _unsigned),
    ("signed with another key", _wrong_key),
    ("another user", _edited_user),
    ("another attempt", _edited_attempt),
]
_reader = URLSafeTimedSerializer("nobody's")


def _content(text: str) -> Any:
    return _reader.load_payload(text.rsplit(".", 2)[0].encode())


def _with_content(text: str, content: Any) -> str:
    payload = _reader.dump_payload(content)
    return ".".join((payload.decode(), *text.rsplit(".", 2)[1:]))


def _catch(stores: Stores, script: str) -> str | None:
    """Runs a script until it finds a message; they are taken within milliseconds."""
    run = stores.broker.register_script(script)
    deadline = time.monotonic() + LOOK_S
    while time.monotonic() < deadline:
        found = run(keys=[QUEUE])
        if found:
            return str(found)
        time.sleep(0.002)
    return None


def _task(message: str) -> str:
    return str(json.loads(message)["headers"]["id"])
