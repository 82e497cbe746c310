"""How many tool calls at once, for how long, with how large a result, and what is left of those that are given up."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from sqlalchemy.orm import Session

from lanewise.process import wait_until
from shared.context import UserExecutionContext
from shared.errors import ConfigurationError
from tests.parts import DictStore, RecordingBridge, UnboundDatabase
from tests.services import a_context, in_parallel
from worker import toolcalls
from worker.authoring import Tool, ToolError
from worker.registry import check_tool_class
from worker.toolcalls import MAX_AT_ONCE, ToolCalls, ToolCancelledError, TooManyCallsError
from worker.tooling import MAX_RESULT_BYTES
from worker.toolscope import ToolScope
from worker.toolsystem import UserContextToolFactory

PATIENCE_S = 10.0


class Gate:
    """Where the tools of a test wait, and what they leave there."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = threading.Semaphore(0)
        self.lock = threading.Lock()
        self.inside = 0
        self.most = 0
        self.late: list[Any] = []
        self.ended = threading.Event()

    def wait_for_begun(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.begun.acquire(timeout=PATIENCE_S)


GATE = Gate()
OTHERS: list[threading.Thread] = []


@pytest.fixture(autouse=True)
def gate() -> Iterator[Gate]:
    GATE.__init__()  # type: ignore[misc]
    OTHERS[:] = threading.enumerate()
    yield GATE
    GATE.open.set()
    while HOMES:
        HOMES.pop().factory.close()
    assert wait_until(lambda: not _tool_threads(), PATIENCE_S)


def _tool_threads() -> list[str]:
    """Returns those of this test; tool systems of other tests, which nobody closed, may have idle ones."""
    return [thread.name for thread in threading.enumerate() if thread.name == "lanewise-tool" and thread not in OTHERS]


class Held(Tool):
    """Waits for the gate, in a thread."""

    name = "held"

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        with GATE.lock:
            GATE.inside += 1
            GATE.most = max(GATE.most, GATE.inside)
        GATE.begun.release()
        assert GATE.open.wait(PATIENCE_S)
        with GATE.lock:
            GATE.inside -= 1
        return "done"


class HeldHere(Tool):
    """Waits in the loop."""

    name = "held_here"

    async def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        GATE.begun.release()
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            GATE.ended.set()


class Slow(HeldHere):
    """Waits longer than it may."""

    name = "slow"
    time_limit_s: ClassVar[float] = 0.05


class Stuck(Tool):
    """Blocks longer than it may, and then goes on as if nothing had happened."""

    name = "stuck"
    time_limit_s: ClassVar[float] = 0.05

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        GATE.begun.release()
        assert GATE.open.wait(PATIENCE_S)
        GATE.late.append(self.scope.cancelled)
        for use in (self._tell, self._keep, self._commit):
            try:
                use()
            except ToolCancelledError as error:
                GATE.late.append(error.message)
        GATE.ended.set()
        return "late"

    def _tell(self) -> None:
        self.scope.emit.progress(1, "late")

    def _keep(self) -> None:
        self.scope.store.set("a", 1, 1)

    def _commit(self) -> None:
        with self.scope.db():
            GATE.late.append("a session")


class StuckInTransaction(Tool):
    """Holds a transaction open for longer than it may take."""

    name = "stuck_in_transaction"
    time_limit_s: ClassVar[float] = 0.05

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        try:
            with self.scope.db():
                assert GATE.open.wait(PATIENCE_S)
        finally:
            GATE.ended.set()


class OwnTimeout(Tool):
    """Raises a TimeoutError of its own."""

    name = "own_timeout"

    async def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        raise TimeoutError("the socket")


class Answer(Tool):
    """Returns what it is asked for."""

    name = "answer"
    results: ClassVar[Callable[[], Any]] = staticmethod(lambda: None)

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        return type(self).results()


class Leave(Tool):
    """Ends the wrong thing."""

    name = "leave"

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        if parameters.model_dump()["how"] == "exit":
            sys.exit(3)
        raise StopIteration


class Watch(Tool):
    """Looks whether it is to end."""

    name = "watch"

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        GATE.begun.release()
        assert wait_until(lambda: self.scope.cancelled, PATIENCE_S)
        GATE.ended.set()


TOOLS = (Held, HeldHere, Slow, Stuck, StuckInTransaction, OwnTimeout, Answer, Leave, Watch)


class Transactions(UnboundDatabase):
    """Says of each transaction whether it was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.endings: list[str] = []

    @contextmanager
    def session(self, context: UserExecutionContext) -> Iterator[Session]:
        try:
            with Session() as session:
                yield session
        except BaseException:
            self.endings.append("rolled back")
            raise
        self.endings.append("committed")


HOMES: list[Home] = []


class Home:
    """A tool system with the parts that it was made from."""

    def __init__(self, is_cancelled: Callable[[], bool] = lambda: False, tools: Iterable[type[Tool]] = TOOLS) -> None:
        self.context = a_context()
        self.bridge = RecordingBridge()
        self.store = DictStore()
        self.database = Transactions()
        self.factory = UserContextToolFactory(self.database, self.store, is_cancelled=is_cancelled)
        self.tools = self.factory.create_user_tool_system(self.context, tools, lambda _: self.bridge, "agent-1")
        HOMES.append(self)

    async def dispatch(self, name: str, **parameters: Any) -> Any:
        return await self.tools.dispatch_tool(name, parameters, self.context)


@pytest.fixture
def home() -> Home:
    return Home()


# For how long


def test_an_async_tool_is_cancelled_at_its_time_limit(home: Home, gate: Gate) -> None:
    result = asyncio.run(home.dispatch("slow"))
    assert result.error == {"type": "timed_out", "message": "the tool reached its time limit of 0.05 s"}
    assert gate.ended.is_set()
    assert home.bridge.kinds == ["tool_executing", "tool_failed"]
    assert home.bridge.data("tool_failed")[0]["error"]["type"] == "timed_out"


def test_a_plain_tool_is_given_up_and_nothing_of_it_comes_later(home: Home, gate: Gate) -> None:
    result = asyncio.run(home.dispatch("stuck"))
    assert result.error["type"] == "timed_out"
    assert result.duration_s < PATIENCE_S / 2
    gate.open.set()
    assert gate.ended.wait(PATIENCE_S)
    assert gate.late == [True, *["the call was given up: its result is not wanted any more"] * 3]
    assert home.bridge.kinds == ["tool_executing", "tool_failed"]
    assert home.store.values == {}
    assert home.database.endings == []


def test_a_transaction_of_a_call_that_was_given_up_is_rolled_back(home: Home, gate: Gate) -> None:
    assert asyncio.run(home.dispatch("stuck_in_transaction")).error["type"] == "timed_out"
    gate.open.set()
    assert gate.ended.wait(PATIENCE_S)
    assert home.database.endings == ["rolled back"]


def test_the_agent_goes_on_after_a_plain_tool_that_hangs(home: Home, gate: Gate) -> None:
    with pytest.raises(ToolError, match="stuck: the tool reached its time limit"):
        home.tools.call("stuck")
    gate.open.set()
    assert home.tools.call("held") == "done"


def test_a_timeout_of_the_tools_own_is_told_as_it_is(home: Home) -> None:
    assert asyncio.run(home.dispatch("own_timeout")).error == {"type": "TimeoutError", "message": "the socket"}


@pytest.mark.parametrize("limit", [0, -1, float("inf"), float("nan"), "60", True, None])
def test_a_time_limit_that_is_none_is_refused_with_class_and_attribute(limit: Any) -> None:
    wrong = type("Wrong", (Slow,), {"__doc__": "Made for a test.", "time_limit_s": limit})
    with pytest.raises(ConfigurationError, match=r"Wrong\.time_limit_s .*must be a number of seconds above 0"):
        check_tool_class(wrong)


# How many


def test_calls_beyond_the_limit_wait_for_their_turn(home: Home, gate: Gate) -> None:
    async def execute() -> list[Any]:
        calls = [asyncio.create_task(home.dispatch("held")) for _ in range(MAX_AT_ONCE + 5)]
        await asyncio.to_thread(gate.wait_for_begun, MAX_AT_ONCE)
        assert not gate.begun.acquire(blocking=False)
        gate.open.set()
        return [result.value for result in await asyncio.gather(*calls)]

    assert asyncio.run(execute()) == ["done"] * (MAX_AT_ONCE + 5)
    assert gate.most == MAX_AT_ONCE


def test_the_limit_holds_over_threads_and_tool_systems_of_one_run(home: Home, gate: Gate) -> None:
    step = home.factory.create_user_tool_system(home.context, TOOLS, lambda _: home.bridge, "agent-2")
    with ThreadPoolExecutor(MAX_AT_ONCE + 4) as pool:
        calls = [pool.submit((home.tools if number % 2 else step).call, "held") for number in range(MAX_AT_ONCE + 4)]
        gate.wait_for_begun(MAX_AT_ONCE)
        assert not gate.begun.acquire(blocking=False)
        gate.open.set()
        assert [call.result(PATIENCE_S) for call in calls] == ["done"] * len(calls)
    assert gate.most == MAX_AT_ONCE


def test_a_hanging_thread_keeps_its_place_and_the_next_call_says_so(
    home: Home, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolcalls, "MAX_WAIT_S", 0.05)

    async def execute() -> Any:
        await asyncio.gather(*(home.dispatch("stuck") for _ in range(MAX_AT_ONCE)))
        return await home.dispatch("answer")

    result = asyncio.run(execute())
    assert result.error == {
        "type": "too_many_calls", "message": f"no turn within 0.05 s: the limit is {MAX_AT_ONCE} tool calls at once"
    }  # fmt: skip
    gate.open.set()
    home.factory.close()
    assert wait_until(lambda: not _tool_threads(), PATIENCE_S)
    in_parallel(MAX_AT_ONCE, lambda _: home.tools.call("answer"))  # every place is free again


def test_so_many_may_wait_and_no_more(home: Home, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolcalls, "MAX_WAITING", 2)

    async def execute() -> list[Any]:
        calls = [asyncio.create_task(home.dispatch("held")) for _ in range(MAX_AT_ONCE + 3)]
        await asyncio.to_thread(gate.wait_for_begun, MAX_AT_ONCE)
        gate.open.set()
        return [result.error and result.error["type"] for result in await asyncio.gather(*calls)]

    assert sorted(filter(None, asyncio.run(execute()))) == ["too_many_calls"]


def test_a_call_that_is_cancelled_while_it_waits_takes_no_turn(home: Home, gate: Gate) -> None:
    async def execute() -> None:
        held = [asyncio.create_task(home.dispatch("held")) for _ in range(MAX_AT_ONCE)]
        await asyncio.to_thread(gate.wait_for_begun, MAX_AT_ONCE)
        waiting = [asyncio.create_task(home.dispatch("held")) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(error, asyncio.CancelledError) for error in ended)
        gate.open.set()
        await asyncio.gather(*held)

    asyncio.run(execute())
    assert not gate.begun.acquire(blocking=False)
    in_parallel(MAX_AT_ONCE, lambda _: home.tools.call("answer"))


def test_plain_tools_run_beside_each_other() -> None:
    """Each waits for the other one: they would stand still if one came after the other."""
    barrier = threading.Barrier(2, timeout=PATIENCE_S)

    class Meet(Tool):
        """Meets another call."""

        name = "meet"

        def run(self, context: UserExecutionContext, parameters: Any) -> Any:
            return barrier.wait()

    both = Home(tools=(Meet,))

    async def execute() -> list[Any]:
        return [result.value for result in await asyncio.gather(both.dispatch("meet"), both.dispatch("meet"))]

    assert sorted(asyncio.run(execute())) == [0, 1]


# What ends them


@pytest.mark.parametrize("name", ["held_here", "watch"])
def test_a_cancelled_run_interrupts_what_a_plain_agent_waits_for(home: Home, gate: Gate, name: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(home.tools.call, name)
        gate.wait_for_begun()
        home.factory.cancel()
        with pytest.raises(ToolCancelledError):
            call.result(PATIENCE_S)
    assert gate.ended.wait(PATIENCE_S)
    assert home.bridge.data("tool_failed")[0]["error"]["type"] == "cancelled"
    with pytest.raises(ToolCancelledError, match="the run was cancelled"):  # so does whatever it calls from now on
        home.tools.call("held_here")
    assert home.bridge.kinds == ["tool_executing", "tool_failed"]


def test_a_blocking_call_from_a_loop_is_interrupted_too(home: Home, gate: Gate) -> None:
    async def execute() -> None:
        home.tools.call("held_here")

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(asyncio.run, execute())
        gate.wait_for_begun()
        home.factory.cancel()
        with pytest.raises(ToolCancelledError):
            run.result(PATIENCE_S)


def test_a_plain_tool_of_a_cancelled_agent_can_see_it(home: Home, gate: Gate) -> None:
    async def execute() -> None:
        task = asyncio.create_task(home.dispatch("watch"))
        await asyncio.to_thread(gate.wait_for_begun)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(execute())
    assert gate.ended.wait(PATIENCE_S)


def test_a_tool_sees_that_its_run_is_cancelled() -> None:
    cancelled = threading.Event()
    home = Home(cancelled.is_set)
    tool = home.tools.registry.get("watch")
    assert tool is not None
    assert not tool.scope.cancelled
    cancelled.set()
    assert tool.scope.cancelled


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("exit", {"type": "tool_error", "message": "the tool raised SystemExit"}),
        ("stop", {"type": "RuntimeError", "message": "coroutine raised StopIteration"}),
    ],
)
def test_a_tool_that_ends_the_wrong_thing_only_fails(home: Home, how: str, error: dict[str, str]) -> None:
    started = time.monotonic()
    assert asyncio.run(home.dispatch("leave", how=how)).error == error
    assert time.monotonic() - started < PATIENCE_S


# What they return


def _endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("x" * MAX_RESULT_BYTES, "too_large", "the result has 1048578 bytes; the limit is 1048576"),
        ({"x": {1, 2}}, "invalid", "the result.x holds a set, which JSON cannot carry"),
        (float("nan"), "invalid", "the result is not a finite number"),
        ({1: 2}, "invalid", "the result has a key that is not a string"),
        (_endless(), "invalid", "the result is nested too deeply for JSON"),
        (object, "invalid", "the result holds a type, which JSON cannot carry"),
    ],
    ids=["large", "set", "nan", "key", "endless", "class"],
)
def test_a_result_is_json_of_a_bounded_size(
    home: Home, monkeypatch: pytest.MonkeyPatch, value: Any, kind: str, message: str
) -> None:
    monkeypatch.setattr(Answer, "results", staticmethod(lambda: value))
    result = asyncio.run(home.dispatch("answer"))
    assert (result.value, result.error) == (None, {"type": kind, "message": message})
    assert home.bridge.kinds == ["tool_executing", "tool_failed"]


@pytest.mark.parametrize(
    ("value", "arrives"),
    [("x" * (MAX_RESULT_BYTES - 2), "x" * (MAX_RESULT_BYTES - 2)), ((1, 2), [1, 2]), ({"a": "\0"}, {"a": "\ufffd"})],
    ids=["largest", "tuple", "nul"],
)
def test_what_is_json_arrives(home: Home, monkeypatch: pytest.MonkeyPatch, value: Any, arrives: Any) -> None:
    monkeypatch.setattr(Answer, "results", staticmethod(lambda: value))
    assert asyncio.run(home.dispatch("answer")).value == arrives


def test_a_scope_offers_the_same_inside_and_outside_of_calls(home: Home) -> None:
    tool = home.tools.registry.get("answer")
    assert tool is not None
    assert isinstance(tool.scope, ToolScope)
    tool.scope.emit.progress(0.5, "half")
    assert home.bridge.kinds == ["agent_progress"]


# Turns


def test_a_turn_that_comes_as_its_call_is_cancelled_goes_to_the_next() -> None:
    async def execute() -> None:
        calls = ToolCalls(at_once=1)
        await calls._take_turn()
        cancelled, following = (asyncio.create_task(calls._take_turn()) for _ in range(2))
        await asyncio.sleep(0)
        calls._end_turn()  # the first one's; before its task can run again it is cancelled
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await asyncio.wait_for(following, PATIENCE_S)

    asyncio.run(execute())


def test_calls_that_were_cancelled_wait_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolcalls, "MAX_WAITING", 2)

    async def execute() -> None:
        calls = ToolCalls(at_once=1)
        await calls._take_turn()
        for _ in range(3):
            waiting = [asyncio.create_task(calls._take_turn()) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(TooManyCallsError):
                await calls._take_turn()
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    asyncio.run(execute())


# Threads


def test_one_thread_does_for_calls_that_follow_each_other(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answer, "results", staticmethod(threading.get_ident))

    async def execute() -> set[int]:
        return {(await home.dispatch("answer")).value for _ in range(200)}

    assert len(asyncio.run(execute())) == 1
    assert len(_tool_threads()) == 1


def test_an_idle_thread_holds_nothing_of_the_call_before(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []

    class Large(dict[str, Any]):
        """Can be watched."""

    def result() -> Any:
        value = Large()
        made.append(weakref.ref(value))
        return value

    monkeypatch.setattr(Answer, "results", staticmethod(result))
    assert home.tools.call("answer") == {}
    assert wait_until(lambda: gc.collect() >= 0 and made[0]() is None, PATIENCE_S)
    assert len(_tool_threads()) == 1


def test_closing_ends_idle_threads_at_once_and_busy_ones_with_their_work(home: Home, gate: Gate) -> None:
    home.tools.call("answer")
    assert asyncio.run(home.dispatch("stuck")).error["type"] == "timed_out"
    in_parallel(3, lambda _: home.tools.call("answer"))
    home.factory.close()
    assert len(_tool_threads()) == 1
    gate.open.set()
    assert wait_until(lambda: not _tool_threads(), PATIENCE_S)
