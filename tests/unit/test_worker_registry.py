from __future__ import annotations

import io
import itertools
import logging
import random
import re
import threading
import time
from array import array
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import cached_property, lru_cache, partial, singledispatchmethod, wraps
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, NamedTuple, Protocol, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
import pytest
import sqlalchemy as sa
import structlog
from pydantic import BaseModel, TypeAdapter

from shared.context import UserExecutionContext
from shared.errors import ConfigurationError, UnknownAgentError
from tests.parts import registry_of
from worker.authoring import Agent, AgentRun, Tool
from worker.registry import AgentClassRegistry, check_agent_class, check_tool_class


class Count(Agent):
    """Counts."""

    name = "count"

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        return {}


class Look(Tool):
    """Looks."""

    name = "look"

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        return {}


def an_agent(name: str = "made", base: type[Agent] = Count, **attributes: Any) -> type[Agent]:
    return type("Made", (base,), {"__doc__": "Made for a test.", "name": name, **attributes})


def a_tool(name: str = "made", base: type[Tool] = Look, **attributes: Any) -> type[Tool]:
    return type("MadeTool", (base,), {"__doc__": "Made for a test.", "name": name, **attributes})


def test_a_registered_class_is_found_by_its_name() -> None:
    registry = registry_of(Count, an_agent("other"))
    assert registry.get("count") is Count
    assert registry.names() == ["count", "other"]


@pytest.mark.parametrize("what", [Count(), "count", Look, object, None])
def test_only_agent_classes_are_taken(what: Any) -> None:
    with pytest.raises(ConfigurationError, match="not a subclass of Agent"):
        AgentClassRegistry().register(what)


def test_an_unknown_name_says_what_there_is_and_what_is_near() -> None:
    registry = registry_of(Count, an_agent("draw"))
    with pytest.raises(UnknownAgentError, match=r"'cuont'; did you mean 'count'\?; there are: count, draw") as caught:
        registry.get("cuont")
    assert caught.value.errors[0]["field"] == "agent"
    with pytest.raises(UnknownAgentError, match="'xyz'; there are: count, draw"):
        registry.get("xyz")
    with pytest.raises(UnknownAgentError, match="there are: none"):
        registry_of().get("count")


def test_a_frozen_registry_takes_nothing_more() -> None:
    registry = registry_of(Count)
    with pytest.raises(ConfigurationError, match="frozen"):
        registry.register(an_agent("late"))
    with pytest.raises(TypeError):
        registry._agents["late"] = an_agent("late")
    assert registry.names() == ["count"]


def test_two_classes_of_one_name_are_refused_and_both_are_named() -> None:
    registry = AgentClassRegistry()
    registry.register(Count)
    registry.register(Count)  # the same class by two ways: an entry point and a setting
    with pytest.raises(ConfigurationError, match=r"'count'.*Count \(.*, line \d+\) and .*Made: rename one"):
        registry.register(an_agent("count"))


class Slow(dict[str, type[Agent]]):
    """Gives every other thread its chance between look and write."""

    def get(self, key: Any, default: Any = None) -> Any:
        found = super().get(key, default)
        time.sleep(0.01)
        return found


def test_of_threads_that_register_one_name_exactly_one_wins() -> None:
    registry = AgentClassRegistry()
    registry._agents = Slow()
    classes = [an_agent("same") for _ in range(8)]
    refused: list[ConfigurationError] = []
    together = threading.Barrier(len(classes))

    def register(cls: type[Agent]) -> None:
        together.wait(5)
        try:
            registry.register(cls)
        except ConfigurationError as error:
            refused.append(error)

    in_threads(register, classes)
    assert len(refused) == len(classes) - 1
    assert registry.get("same") in classes


def test_nothing_gets_in_beside_the_freezing() -> None:
    registry = AgentClassRegistry()
    registry._agents = Slow()
    registered: list[str] = []
    begun = threading.Event()

    def register(number: int) -> None:
        cls = an_agent(f"agent-{number}")
        begun.set()
        try:
            registry.register(cls)
        except ConfigurationError:
            return
        registered.append(cls.name)

    def freeze(_: int) -> None:
        begun.wait(5)
        registry.freeze()

    in_threads(lambda n: freeze(n) if n == 0 else register(n), range(9))
    assert registry.names() == sorted(registered)


