from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import FrozenInstanceError
from typing import Any, Literal, Self

import pytest
from pydantic import BaseModel, Field, ValidationError, create_model, model_validator

from shared.context import UserExecutionContext
from shared.errors import ConfigurationError, InvalidContextError
from shared.event_types import MAX_DATA_BYTES
from tests.parts import DictStore, RecordingBridge, UnboundDatabase
from tests.services import a_context
from worker.authoring import Tool, ToolError
from worker.described import describe_error
from worker.emitter import UserWebSocketEmitter
from worker.toolcalls import ToolCalls
from worker.tooling import MAX_RESULT_BYTES, MAX_TOOL_NAME, ToolDispatcher, ToolExecutionResult, ToolRegistry
from worker.toolsystem import UserContextToolFactory, UserToolSystem

BEGUN = threading.Event()


class Words(BaseModel):
    text: str
    times: int = Field(1, ge=1, le=3)


class Count(Tool):
    """Counts words."""

    name = "count"
    Parameters = Words

    def run(self, context: UserExecutionContext, parameters: Words) -> Any:
        return len(parameters.text.split()) * parameters.times


class Write(Tool):
    """Takes and gives a lot, or fails at length."""

    name = "write"

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        if parameters.text[0] == "!":
            raise type("E" * 100_000, (Exception,), {})(parameters.text)
        return parameters.text


class Where(Tool):
    """Says in which context and thread it runs."""

    name = "where"

    async def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        await asyncio.sleep(0)
        return {**context.to_dict(), "thread": threading.get_ident()}


class WherePlain(Tool):
    """Says in which context and thread it runs."""

    name = "where_plain"

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        return {**context.to_dict(), "thread": threading.get_ident()}


class Fail(Tool):
    """Fails."""

    name = "fail"

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        raise {"tool": ToolError("no such table"), "other": KeyError("x"), "silent": ValueError()}[parameters.how]


class Deep(Tool):
    """Returns more brackets than JSON's writer can."""

    name = "deep"

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]
        return value


class Endless(Tool):
    """Waits until it is cancelled."""

    name = "endless"

    async def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        BEGUN.set()
        await asyncio.sleep(60)


class Pay(Tool):
    """Pays."""

    name = "pay"
    permission = "granted"

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        return "paid"


TOOLS = (Count, Deep, Where, WherePlain, Fail, Endless, Pay, Write)


class Home:
    """A tool system with the parts that it was made from."""

    def __init__(self, context: UserExecutionContext | None = None, granted: Iterable[str] = ()) -> None:
        self.context = context or a_context()
        self.bridge = RecordingBridge()
        self.database = UnboundDatabase()
        self.store = DictStore()
        factory = UserContextToolFactory(self.database, self.store, granted)
        self.factory = factory
        self.tools = factory.create_user_tool_system(self.context, TOOLS, lambda _: self.bridge, "agent-1")

    def dispatch(self, name: str, context: UserExecutionContext | None = None, **parameters: Any) -> Any:
        return asyncio.run(self.tools.dispatch_tool(name, parameters, context or self.context))


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home()
    yield made
    made.factory.close()


# The dispatcher and its registry


def test_a_dispatcher_works_over_the_registry_that_it_is_given() -> None:
    context = a_context()
    registry = ToolRegistry(context)
    emit = UserWebSocketEmitter(context, RecordingBridge(), "agent-1")
    dispatcher = ToolDispatcher.create_request_scoped(context, registry, emit)
    assert dispatcher.registry is registry
    assert dispatcher._unknown("x").endswith("there are: none")
    tools = UserToolSystem(context, dispatcher, emit)
    assert tools.registry is registry


def test_a_registry_holds_instances_each_name_once(home: Home) -> None:
    registry = home.tools.registry
    assert registry.names() == ["count", "deep", "endless", "fail", "pay", "where", "where_plain", "write"]
    with pytest.raises(ConfigurationError, match="not an instance of Tool"):
        registry.register(Count)  # type: ignore[arg-type]
    count = registry.get("count")
    assert count is not None
    with pytest.raises(ConfigurationError, match="two tools are called 'count'"):
        registry.register(count)
    registry.clear()
    assert registry.names() == []


