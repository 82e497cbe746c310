"""What a sandbox may ask its runner for. The runner adds the user; the sandbox cannot name one."""

from __future__ import annotations

import json
from typing import Any

from shared.errors import InvalidError, TooLargeError, UnavailableError
from shared.models import Run
from shared.redis import RedisError
from shared.services import Services

MAX_KEY = 128
MAX_VALUE_BYTES = 64 * 1024
MAX_TTL_S = 7 * 86_400


def answer(services: Services, run: Run, method: str, parameters: dict[str, Any]) -> Any:
    """Returns what the sandbox of this run asked for.

    Raises:
        InvalidError: unknown method, or a bad key, value or time to live; naming the limit.
        TooLargeError: a value above 64 KiB.
        UnavailableError: Redis is away.
    """
    try:
        if method == "store.get":
            text = services.redis.get(_key(services, run, parameters))
            return None if text is None else json.loads(str(text))
        if method == "store.set":
            ttl_ms = _ttl_ms(parameters.get("ttl_s"))
            services.redis.set(_key(services, run, parameters), _value(parameters.get("value")), px=ttl_ms)
            return None
    except RedisError as error:
        raise UnavailableError("the store is away; try again shortly") from error
    raise InvalidError(f"a sandbox cannot call {method[:MAX_KEY]!r}")


def _key(services: Services, run: Run, parameters: dict[str, Any]) -> str:
    key = parameters.get("key")
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY or not key.isprintable():
        raise InvalidError(f"key must be 1 to {MAX_KEY} printable characters")
    return services.keys.store(run.user_id, key)


def _value(value: Any) -> str:
    text = json.dumps(value)
    if len(text) > MAX_VALUE_BYTES:
        raise TooLargeError(f"value has {len(text)} bytes; the limit is {MAX_VALUE_BYTES}")
    return text


def _ttl_ms(ttl_s: Any) -> int:
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not 0 < ttl_s <= MAX_TTL_S:
        raise InvalidError(f"ttl_s must be a number of seconds above 0, at most {MAX_TTL_S}")
    return max(1, round(ttl_s * 1000))
