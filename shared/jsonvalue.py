"""JSON values: read-only copies for contexts, and the check that a value can be stored before it is accepted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from shared.errors import InvalidError, TooLargeError

MAX_NESTING = 20
MAX_KEY_SHOWN = 64  # characters, in an error


def freeze(value: Any, field: str) -> Any:
    """Returns a deep, read-only copy: dicts as mapping proxies, lists as tuples.

    Args:
        value: a JSON value.
        field: how to call it in an error.

    Raises:
        TypeError: for what JSON cannot carry, naming the field.
        ValueError: for NaN, infinities, and nesting deeper than 20.
    """
    return _freeze(value, field, ())


def _freeze(value: Any, field: str, place: tuple[str | int, ...]) -> Any:
    # Its place (keys and indices) is written out where something is wrong: for each value that would copy long keys.
    if len(place) > MAX_NESTING:
        raise ValueError(f"{_name(field, place)} is nested deeper than {MAX_NESTING}")
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{_name(field, place)} is not a finite number")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{_name(field, place)} has a key that is not a string")
        return MappingProxyType({key: _freeze(item, field, (*place, key)) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_freeze(item, field, (*place, n)) for n, item in enumerate(value))
    raise TypeError(f"{_name(field, place)} holds a {type(value).__name__}, which JSON cannot carry")


def _name(field: str, place: tuple[str | int, ...]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part[:MAX_KEY_SHOWN]}" for part in place)
    return field + "".join(parts)


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
        text = _written(value, field)
        size = len(text.encode())
        if size > max_bytes:  # before each value of it is looked at
            raise TooLargeError(f"{field} has {size} bytes; the limit is {max_bytes}")
        freeze(value, field)
    except UnicodeEncodeError:
        raise _invalid(field, "contains a lone surrogate, which is not text") from None
    except (TypeError, ValueError) as error:
        raise _invalid(field, str(error)) from None
    if "\\u0000" in text and has_nul(value):
        raise _invalid(field, "contains the character U+0000")
    return value


def _written(value: Any, field: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, RecursionError):
        freeze(value, field)  # says where
        raise


def clean_json(value: Any) -> Any:
    """Returns a copy in which what Postgres cannot store (U+0000, lone surrogates) is replaced by U+FFFD."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {clean_json(key): clean_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_json(item) for item in value]
    return value


def has_nul(value: Any) -> bool:
    """Tells whether U+0000, which Postgres does not store, is anywhere in a JSON value or its keys."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, Mapping):
        return any(has_nul(key) or has_nul(item) for key, item in value.items())
    return isinstance(value, list | tuple) and any(map(has_nul, value))


def _invalid(field: str, problem: str) -> InvalidError:
    message = problem if problem.startswith(field) else f"{field} {problem}"  # `freeze` names the place inside it
    return InvalidError(message, errors=[{"field": field, "message": problem}])