def test_a_registry_describes_its_tools_to_a_model(home: Home) -> None:
    schemas = {entry["name"]: entry for entry in home.tools.registry.schemas()}
    assert list(schemas) == home.tools.registry.names()
    assert schemas["count"]["description"] == "Counts words."
    assert schemas["count"]["parameters"]["required"] == ["text"]


def test_a_result_that_is_nested_too_deeply_fails_its_call(home: Home) -> None:
    result = home.dispatch("deep")
    assert result.error == {"type": "invalid", "message": "the result is nested too deeply for JSON"}


def test_registry_ids_are_unique_per_user_and_run() -> None:
    alice, bob = a_context("alice"), a_context("bob")
    homes = [Home(alice), Home(alice), Home(a_context("alice")), Home(bob)]
    ids = [home.tools.registry.registry_id for home in homes]
    assert len(set(ids)) == len(homes)
    assert all(found.startswith(home.context.run_id) for found, home in zip(ids, homes, strict=True))


def test_a_tool_system_shares_nothing_with_another_of_the_same_run() -> None:
    context = a_context()
    first, second = Home(context).tools, Home(context).tools
    assert first.correlation_id == context.correlation_id
    for mine, other in (
        (first, second),
        (first.dispatcher, second.dispatcher),
        (first.registry, second.registry),
        (first.emit, second.emit),
        *((first.registry.get(name), second.registry.get(name)) for name in first.registry.names()),
    ):
        assert mine is not other


def test_a_tool_system_is_made_for_a_sound_context_with_its_own_bridge() -> None:
    context = a_context()
    seen = []
    factory = UserContextToolFactory(UnboundDatabase(), DictStore())

    def bridge_factory(owner: UserExecutionContext) -> RecordingBridge:
        seen.append(owner)
        return RecordingBridge()

    factory.create_user_tool_system(context, TOOLS, bridge_factory)
    assert seen == [context]
    object.__setattr__(context, "thread_id", "none")
    with pytest.raises(InvalidContextError, match="thread_id"):
        factory.create_user_tool_system(context, TOOLS, bridge_factory)


def test_a_closed_tool_system_has_no_tools(home: Home) -> None:
    home.tools.close()
    assert home.tools.registry.names() == []


def test_a_tool_has_the_runs_scope(home: Home) -> None:
    tool = home.tools.registry.get("count")
    assert tool is not None
    assert tool.scope.context is home.context
    assert tool.scope.store is home.store
    with tool.scope.db() as session:
        assert session.is_active
    assert home.database.opened == [home.context]


# Dispatching


@pytest.mark.parametrize("name", ["where", "where_plain"])
def test_a_tool_runs_in_a_child_context(home: Home, name: str) -> None:
    caller = home.context.create_child_context("agent:agent-1")
    result = home.dispatch(name, caller)
    assert (result.success, result.error, result.tool_name) == (True, None, name)
    seen = result.value
    assert (seen["user_id"], seen["run_id"], seen["correlation_id"]) == (
        caller.user_id, caller.run_id, caller.correlation_id,
    )  # fmt: skip
    assert (seen["depth"], seen["operation_name"]) == (2, f"tool:{name}")
    assert seen["parent_request_id"] == caller.request_id
    assert seen["request_id"] not in (caller.request_id, home.context.request_id)


def test_an_async_tool_runs_in_the_loop_and_a_plain_one_beside_it(home: Home) -> None:
    assert home.dispatch("where").value["thread"] == threading.get_ident()
    assert home.dispatch("where_plain").value["thread"] != threading.get_ident()


