from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

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


def test_what_cannot_be_changed_may_stand_on_the_class() -> None:
    fine: dict[str, Any] = {"a": (1, 2), "b": frozenset({1}), "c": MappingProxyType({"x": 1}), "d": "text", "e": None}
    check_agent_class(an_agent(**fine))


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
