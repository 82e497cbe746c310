"""Engine and execution core, in this process: results, failures, cancellation, and nothing left of a run."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError as ConcurrentCancelledError
from contextvars import ContextVar
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import pytest
from pydantic import BaseModel, Field

from shared.context import UserExecutionContext
from shared.errors import ConfigurationError, InvalidContextError, UnknownAgentError
from shared.states import ExecutionState
from tests.parts import DictRecords, DictStore, RecordingBridge, UnboundDatabase, infrastructure, registry_of
from tests.services import a_context
from worker.authoring import Agent, AgentRun, Tool
from worker.core import MAX_OUTPUT_BYTES, AgentExecutionResult
from worker.engine import ExecutionEngineFactory, Infrastructure, UserExecutionEngine
from worker.interfaces import DatabaseSessionManager, EventBridge, RedisManager, RunRecords
from worker.managers import SandboxDatabase, SandboxRecords, SandboxStore

BEGUN = threading.Event()


class Words(BaseModel):
    text: str
    times: int = Field(1, ge=1)


class Count(Agent):
    """Counts words."""

    name = "count"
    Input = Words

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        run.emit.thinking("counting")
        return {"words": len(run.input.text.split()) * run.input.times}


class Say(Agent):
    """Returns what it is told to."""

    name = "say"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        return OUTPUTS[run.input.which]


class Fail(Agent):
    """Raises."""

    name = "fail"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        raise LookupError("no such page")


class Endless(Agent):
    """Waits until it is cancelled."""

    name = "endless"

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        BEGUN.set()
        await asyncio.sleep(60)


class Where(Agent):
    """Says where it runs and what it is handed."""

    name = "where"

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        run.store.set("k", 1, 60)
        with run.db() as session:
            active = session.is_active
        return {"context": context.to_dict(), "cancelled": run.cancelled, "active": active, "kept": run.store.get("k")}


def engine_of(*agents: type[Agent], parts: Infrastructure | None = None, user_id: str = "alice") -> UserExecutionEngine:
    return ExecutionEngineFactory(parts or infrastructure(*agents)).create_engine(a_context(user_id))


def run_agent(agent: type[Agent], raw_input: Any = None, parts: Infrastructure | None = None) -> AgentExecutionResult:
    return asyncio.run(engine_of(agent, parts=parts).execute(agent.name, {} if raw_input is None else raw_input))


def bridge_of(parts: Infrastructure) -> RecordingBridge:
    assert isinstance(parts.bridge, RecordingBridge)
    return parts.bridge


# How an execution ends


def test_a_result_with_its_events_in_order() -> None:
    parts = infrastructure(Count)
    result = run_agent(Count, {"text": "a b c", "times": 2}, parts)
    assert (result.agent_name, result.state, result.output) == ("count", ExecutionState.COMPLETED, {"words": 6})
    assert (result.error, result.trace) == (None, None)
    assert bridge_of(parts).kinds == ["agent_started", "agent_thinking", "agent_completed"]
    assert bridge_of(parts).data("agent_completed")[0]["duration_s"] == round(result.duration_s, 4)


def test_a_failure_is_typed_and_its_trace_is_not_for_the_user() -> None:
    parts = infrastructure(Fail)
    result = run_agent(Fail, parts=parts)
    assert (result.state, result.output) == (ExecutionState.FAILED, None)
    assert result.error == {"type": "LookupError", "message": "no such page"}
    assert result.trace is not None
    assert "test_worker_engine.py" in result.trace
    assert bridge_of(parts).kinds == ["agent_started", "agent_failed"]
    (failed,) = bridge_of(parts).data("agent_failed")
    assert failed["error"] == {"type": "LookupError", "message": "no such page"}
    assert "test_worker_engine" not in str(failed)


@pytest.mark.parametrize(
    ("raw_input", "named"),
    [
        ({}, "text: "),
        ({"text": 5}, "text: "),
        ({"text": "a", "times": 0}, "times: "),
        ("text", "Input should be a valid dictionary"),
        (None, "text: "),
        ({"text": [1], "times": "x"}, "text: "),
    ],
)
def test_a_wrong_input_is_a_failure_that_names_the_field(raw_input: Any, named: str) -> None:
    result = run_agent(Count, raw_input)
    assert result.state is ExecutionState.FAILED
    assert result.error is not None
    assert result.error["type"] == "invalid"
    assert result.error["message"].startswith(named)


def test_all_wrong_fields_are_named() -> None:
    result = run_agent(Count, {"text": 1, "times": 0})
    assert result.error is not None
    assert "text: " in result.error["message"]
    assert "times: " in result.error["message"]


def test_cancellation_is_a_result_too() -> None:
    BEGUN.clear()
    parts = infrastructure(Endless)
    engine = engine_of(Endless, parts=parts)

    async def cancelled() -> AgentExecutionResult:
        task = asyncio.create_task(engine.execute("endless", {}))
        assert await asyncio.to_thread(BEGUN.wait, 5)
        task.cancel()
        return await task

    result = asyncio.run(cancelled())
    assert (result.state, result.output, result.error) == (ExecutionState.CANCELLED, None, None)
    assert bridge_of(parts).kinds == ["agent_started", "agent_failed"]
    assert bridge_of(parts).data("agent_failed")[0]["error"]["type"] == "cancelled"
    assert engine.factory.active_runs == []


# Plain agents, which run in threads


def plain(work: Callable[[], Any]) -> type[Agent]:
    class Works(Agent):
        """Does as the test says."""

        name = "works"

        def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
            return work()

    return Works


def test_a_plain_agent_does_not_begin_when_the_run_is_cancelled_already() -> None:
    begun: list[bool] = []
    agent = plain(lambda: begun.append(True))
    engine = ExecutionEngineFactory(infrastructure(agent)).create_engine(a_context(), is_cancelled=lambda: True)
    assert asyncio.run(engine.execute("works", {})).state is ExecutionState.CANCELLED
    assert begun == []


def test_a_plain_agent_has_a_thread_with_the_context_variables_of_its_run() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="")
    variable.set("of the run")

    def work() -> Any:
        seen = variable.get()
        variable.set("of the agent")
        return [seen, threading.current_thread() is threading.main_thread(), threading.current_thread().daemon]

    assert run_agent(plain(work)).output == ["of the run", False, True]
    assert variable.get() == "of the run"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StopIteration(), "RuntimeError"),  # which a future would not take
        (ConcurrentCancelledError(), "CancelledError"),
        (TimeoutError("own"), "TimeoutError"),
    ],
)
def test_whatever_a_plain_agent_raises_is_told(error: Exception, told: str) -> None:
    def work() -> None:
        raise error

    result = asyncio.run(asyncio.wait_for(engine_of(agent := plain(work)).execute(agent.name, {}), 10))
    assert result.error is not None
    assert result.error["type"] == told


def test_a_plain_agent_that_ends_the_process_does() -> None:
    with pytest.raises(SystemExit):
        run_agent(plain(lambda: sys.exit(3)))


_loop: list[Any] = []
_loop.append(_loop)
OUTPUTS: dict[str, Any] = {
    "object": object(),
    "set": {"x": {1, 2}},
    "bytes": b"x",
    "keys": {1: 2},
    "nan": [float("nan")],
    "infinity": {"x": float("-inf")},
    "endless": _loop,
    "too large": "x" * (MAX_OUTPUT_BYTES - 1),
    "too large in bytes": "ä" * (MAX_OUTPUT_BYTES // 2),
    "largest": "x" * (MAX_OUTPUT_BYTES - 2),
    "nul": {"a\0b": ["c\0"]},
    "surrogate": "\ud800",
    "none": None,
}


@pytest.mark.parametrize(
    ("which", "kind", "message"),
    [
        ("object", "invalid", "output holds a object, which JSON cannot carry"),
        ("set", "invalid", r"output\.x holds a set"),
        ("bytes", "invalid", "output holds a bytes"),
        ("keys", "invalid", "output has a key that is not a string"),
        ("nan", "invalid", r"output\[0\] is not a finite number"),
        ("infinity", "invalid", r"output\.x is not a finite number"),
        ("endless", "RecursionError", "recursion"),
        ("too large", "too_large", f"output has {MAX_OUTPUT_BYTES + 1} bytes; the limit is {MAX_OUTPUT_BYTES}"),
        ("too large in bytes", "too_large", f"output has {MAX_OUTPUT_BYTES + 2} bytes"),
    ],
)
def test_what_is_no_json_of_at_most_1_mib_is_no_result(which: str, kind: str, message: str) -> None:
    parts = infrastructure(Say)
    result = run_agent(Say, {"which": which}, parts)
    assert (result.state, result.output) == (ExecutionState.FAILED, None)
    assert result.error is not None
    assert result.error["type"] == kind
    assert re.search(message, result.error["message"])
    assert bridge_of(parts).kinds == ["agent_started", "agent_failed"]


@pytest.mark.parametrize(
    ("which", "output"),
    [
        ("largest", OUTPUTS["largest"]),
        ("none", None),
        ("nul", {"a\ufffdb": ["c\ufffd"]}),  # Postgres cannot store U+0000
        ("surrogate", "\ufffd"),
    ],
)
def test_what_is_json_arrives(which: str, output: Any) -> None:
    result = run_agent(Say, {"which": which})
    assert (result.state, result.output) == (ExecutionState.COMPLETED, output)


def test_an_unknown_agent_is_the_callers_mistake() -> None:
    with pytest.raises(UnknownAgentError, match="did you mean 'count'"):
        asyncio.run(engine_of(Count).execute("cuont", {}))


def test_a_context_that_was_tampered_with_runs_nothing() -> None:
    parts = infrastructure(Count)
    engine = engine_of(Count, parts=parts)
    object.__setattr__(engine.context, "user_id", "system")
    with pytest.raises(InvalidContextError, match="user_id"):
        asyncio.run(engine.execute("count", {"text": "a"}))
    assert bridge_of(parts).sent == []


# What an agent is handed


def test_an_agent_runs_in_a_child_context_with_the_runs_managers() -> None:
    parts = infrastructure(Where)
    engine = ExecutionEngineFactory(parts).create_engine(a_context(), is_cancelled=lambda: True)
    output = asyncio.run(engine.execute("where", {})).output
    assert output["context"]["depth"] == 1
    assert output["context"]["operation_name"] == "agent:where"
    assert output["context"]["parent_request_id"] == engine.context.request_id
    assert output["context"]["correlation_id"] == engine.context.correlation_id
    assert (output["cancelled"], output["active"], output["kept"]) == (True, True, 1)
    assert isinstance(parts.database, UnboundDatabase)
    assert [context.run_id for context in parts.database.opened] == [engine.context.run_id]
    assert parts.database.closed == 1


def test_the_engine_tracks_each_step_of_an_execution() -> None:
    engine = engine_of(Count)
    asyncio.run(engine.execute("count", {"text": "a"}))
    history = engine.tracker.history(engine.context.run_id)
    assert [item.new for item in history] == [ExecutionState.QUEUED, ExecutionState.RUNNING, ExecutionState.COMPLETED]
    assert {item.correlation_id for item in history} == {engine.context.correlation_id}
    assert engine.tracker.active() == {}
    assert engine.factory.counters["runs_cleaned"] == 1


@pytest.mark.parametrize("agent", [Count, Fail])
def test_the_tools_are_let_go_and_the_database_is_closed(agent: type[Agent]) -> None:
    parts = infrastructure(agent)
    engine = engine_of(agent, parts=parts)
    asyncio.run(engine.execute(agent.name, {"text": "a"}))
    assert engine.factory.active_runs == []
    assert isinstance(parts.database, UnboundDatabase)
    assert parts.database.closed == 1


# Dependency injection


def good_parts() -> dict[str, Any]:
    return {
        "registry": registry_of(Count), "database": UnboundDatabase(), "store": DictStore(),
        "records": DictRecords(), "bridge": RecordingBridge(),
    }  # fmt: skip


@pytest.mark.parametrize("missing", ["registry", "database", "store", "records", "bridge"])
@pytest.mark.parametrize("instead", [None, object()])
def test_a_missing_manager_fails_at_configuration(missing: str, instead: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"an engine needs a {missing}: .*, not {type(instead).__name__}"):
        Infrastructure(**good_parts() | {missing: instead})


@pytest.mark.parametrize(
    ("part", "interface"),
    [
        (SandboxDatabase(None, "token"), DatabaseSessionManager),
        (SandboxStore(None), RedisManager),  # type: ignore[arg-type]
        (UnboundDatabase(), DatabaseSessionManager),
        (DictStore(), RedisManager),
        (SandboxRecords(None), RunRecords),  # type: ignore[arg-type]
        (DictRecords(), RunRecords),
        (RecordingBridge(), EventBridge),
    ],
)
def test_the_parts_have_the_formal_interfaces(part: Any, interface: type) -> None:
    assert isinstance(part, interface)


def test_the_formal_interfaces_refuse_what_lacks_a_method() -> None:
    class HalfAStore:
        def get(self, key: str) -> Any: ...

    assert not isinstance(HalfAStore(), RedisManager)
    with pytest.raises(ConfigurationError, match="an engine needs a store: RedisManager, not HalfAStore"):
        Infrastructure(**good_parts() | {"store": HalfAStore()})


# Nothing is left of a run, and nothing is shared between two

SEEN: dict[str, Any] = {}
KEPT: list[list[Any]] = []


class Look(Tool):
    """Notes what there is."""

    name = "look"

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        note(tool=self, scope=self.scope, child_of_child=context, parameters=parameters)
        return {}


class Note(Agent):
    """Notes everything it can reach."""

    name = "note"
    tools = (Look,)

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        tools = run.tools
        note(
            agent=self, context=context, root=tools.context, run=run, input=run.input, emit=run.emit, tools=tools,
            registry=tools.registry, dispatcher=tools.dispatcher, tools_emit=tools.emit,
        )  # fmt: skip
        await run.tools.dispatch_tool("look", {}, context)
        if getattr(run.input, "fail", False):
            raise ValueError("on purpose")
        return {}


def note(**objects: Any) -> None:
    for name, value in objects.items():
        SEEN[name] = weakref.ref(value)
        if KEPT:
            KEPT[-1].append(value)


OF_A_RUN = {
    "engine", "tracker", "factory", "core", "tool_factory", "agent", "context", "root", "run", "input", "emit", "tools",
    "registry", "dispatcher", "tools_emit", "tool", "scope", "child_of_child", "parameters",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_seen() -> Iterator[None]:
    SEEN.clear()
    KEPT.clear()
    yield
    SEEN.clear()
    KEPT.clear()


def one_run(parts: Infrastructure, user_id: str = "alice", **raw_input: Any) -> AgentExecutionResult:
    engine = engine_of(Note, parts=parts, user_id=user_id)
    note(engine=engine, tracker=engine.tracker, factory=engine.factory, core=engine._core, tool_factory=engine._tools)
    return asyncio.run(engine.execute("note", raw_input))


@pytest.mark.parametrize("fail", [False, True])
def test_every_object_of_a_run_is_dead_after_it(fail: bool) -> None:  # noqa: FBT001
    parts = infrastructure(Note)
    result = one_run(parts, fail=fail)
    assert result.state is (ExecutionState.FAILED if fail else ExecutionState.COMPLETED)
    bridge_of(parts).sent.clear()  # which keeps contexts, unlike a real one
    gc.collect()
    assert set(SEEN) == OF_A_RUN
    assert [name for name, seen in SEEN.items() if seen() is not None] == []


def test_an_object_that_outlives_its_run_is_found() -> None:
    KEPT.append([])
    one_run(infrastructure(Note))
    gc.collect()
    assert "agent" in [name for name, seen in SEEN.items() if seen() is not None]


# What users may share: code, constants, and the injected parts, which hold nothing of theirs.
SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType, str, bytes, int, float, type(None), property)


def reachable(roots: list[Any], parts: Infrastructure) -> dict[int, Any]:
    """Returns everything that can be reached from the objects of a run, code and injected parts left out."""
    stop = {id(part) for part in (parts, parts.registry, parts.database, parts.store, parts.records, parts.bridge)}
    found: dict[int, Any] = {}
    open_ = list(roots)
    while open_:
        value = open_.pop()
        if id(value) in stop or id(value) in found or isinstance(value, SHARED) or not gc.is_tracked(value):
            continue
        found[id(value)] = value
        open_.extend(gc.get_referents(value))
    return found


@pytest.mark.parametrize("second_user", ["alice", "bob"])
def test_two_runs_share_no_object(second_user: str) -> None:
    parts = infrastructure(Note)
    graphs = []
    for user_id in ("alice", second_user):
        KEPT.append([])
        one_run(parts, user_id)
        graphs.append(reachable(KEPT[-1], parts))
    first, second = graphs
    assert len(first) > len(OF_A_RUN)
    shared = [value for key, value in first.items() if key in second]
    assert [value for value in shared if not is_constant(value)] == []


def is_constant(value: Any) -> bool:
    """True for what Python and the libraries make once and nobody changes."""
    return isinstance(value, tuple | frozenset) and all(isinstance(item, SHARED) or is_constant(item) for item in value)