def in_threads(work: Callable[[Any], None], items: Any) -> None:
    threads = [threading.Thread(target=work, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


MUTABLE = [
    {}, [], set(), bytearray(), deque(), defaultdict(list), Counter(), OrderedDict(), UserDict(),
]  # fmt: skip


@pytest.mark.parametrize("value", MUTABLE, ids=lambda value: type(value).__name__)
def test_what_users_would_share_is_refused_on_the_class(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"Made\.cache is a {type(value).__name__} .*__init__"):
        check_agent_class(an_agent(cache=value))
    with pytest.raises(ConfigurationError, match=rf"MadeTool\.cache is a {type(value).__name__} .*__init__"):
        check_tool_class(a_tool(cache=value))


def test_what_users_would_share_is_refused_on_a_base_a_mixin_and_a_tool() -> None:
    mixin = type("Mixin", (), {"seen": []})
    with pytest.raises(ConfigurationError, match=r"\.seen is a list"):
        check_agent_class(type("Mixed", (mixin, Count), {"__doc__": "Mixed.", "name": "mixed"}))
    with pytest.raises(ConfigurationError, match=r"\.seen is a list"):
        check_agent_class(an_agent(base=an_agent(seen=[])))
    with pytest.raises(ConfigurationError, match=r"MadeTool\.seen is a list"):
        check_agent_class(an_agent(tools=(a_tool(base=a_tool(seen=[])),)))


def test_a_private_name_hides_nothing() -> None:
    class Private(Count):
        """Hides."""

        name = "private"
        __cache: ClassVar[dict[str, str]] = {}

    with pytest.raises(ConfigurationError, match="cache is a dict"):
        check_agent_class(Private)


class CountSettings(BaseModel):
    count: int = 0


class Memory:
    """Of an author: what a run says stays in it."""

    def __init__(self) -> None:
        self.said: list[str] = []


class Slotted:
    __slots__ = ("__seen", "name")

    def __init__(self) -> None:
        self.name, self.__seen = "x", set[str]()


@dataclass
class Point:
    x: int = 0


@dataclass(frozen=True)
class Frozen:
    parts: Any = ()


class Settings(BaseModel, frozen=True):
    names: tuple[str, ...] = ("a",)
    more: Any = None


class Colour(Enum):
    RED = (1, 2)


@lru_cache
def remembered(number: int) -> int:
    return number


def with_default(self: Any, context: Any, run: Any, seen: Any = []) -> None:  # noqa: B006 - what must be refused
    pass


def with_keyword(self: Any, context: Any, run: Any, *, seen: Any = Memory()) -> None:  # noqa: B008 - as above
    pass


CHANGEABLE: dict[str, tuple[Any, str]] = {
    "an array": (array("i"), "is a array"),
    "a client": (httpx.Client(), "is a Client"),
    "a lock": (threading.Lock(), "is a lock"),
    "an event": (threading.Event(), "holds a Condition"),
    "a local": (threading.local(), "is a _local"),
    "a context variable": (ContextVar("seen"), "is a ContextVar"),
    "a generator of chance": (random.Random(), "is a Random"),
    "an iterator": (iter("abc"), "is a str_ascii_iterator"),
    "a counter": (itertools.count(), "is a count"),
    "a generator": ((n for n in range(3)), "is a generator"),
    "a file": (io.BytesIO(), "is a BytesIO"),
    "an engine": (sa.create_engine("sqlite://"), "is a Engine"),
    "in a tuple": ((1, ("a", [2])), "holds a list"),
    "in a mapping": (MappingProxyType({"a": {}}), "holds a dict"),
    "in a frozen dataclass": (Frozen((1, [])), "holds a list"),
    "in a frozen model": (Settings(more={}), "holds a dict"),
    "in an object": (Memory(), "holds a list"),
    "in a slot": (Slotted(), "holds a set"),
    "in a partial": (partial(print, []), "holds a list"),
    "a dataclass": (Point(), "is a Point"),
    "a model": (CountSettings(), "is a CountSettings"),
    "an array of numbers": (SimpleNamespace(flags=SimpleNamespace(writeable=True)), "is a SimpleNamespace"),
    "a cached method": (remembered, "remembers its calls"),
    "a cached static method": (staticmethod(remembered), "remembers its calls"),
    "a cached class method": (classmethod(remembered), "remembers its calls"),  # type: ignore[arg-type]
    "a cached property": (property(remembered), "remembers its calls"),
    "a cached method in a wrapper": (wraps(remembered)(lambda: None), "remembers its calls"),
    "a default": (with_default, "has a list as the default of a parameter"),
    "a default by keyword": (with_keyword, "has a list as the default of a parameter"),
}


@pytest.mark.parametrize("what", CHANGEABLE)
def test_state_in_disguise_is_refused_with_a_cure(what: str) -> None:
    value, found = CHANGEABLE[what]
    for check, make in ((check_agent_class, an_agent), (check_tool_class, a_tool)):
        with pytest.raises(
            ConfigurationError, match=rf"Made\w*\.shared {found}.* all users would share: (set|keep|make)"
        ):
            check(make(shared=value))


def test_underscores_hide_nothing() -> None:
    with pytest.raises(ConfigurationError, match=r"__cache__ is a dict"):
        check_agent_class(an_agent(__cache__={}))


def test_a_metaclass_hides_nothing() -> None:
    meta = type("Meta", (type(Count),), {"seen": []})
    with pytest.raises(ConfigurationError, match=r"Meta\.seen is a list"):
        check_agent_class(meta("Made", (Count,), {"__doc__": "Made.", "name": "made"}))


class Nesting(Count):
    """Has state on a class within its own."""

    name = "nesting"

    class Helper:
        class Innermost:
            seen: ClassVar[Any] = []


def test_a_class_within_hides_nothing() -> None:
    with pytest.raises(ConfigurationError, match=r"Nesting\.Helper\.Innermost\.seen is a list.*test_worker_registry"):
        check_agent_class(Nesting)


class Fine(Count):
    """Has what may stand on a class."""

    name = "fine"
    __slots__ = ["value"]
    NUMBERS = (1, 2.5, True, None, 3j, b"x", range(3), slice(1), ...)
    SETS: ClassVar[Any] = (frozenset({1}), MappingProxyType({"x": (1,)}))
    PATTERN = re.compile("a+")
    PLACE = Path("/tmp/x/y")  # noqa: S108 - only a name
    AT = (datetime.now(UTC), timedelta(1), ZoneInfo("Europe/Berlin"), Decimal(1), Fraction(1, 2), UUID(int=1))
    COLOUR = Colour.RED
    FROZEN = (Frozen(), Settings())
    KIND: ClassVar[Any] = (dict, list[int], dict[str, list[int]], Colour, BaseModel)
    ADAPTER: ClassVar[Any] = TypeAdapter(list[int])
    QUERY = sa.text("SELECT :a").bindparams(a=1)
    LOG: ClassVar[Any] = (logging.getLogger("x"), structlog.get_logger())
    NOTHING = object()
    CALL = partial(print, "a", end="")
    ITEMS = itemgetter("a")

    class Input(BaseModel):
        words: list[str] = []

    class Pair(NamedTuple):
        first: int = 1

    class Options(TypedDict, total=False):
        second: int

    class Point(Protocol):
        x: int

    @dataclass
    class Place:
        parts: list[str] = field(default_factory=list)

    class Helper:
        """Makes something."""

        def make(self, words: tuple[str, ...] = ()) -> list[str]:
            return [*words]

    HELPER = Helper()

    @cached_property
    def own(self) -> list[str]:
        return []

    @property
    def other(self) -> list[str]:
        return []

    @staticmethod
    def static(a: int = 1, *, b: str | None = None) -> None:
        pass

    @classmethod
    def of_class(cls) -> None:
        pass

    @singledispatchmethod
    def by_kind(self, value: Any) -> None:
        pass


def test_what_cannot_be_changed_may_stand_on_the_class() -> None:
    check_agent_class(Fine)


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "a.b", "-", "a\n", "x" * 65, None, 7])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"\.name must be 1 to 64"):
        check_agent_class(an_agent(name))
    with pytest.raises(ConfigurationError, match=r"\.name must be 1 to 64"):
        check_tool_class(a_tool(name))


