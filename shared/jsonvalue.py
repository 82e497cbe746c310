"""JSON values: read-only copies for contexts, and the check that a value can be stored before it is accepted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from shared.errors import InvalidError, TooLargeError

MAX_NESTING = 20


def freeze(value: Any, field: str, depth: int = 0) -> Any:
    """Returns a deep, read-only copy: dicts as mapping proxies, lists as tuples.

    Args:
        value: a JSON value.
        field: how to call it in an error.
        depth: of `value` below the whole.

    Raises:
        TypeError: for what JSON cannot carry, naming the field.
        ValueError: for NaN, infinities, and nesting deeper than 20.
    """
    if depth > MAX_NESTING:
        raise ValueError(f"{field} is nested deeper than {MAX_NESTING}")
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{field} is not a finite number")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{field} has a key that is not a string")
        return MappingProxyType({key: freeze(item, f"{field}.{key}", depth + 1) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item, f"{field}[{n}]", depth + 1) for n, item in enumerate(value))
    raise TypeError(f"{field} holds a {type(value).__name__}, which JSON cannot carry")


def thaw(value: Any) -> Any:
    """Returns a fresh, mutable copy of a frozen value, ready for `json.dumps`."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [thaw(item) for item in value]
    return value


def check_json(value: Any, field: str, max_bytes: int) -> Any:
    """Returns a JSON value that Postgres can store as it is.

    Args:
        value: what `json.loads` returned.
        field: how to call it in an error.
        max_bytes: the limit for its compact UTF-8 text.

    Raises:
        TooLargeError: above the limit.
        InvalidError: NaN, infinities, U+0000, lone surrogates, or nesting deeper than 20.
    """
    try:
        freeze(value, field)
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        size = len(text.encode())
    except UnicodeEncodeError:
        raise _invalid(field, "contains a lone surrogate, which is not text") from None
    except (TypeError, ValueError) as error:
        raise _invalid(field, str(error)) from None
    if size > max_bytes:
        raise TooLargeError(f"{field} has {size} bytes; the limit is {max_bytes}")
    if "\\u0000" in text and _has_nul(value):
        raise _invalid(field, "contains the character U+0000")
    return value


def clean_json(value: Any) -> Any:
    """Returns a copy in which what Postgres cannot store (U+0000, lone surrogates) is replaced by U+FFFD."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {clean_json(key): clean_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_json(item) for item in value]
    return value


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, Mapping):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    return isinstance(value, list | tuple) and any(map(_has_nul, value))


def _invalid(field: str, problem: str) -> InvalidError:
    message = problem if problem.startswith(field) else f"{field} {problem}"  # `freeze` names the place inside it
    return InvalidError(message, errors=[{"field": field, "message": problem}])