def test_a_call_is_told_of_before_and_after(home: Home) -> None:
    result = home.dispatch("count", text="a b c", times=2)
    assert result.value == 6
    assert home.bridge.kinds == ["tool_executing", "tool_completed"]
    assert home.bridge.data("tool_executing") == [{"tool": "count"}]
    (completed,) = home.bridge.data("tool_completed")
    assert completed["tool"] == "count"
    assert 0 <= completed["duration_s"] <= result.duration_s + 0.001 < 60
    assert result.duration_s > 0
    assert {agent for _, agent, *_ in home.bridge.sent} == {"agent-1"}
    assert home.tools.emit.count == 2


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("tool", {"type": "tool_error", "message": "no such table"}),
        ("other", {"type": "KeyError", "message": "'x'"}),
        ("silent", {"type": "ValueError", "message": "ValueError"}),
    ],
)
def test_a_tool_that_raises_is_a_value_and_an_event(home: Home, how: str, error: dict[str, str]) -> None:
    result = home.dispatch("fail", how=how)
    assert (result.success, result.value, result.error) == (False, None, error)
    assert home.bridge.kinds == ["tool_executing", "tool_failed"]
    assert home.bridge.data("tool_failed")[0]["error"] == error
    with pytest.raises(ToolError, match="fail: "):
        result.unwrap()


@pytest.mark.parametrize("text", ["x" * 500_000, "!" + "\N{ELECTRIC LIGHT BULB}" * 100_000])
def test_however_much_a_tool_takes_and_gives_its_events_are_small(home: Home, text: str) -> None:
    result = home.dispatch("write", text=text)
    assert result.success is (text[0] == "x")
    assert max(len(json.dumps(data)) for _, _, data, _ in home.bridge.sent) < MAX_DATA_BYTES


@pytest.mark.parametrize(
    ("parameters", "named"),
    [({}, "text"), ({"text": 5}, "text"), ({"text": "a", "times": 4}, "times"), ({"text": "a", "times": "x"}, "times")],
)
def test_parameters_are_checked_and_the_field_is_named(home: Home, parameters: dict[str, Any], named: str) -> None:
    result = home.dispatch("count", **parameters)
    assert not result.success
    assert result.error["type"] == "invalid"
    assert result.error["message"].startswith(f"{named}: ")
    assert home.bridge.kinds == ["tool_executing", "tool_failed"]


@pytest.mark.parametrize("parameters", [None, 5, "text", [1]])
def test_parameters_that_are_no_mapping_are_a_failure_not_an_error_of_ours(home: Home, parameters: Any) -> None:
    result = asyncio.run(home.tools.dispatch_tool("count", parameters, home.context))
    assert not result.success
    assert home.bridge.kinds == ["tool_executing", "tool_failed"]


def test_an_unknown_tool_is_denied_with_the_nearest_match(home: Home) -> None:
    result = home.dispatch("cuont")
    assert result.error["type"] == "unknown_tool"
    assert "'cuont'; did you mean 'count'?; there are: count, deep, endless, fail, pay" in result.error["message"]
    assert home.bridge.kinds == ["tool_denied"]
    assert home.bridge.data("tool_denied")[0]["reason"] == "unknown_tool"


@pytest.mark.parametrize("name", [None, 5, "x" * 100_000, "\0", ["count"]])
def test_whatever_a_confused_model_names_is_denied(home: Home, name: Any) -> None:
    result = home.dispatch(name)
    assert result.error["type"] == "unknown_tool"
    assert home.bridge.kinds == ["tool_denied"]


def test_a_tool_that_needs_a_grant_is_denied_by_default(home: Home) -> None:
    result = home.dispatch("pay")
    assert (result.success, result.error["type"]) == (False, "not_granted")
    assert home.bridge.kinds == ["tool_denied"]
    assert home.bridge.data("tool_denied") == [
        {"tool": "pay", "reason": "not_granted", "message": "the user has no grant for the tool 'pay'"}
    ]


def test_a_tool_that_was_granted_runs_and_no_other() -> None:
    assert Home(granted=["pay"]).dispatch("pay").value == "paid"
    assert Home(granted=["count"]).dispatch("pay").error["type"] == "not_granted"