@pytest.mark.parametrize("name", ["a", "A-1", "data_helper", "x" * 64])
def test_a_plain_name_is_taken(name: str) -> None:
    check_agent_class(an_agent(name))
    check_tool_class(a_tool(name))


class Unschemed(BaseModel):
    act: Callable[[], None]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"__doc__": None}, "no docstring"),
        ({"__doc__": ""}, "no docstring"),
        ({"Input": dict}, r"\.Input must be a pydantic model"),
        ({"Input": Look}, r"\.Input must be a pydantic model"),
        ({"Input": Unschemed}, r"\.Input .*JSON Schema"),
        ({"time_limit_s": 0}, r"\.time_limit_s"),
        ({"time_limit_s": "60"}, r"\.time_limit_s"),
        ({"time_limit_s": float("inf")}, r"\.time_limit_s"),
        ({"time_limit_s": float("nan")}, r"\.time_limit_s"),
        ({"max_attempts": 0}, r"\.max_attempts"),
        ({"max_attempts": 1.5}, r"\.max_attempts"),
        ({"queue": ""}, r"\.queue"),
        ({"queue": 5}, r"\.queue"),
        ({"tools": [Look]}, r"\.tools must be a tuple"),
        ({"tools": (Look, a_tool("look"))}, "two tools of one name: look, look"),
        ({"tools": (Look("scope"),)}, "not a subclass of Tool"),  # type: ignore[arg-type]
        ({"tools": (Count,)}, "not a subclass of Tool"),
    ],
)
def test_an_unsound_agent_is_refused_with_what_is_wrong(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_agent_class(an_agent(**attributes))


def test_an_agent_needs_an_execute_and_a_tool_a_run() -> None:
    with pytest.raises(ConfigurationError, match="no execute"):
        check_agent_class(an_agent(base=Agent))
    with pytest.raises(ConfigurationError, match="no run"):
        check_tool_class(a_tool(base=Tool))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [({"__doc__": None}, "no docstring"), ({"Parameters": dict}, "Parameters"), ({"permission": "all"}, "permission")],
)
def test_an_unsound_tool_is_refused_with_what_is_wrong(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_tool_class(a_tool(**attributes))


class CountInput(BaseModel):
    text: str


def test_the_catalogue_is_what_is_published() -> None:
    agent = an_agent("x", Input=CountInput, time_limit_s=7, max_attempts=2, queue="slow")
    (entry,) = registry_of(agent).catalogue()
    assert entry.pop("input_schema")["properties"] == {"text": {"title": "Text", "type": "string"}}
    assert entry == {
        "name": "x", "description": "Made for a test.", "queue": "slow", "time_limit_s": 7.0, "max_attempts": 2,
    }  # fmt: skip
