"""State on a class: what one run could leave there for the next one in the same process, that of another user.

Each run has a process of its own, so this is the second wall: a mistake is told when the class is registered, with its
cure. It can't see everything: a class may still assign to itself (`Cls.count += 1`), so may a module, and a decorator
may remember what it likes.
"""

from __future__ import annotations

import random
import threading
from abc import ABC, ABCMeta
from collections.abc import Iterable, Iterator, MutableMapping, MutableSequence, MutableSet
from contextvars import ContextVar
from enum import Enum
from functools import cached_property, partial
from pathlib import PurePath
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, Generic

from pydantic import BaseModel

from worker.places import unsound

# Attributes that the language makes, or asks for; a name with underscores alone excuses nothing.
_OF_THE_LANGUAGE = {
    "__annotations__", "__annotations_cache__", "__dataclass_fields__", "__dict__", "__non_callable_proto_members__",
    "__protocol_attrs__", "__slots__", "__weakref__",
}  # fmt: skip
_KNOWN_CLASSES = {object, type, ABC, ABCMeta, Generic}
_MUTABLE = (MutableMapping, MutableSequence, MutableSet, ContextVar, threading.local, random.Random, Iterator)
# What has one of these methods holds something open for others to use: a client, a file, a pool, a lock.
_ENDINGS = ("close", "aclose", "dispose", "shutdown", "release")
# Their objects hold dicts and locks, and are made to stand anywhere: classes, paths, loggers, schemas, SQL.
_HARMLESS = (type, ModuleType, Enum, PurePath)
_HARMLESS_PACKAGES = ("logging.", "structlog.", "pydantic.", "pydantic_core.", "sqlalchemy.sql.", "typing.")

_SHARED = "which all users would share"


def check_state(cls: type[Any], base: type[Any]) -> None:
    """Refuses a class on which something stands that a run can change.

    Args:
        base: `Agent` or `Tool`, of which the class is one.

    Raises:
        ConfigurationError: naming class, attribute and cure.
    """
    known = {*base.__mro__, *type(base).__mro__, *_KNOWN_CLASSES}
    for owner in (*cls.__mro__, *type(cls).__mro__):
        if owner in known:
            continue
        _check_attributes(owner)


def _check_attributes(owner: type[Any]) -> None:
    for attribute, value in vars(owner).items():
        problem = "" if attribute in _OF_THE_LANGUAGE else _problem(value)
        if problem:
            raise unsound(owner, attribute, problem)
        if _is_nested(value, owner):
            _check_attributes(value)


def _is_nested(value: Any, owner: type[Any]) -> bool:
    """Whether it is a plain class in the body of another: of enums, models and tuples the makers put dicts there."""
    return (
        isinstance(value, type)
        and value.__qualname__ == f"{owner.__qualname__}.{value.__name__}"
        and not issubclass(value, Enum | BaseModel | tuple | dict)
    )


def _problem(value: Any) -> str:
    """Returns what is wrong with the value of an attribute, and the cure; "" if nothing is."""
    if isinstance(value, staticmethod | classmethod | property | cached_property):
        functions = [getattr(value, name, None) for name in ("__func__", "fget", "fset", "fdel", "func")]
        return next(filter(None, map(_problem, functions)), "")
    if hasattr(value, "cache_info"):
        return f"remembers its calls and results, {_SHARED}: keep what is to be remembered on self"
    if isinstance(value, FunctionType):
        return _problem_of_defaults(value) or _problem(getattr(value, "__wrapped__", None))
    found = _changeable(value, set())
    if found is None:
        return ""
    what = "is" if found is value else "holds"
    cure = "set it in __init__"
    if isinstance(value, MutableMapping | MutableSequence | MutableSet):
        cure += ", or make it a tuple, frozenset or MappingProxyType"
    return f"{what} a {type(found).__name__} on the class, {_SHARED}: {cure}"


def _problem_of_defaults(function: FunctionType) -> str:
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        found = _changeable(default, set())
        if found is not None:
            return f"has a {type(found).__name__} as the default of a parameter, {_SHARED}: make it None or a tuple"
    return ""


def _changeable(value: Any, seen: set[int]) -> Any:
    """Returns the value, or what is in it, if a run can change it; else None."""
    if id(value) in seen or isinstance(value, _HARMLESS) or _full_name(type(value)).startswith(_HARMLESS_PACKAGES):
        return None
    seen.add(id(value))
    if isinstance(value, _MUTABLE) or any(hasattr(value, name) for name in _ENDINGS):
        return value
    if getattr(getattr(value, "flags", None), "writeable", False):  # an array of numpy's
        return value
    dataclass = getattr(value, "__dataclass_params__", None)
    if dataclass is not None and not dataclass.frozen:
        return value
    if isinstance(value, BaseModel) and not value.model_config.get("frozen"):
        return value
    return next((found for part in _parts(value) if (found := _changeable(part, seen)) is not None), None)


def _parts(value: Any) -> Iterable[Any]:
    match value:
        case tuple() | frozenset():
            return value
        case MappingProxyType():
            return value.values()
        case partial():
            return [*value.args, *value.keywords.values()]
        case FunctionType():
            return ()
    slots = (getattr(value, name, None) for owner in type(value).__mro__ for name in _slots(owner))
    return [*getattr(value, "__dict__", {}).values(), *slots]


def _slots(owner: type[Any]) -> list[str]:
    names = vars(owner).get("__slots__", ())
    return [f"_{owner.__name__.lstrip('_')}{name}" if name.startswith("__") else name for name in
            ([names] if isinstance(names, str) else names)]  # fmt: skip


def _full_name(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