@pytest.mark.parametrize("field", ["user_id", "thread_id", "run_id"])
def test_a_context_of_somebody_or_something_else_is_refused(home: Home, field: str) -> None:
    own = home.context
    ids: dict[str, Any] = {"user_id": own.user_id, "thread_id": own.thread_id, "run_id": own.run_id}
    other = UserExecutionContext(**(ids | {field: "other"}))
    with pytest.raises(InvalidContextError, match=f"{field} is not that of this run") as caught:
        home.dispatch("count", other, text="a")
    assert caught.value.errors == [{"field": field, "message": "is not that of this run"}]
    assert home.bridge.sent == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("user_id", "default"), ("user_id", 5), ("depth", -1), ("agent_context", {"x": 1}), ("run_id", "a" * 200)],
)
def test_a_context_that_was_tampered_with_is_refused(home: Home, field: str, value: Any) -> None:
    context = home.context.create_child_context("agent:agent-1")
    object.__setattr__(context, field, value)
    with pytest.raises(InvalidContextError, match=field):
        home.dispatch("count", context, text="a")
    assert home.bridge.sent == []


@pytest.mark.parametrize("context", ["alice", {"user_id": "alice"}, 5])
def test_only_a_context_is_a_context(home: Home, context: Any) -> None:
    with pytest.raises(InvalidContextError, match="context must be"):
        home.dispatch("count", context, text="a")


def test_a_cancelled_call_is_told_of_and_stays_cancelled(home: Home) -> None:
    BEGUN.clear()

    async def cancelled() -> None:
        task = asyncio.create_task(home.tools.dispatch_tool("endless", {}, home.context))
        assert await asyncio.to_thread(BEGUN.wait, 5)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert home.bridge.kinds == ["tool_executing", "tool_failed"]
    (failed,) = home.bridge.data("tool_failed")
    assert failed["error"]["type"] == "cancelled"
    assert 0 <= failed["duration_s"] < 60


# The blocking twin


def test_call_from_plain_code(home: Home) -> None:
    assert home.tools.call("count", text="a b") == 2
    assert home.tools.call("where")["operation_name"] == "tool:where"


@pytest.mark.parametrize("name", ["where", "where_plain"])
def test_call_from_inside_a_running_loop(home: Home, name: str) -> None:
    async def execute() -> Any:
        return home.tools.call(name)

    seen = asyncio.run(execute())
    assert seen["thread"] != threading.get_ident()
    assert seen["parent_request_id"] == home.context.request_id


def test_call_raises_what_went_wrong_wherever_it_is_called(home: Home) -> None:
    async def execute() -> Any:
        return home.tools.call("fail", how="tool")

    with pytest.raises(ToolError, match="fail: no such table"):
        home.tools.call("fail", how="tool")
    with pytest.raises(ToolError, match="fail: no such table"):
        asyncio.run(execute())
    with pytest.raises(ToolError, match="pay: the user has no grant"):
        home.tools.call("pay")
    with pytest.raises(ToolError, match="cuont: no tool is called"):
        home.tools.call("cuont")


def test_many_calls_at_once_each_tell_their_own_story(home: Home) -> None:
    async def execute() -> list[Any]:
        calls = [home.tools.dispatch_tool("count", {"text": "a " * n}, home.context) for n in range(1, 11)]
        return [result.value for result in await asyncio.gather(*calls)]

    assert asyncio.run(execute()) == list(range(1, 11))
    assert sorted(home.bridge.kinds) == ["tool_completed"] * 10 + ["tool_executing"] * 10


# Tools of sources


class Silent:
    """A source that never answers."""

    permission: Literal["open", "granted"] = "open"

    def __init__(self, prefix: str, time_limit_s: float) -> None:
        self.prefix = prefix
        self.time_limit_s = time_limit_s

    def tools(self) -> Future[Sequence[Tool]]:
        return Future()


def test_silent_sources_are_waited_for_together(home: Home) -> None:
    count = home.tools.registry.get("count")
    assert count is not None
    registry = ToolRegistry(a_context(), [Silent(f"s{number}__", 0.1 + number / 100) for number in range(10)])
    registry.register(count)
    started = time.monotonic()
    assert [schema["name"] for schema in registry.schemas()] == ["count"]
    assert 0.15 < time.monotonic() - started < 0.8  # one after the other it would be 1.45


