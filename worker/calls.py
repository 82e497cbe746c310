"""What a sandbox may ask its runner for: each method with the check of its parameters, which are untrusted.

The runner adds the user, the thread and the run; a sandbox cannot name one. What answers is a `RedisManager` and a
`RunRecords`: Redis and Postgres in a worker (`worker/records.py`), memory where an agent runs without a fleet.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

from shared.errors import InvalidError, TooLargeError
from shared.jsonvalue import check_json
from worker.interfaces import RedisManager, RunRecords

MAX_KEY = 128
MAX_VALUE_BYTES = 64 * 1024
MAX_TTL_S = 7 * 86_400
MAX_VALUES = 1000  # of a user, of 64 KiB each: Redis holds the slots of all, and must not be filled by one
FULL_STORE = f"the user's runs keep {MAX_VALUES} values, which is the limit"
MAX_STEP_NAME = 500
MAX_RECORD_BYTES = 1025 * 1024  # a step's result of 1 MiB, and a little that the orchestrator puts round it
MAX_STATE_BYTES = 256 * 1024
MAX_AGENT = 64
MAX_MODEL = 200
MAX_TOKEN = 64
MAX_ARTIFACT_BYTES = 4 * 1024 * 1024
MAX_TOKENS = 10**9
SCOPES = ("thread", "run")
ARTIFACT_NAME = re.compile(r"[\w][\w .()+-]{0,99}")
CONTENT_TYPE = re.compile(r"[a-z]+/[\w.+-]{1,80}(; ?charset=[\w-]{1,20})?", re.ASCII)

Parameters = dict[str, Any]


class Calls:
    """Answers the calls of one run.

    Args:
        store: of the run's user.
        records: of the run.
    """

    def __init__(self, store: RedisManager, records: RunRecords) -> None:
        self._methods: dict[str, Callable[[Parameters], Any]] = {
            "store.get": lambda p: store.get(_key(p)),
            "store.set": lambda p: store.set(_key(p), _value(p, MAX_VALUE_BYTES), _ttl_s(p)),
            "step.load": lambda p: records.load_step(_step(p)),
            "step.record": lambda p: records.record_step(_step(p), _value(p, MAX_RECORD_BYTES)),
            "state.load": lambda p: records.load_state(_agent(p), _scope(p)),
            "state.save": lambda p: records.save_state(
                _agent(p),
                _scope(p),
                _whole(p, "expected", 2**53),
                _value(p, MAX_STATE_BYTES),
                _text(p, "token", MAX_TOKEN),
            ),
            "artifact.save": lambda p: records.save_artifact(*_artifact(p)),
            "usage.add": lambda p: records.add_usage(
                _text(p, "model", MAX_MODEL),
                _whole(p, "input_tokens", MAX_TOKENS),
                _whole(p, "output_tokens", MAX_TOKENS),
            ),
        }

    def answer(self, method: str, parameters: Parameters) -> Any:
        """Returns what the sandbox asked for.

        Raises:
            InvalidError: unknown method, or a bad parameter, naming it and its limit.
            TooLargeError: a value above its limit.
            LanewiseError: what store and records raise.
        """
        if method not in self._methods:
            raise InvalidError(f"a sandbox cannot call {method[:MAX_KEY]!r}")
        return self._methods[method](parameters)


def _key(parameters: Parameters) -> str:
    return _text(parameters, "key", MAX_KEY)


def _step(parameters: Parameters) -> str:
    return _text(parameters, "name", MAX_STEP_NAME)


def _agent(parameters: Parameters) -> str:
    return _text(parameters, "agent", MAX_AGENT)


def _text(parameters: Parameters, name: str, limit: int) -> str:
    value = parameters.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= limit or not value.isprintable():
        raise InvalidError(f"{name} must be 1 to {limit} printable characters")
    return value


def _scope(parameters: Parameters) -> str:
    scope = parameters.get("scope")
    if scope not in SCOPES:
        raise InvalidError(f"scope must be {' or '.join(map(repr, SCOPES))}")
    return str(scope)


def _value(parameters: Parameters, limit: int) -> Any:
    return check_json(parameters.get("value"), "value", limit)


def _whole(parameters: Parameters, name: str, limit: int) -> int:
    value = parameters.get(name)
    if type(value) is not int or not 0 <= value <= limit:
        raise InvalidError(f"{name} must be a whole number from 0 to {limit}")
    return value


def _ttl_s(parameters: Parameters) -> float:
    ttl_s = parameters.get("ttl_s")
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not 0 < ttl_s <= MAX_TTL_S:
        raise InvalidError(f"ttl_s must be a number of seconds above 0, at most {MAX_TTL_S}")
    return ttl_s


def _artifact(parameters: Parameters) -> tuple[str, str, bytes]:
    name, kind, text = (parameters.get(key) for key in ("name", "content_type", "content"))
    if not isinstance(name, str) or ARTIFACT_NAME.fullmatch(name) is None or name != name.strip():
        raise InvalidError(
            "name must be 1 to 100 letters, digits, spaces or any of . _ - + ( ), and begin with a letter or digit"
        )
    if not isinstance(kind, str) or CONTENT_TYPE.fullmatch(kind) is None:
        raise InvalidError("content_type must be like text/markdown or text/csv; charset=utf-8")
    try:
        content = base64.b64decode(text if isinstance(text, str) else "?", validate=True)
    except ValueError:  # binascii.Error is one, and so is what it says of other scripts
        raise InvalidError("content must be base64") from None
    if len(content) > MAX_ARTIFACT_BYTES:
        raise TooLargeError(f"content has {len(content)} bytes; the limit is {MAX_ARTIFACT_BYTES}")
    return name, kind, content
