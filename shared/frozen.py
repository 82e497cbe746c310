"""Read-only JSON values: what a context carries can be shared without anybody being able to change it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

MAX_NESTING = 20


def freeze(value: Any, field: str, depth: int = 0) -> Any:
    """Returns a deep, read-only copy: dicts as mapping proxies, lists as tuples.

    Args:
        value: a JSON value.
        field: how to call it in an error.

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