class Shop:
    """A source that has one tool, and counts how often it is asked."""

    prefix = "shop__"
    time_limit_s = 5.0

    def __init__(self, permission: Literal["open", "granted"], *, broken: bool = False) -> None:
        self.permission: Literal["open", "granted"] = permission
        self.asked = 0
        self._broken = broken

    def tools(self) -> Future[Sequence[Tool]]:
        self.asked += 1
        listed: Future[Sequence[Tool]] = Future()
        if self._broken:
            listed.set_exception(ToolError("the shop is shut"))
        else:
            made = type("Buy", (Tool,), {"__doc__": "Buys.", "name": "shop__buy", "permission": self.permission,
                                         "run": lambda *_: "bought"})  # fmt: skip
            listed.set_result([made(None)])
        return listed


def at(shop: Shop, *granted: str) -> tuple[ToolDispatcher, RecordingBridge]:
    context, bridge = a_context(), RecordingBridge()
    registry = ToolRegistry(context, [Silent("other__", 0.1), shop])
    emit = UserWebSocketEmitter(context, bridge, "agent-1")
    return ToolDispatcher.create_request_scoped(context, registry, emit, granted), bridge


def buy(dispatcher: ToolDispatcher, name: str = "shop__buy") -> Any:
    return asyncio.run(dispatcher.dispatch_tool(name, {}, dispatcher._context))


@pytest.mark.parametrize(("permission", "granted"), [("open", []), ("granted", ["shop__buy"])])
def test_a_sources_tool_runs_for_who_may_call_it(
    permission: Literal["open", "granted"], granted: Sequence[str]
) -> None:
    dispatcher, bridge = at(Shop(permission), *granted)
    assert dispatcher.registry.get("shop__buy") is None
    for _ in range(2):
        assert buy(dispatcher).unwrap() == "bought"
    assert bridge.kinds == ["tool_executing", "tool_completed"] * 2
    assert dispatcher.registry.names() == ["shop__buy"]


@pytest.mark.parametrize("granted", [[], ["shop__sell"], ["shop__"], ["buy"]])
def test_a_source_is_not_even_asked_without_a_grant(granted: Sequence[str]) -> None:
    shop = Shop("granted")
    dispatcher, bridge = at(shop, *granted)
    result = buy(dispatcher)
    assert (result.success, result.error["type"], shop.asked) == (False, "not_granted", 0)
    assert bridge.kinds == ["tool_denied"]
    assert [entry["name"] for entry in dispatcher.registry.schemas()] == ["shop__buy"]  # from here on it is known
    assert buy(dispatcher).error["type"] == "not_granted"


def test_what_a_source_does_not_have_is_unknown() -> None:
    dispatcher, bridge = at(Shop("open"))
    for name in ("shop__sell", "shop", "nobody__buy"):
        assert buy(dispatcher, name).error["type"] == "unknown_tool"
    assert bridge.kinds == ["tool_denied"] * 3
    assert buy(dispatcher).success


def test_a_source_that_cannot_be_asked_fails_its_calls_and_nothing_else() -> None:
    dispatcher, bridge = at(Shop("open", broken=True))
    result = buy(dispatcher)
    assert result.error == {"type": "tool_error", "message": "the shop is shut"}
    assert 0 <= result.duration_s < 5
    assert bridge.kinds == ["tool_executing", "tool_failed"]
    assert bridge.data("tool_executing") == [{"tool": "shop__buy"}]
    registry = ToolRegistry(a_context(), [Shop("open", broken=True), Shop("open")])
    assert [entry["name"] for entry in registry.schemas()] == ["shop__buy"]


def test_a_registry_that_was_cleared_asks_nobody() -> None:
    shop = Shop("open")
    dispatcher, _ = at(shop)
    dispatcher.registry.clear()
    assert buy(dispatcher).error["type"] == "unknown_tool"
    assert dispatcher.registry.schemas() == []
    assert shop.asked == 0


# Limits and results


def test_a_failure_says_how_long_it_took(home: Home) -> None:
    result = home.dispatch("fail", how="tool")
    (failed,) = home.bridge.data("tool_failed")
    assert failed["tool"] == "fail"
    assert 0 <= failed["duration_s"] <= result.duration_s + 0.001 < 60
    assert result.duration_s > 0


def test_the_limits_are_those_that_are_documented() -> None:
    assert (MAX_RESULT_BYTES, MAX_TOOL_NAME) == (1_048_576, 64)


def test_a_result_cannot_be_changed_and_took_no_time_unless_it_says_so() -> None:
    result = ToolExecutionResult("count", True, 3)
    assert (result.unwrap(), result.error, result.duration_s) == (3, None, 0.0)
    with pytest.raises(FrozenInstanceError):
        result.success = False  # type: ignore[misc]


def test_calls_of_two_dispatchers_have_turns_of_their_own_unless_they_share_them() -> None:
    context = a_context()
    registry, emit = ToolRegistry(context), UserWebSocketEmitter(context, RecordingBridge(), "agent-1")
    shared = ToolCalls()
    assert ToolDispatcher(context, registry, emit, calls=shared)._calls is shared
    own = [ToolDispatcher.create_request_scoped(context, registry, emit)._calls for _ in range(2)]
    assert own[0] is not own[1]
    assert all(isinstance(calls, ToolCalls) for calls in own)


def test_a_denial_tells_at_most_five_hundred_characters() -> None:
    context, bridge = a_context(), RecordingBridge()
    registry = ToolRegistry(context)
    for number in range(30):
        registry.register(type("Many", (Count,), {"name": f"tool_of_a_long_name_{number}"})(None))
    emit = UserWebSocketEmitter(context, bridge, "agent-1")
    dispatcher = ToolDispatcher.create_request_scoped(context, registry, emit)
    result = asyncio.run(dispatcher.dispatch_tool("x" * 100, {}, context))
    name = "x" * MAX_TOOL_NAME
    assert result.error is not None
    assert result.error["message"].startswith(f"no tool is called {name!r}; there are: tool_of_a_long_name_0, ")
    (denied,) = bridge.data("tool_denied")
    assert denied == {"tool": name, "reason": "unknown_tool", "message": result.error["message"][:500]}


class Many(BaseModel):
    numbers: list[int] = Field(default_factory=list)

    @model_validator(mode="after")
    def _few(self) -> Self:
        if len(self.numbers) > 1:
            raise ValueError("at most one")
        return self


@pytest.mark.parametrize(
    ("error", "described"),
    [
        (ToolError("no such table"), {"type": "tool_error", "message": "no such table"}),
        (KeyError("x"), {"type": "KeyError", "message": "'x'"}),
        (ValueError(), {"type": "ValueError", "message": "ValueError"}),
        (ValueError("y" * 3000), {"type": "ValueError", "message": "y" * 2000}),
        (type("E" * 100, (Exception,), {})("z"), {"type": "E" * 64, "message": "z"}),
        (MemoryError(), {"type": "MemoryError", "message": "the run reached the memory limit of its sandbox"}),
        (MemoryError("m" * 600), {
            "type": "MemoryError", "message": f"the run reached the memory limit of its sandbox {'m' * 500}"
        }),
    ],
)  # fmt: skip
def test_an_error_is_told_by_type_and_message(error: Exception, described: dict[str, str]) -> None:
    assert describe_error(error) == described


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"numbers": ["a"]}, "numbers.0: Input should be a valid integer, unable to parse string as an integer"),
        ({"numbers": [1, 2]}, "at most one"),
    ],
)
def test_a_mistake_in_parameters_is_told_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Many.model_validate(value)
    assert describe_error(caught.value) == {"type": "invalid", "message": message}


def test_of_many_mistakes_ten_are_told() -> None:
    with pytest.raises(ValidationError) as caught:
        Many.model_validate({"numbers": ["a"] * 12})
    assert describe_error(caught.value)["message"].count("numbers.") == 10
    long = create_model("Long", **{"f" * 300 + str(n): (int, ...) for n in range(10)})  # type: ignore[call-overload]
    with pytest.raises(ValidationError) as caught:
        long.model_validate({})
    assert len(describe_error(caught.value)["message"]) == 2000
