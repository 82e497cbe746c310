"""`Retry` as authors see it: when it is made, in a workflow, in the fixture `run_agent`."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

import lanewise
from lanewise import Agent, AgentRun, Parallel, Retry, Sequence, Step, Tool, ToolError, UserExecutionContext, Workflow
from lanewise.testing import RunAgent
from shared.errors import InvalidError
from tests.parts import DictRecords, DictStore, RecordingBridge, UnboundDatabase, registry_of
from tests.services import a_context
from worker.core import AgentExecutionResult
from worker.engine import ExecutionEngineFactory, Infrastructure
from worker.workflow import Part

DONE: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    DONE.clear()


class Busy(Agent):
    """Does a step, then asks for another attempt, once, unless it is always busy."""

    name = "busy"

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        async def order() -> str:
            DONE.append("order")
            return "ordered"

        ordered = await run.state.step("order", order)
        if run.raw_input.get("always") or DONE.count("busy") == 0:
            DONE.append("busy")
            raise Retry("the provider is busy", after_s=30)
        return ordered


class Plain(Agent):
    """Asks for another attempt from a thread, and leaves the pause to the fleet."""

    name = "plain"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        try:
            return int("secret detail")
        except ValueError as error:
            raise Retry("no connection") from error


class Looks(Agent):
    """Asks for another attempt when it sees that it is cancelled."""

    name = "looks"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        run.emit.thinking("looking")
        if run.cancelled:
            raise Retry("later")


class Works(Agent):
    """Notes that it was called."""

    name = "works"

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> str:
        DONE.append(run.raw_input["name"])
        return str(run.raw_input["name"])


class Again(Tool):
    """Is busy."""

    name = "again"

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        raise Retry("the tool is busy", after_s=5)


class Uses(Agent):
    """Uses a tool that is busy: as an error, or as a reason to be called again."""

    name = "uses"
    tools = (Again,)

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        try:
            return run.tools.call("again")
        except ToolError as error:
            if run.raw_input.get("give_way"):
                raise Retry(error.message, after_s=5) from error
            return {"error": error.message}


def works(name: str) -> Step:
    return Step(name, "works", lambda _: {"name": name})


def flow(body: Part) -> type[Agent]:
    class Flow(Agent):
        """Runs the workflow of the test."""

        name = "flow"
        workflows = (Workflow("w", body),)

        async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
            results = await run.workflows.orchestrate_workflow("w", context, run)
            return {"outputs": dict(results.outputs), "errors": {name: dict(e) for name, e in results.errors.items()}}

    return Flow


def attempt(agent: type[Agent], *, is_last: bool) -> AgentExecutionResult:
    parts = Infrastructure(
        registry_of(agent, Busy, Works), UnboundDatabase(), DictStore(), DictRecords(), RecordingBridge()
    )
    engine = ExecutionEngineFactory(parts).create_engine(a_context(), is_last=is_last)
    return asyncio.run(engine.execute(agent.name, {}))


# When it is made


@pytest.mark.parametrize("after_s", [None, 0, 0.5, 30, 86_400])
def test_it_keeps_what_it_is_given(after_s: float | None) -> None:
    retry = lanewise.Retry("busy", after_s=after_s)
    assert (str(retry), retry.message, retry.after_s) == ("busy", "busy", after_s)
    again = pickle.loads(pickle.dumps(retry))  # noqa: S301 - as it comes back from a process of the agent's own
    assert (str(again), again.after_s) == ("busy", after_s)


@pytest.mark.parametrize(
    "after_s", [-1, -0.001, 86_400.1, float("nan"), float("inf"), 10**400, True, "30", [30]], ids=str
)
def test_a_bad_pause_is_refused_at_once_with_the_limit(after_s: Any) -> None:
    with pytest.raises(InvalidError, match=r"^after_s of a Retry must be a number of seconds from 0 to 86,400$"):
        Retry("busy", after_s=after_s)


# In a test of the author's


def test_the_fixture_tells_what_was_asked_for_and_goes_on(run_agent: RunAgent) -> None:
    first = run_agent(Busy)
    assert first.retry is not None
    assert (first.status, first.message, first.retry.after_s) == ("failed", "the provider is busy", 30)
    assert first.run["error"] == {"type": "retry", "message": first.message, "attempt": 1, "retryable": True}
    (failed,) = [event for event in first.events if event["type"] == "agent_failed"]
    assert failed["data"]["error"] == {"type": "retry", "message": "the provider is busy"}
    second = run_agent(Busy, resumes=first)
    assert (second.output, second.run["attempt"], second.retry) == ("ordered", 2, None)
    assert DONE == ["order", "busy"]


def test_out_of_a_plain_agent_without_a_pause_of_its_own(run_agent: RunAgent) -> None:
    result = run_agent(Plain)
    assert result.retry is not None
    assert (result.message, result.retry.after_s) == ("no connection", None)
    assert "secret detail" not in str(result.run)
    assert "ValueError" in result.trace


def test_a_run_that_is_being_cancelled_ends_cancelled(run_agent: RunAgent) -> None:
    result = run_agent(Looks, cancel_when=lambda event: event["type"] == "agent_thinking")
    assert (result.status, result.message, result.retry) == ("cancelled", "the run was cancelled", None)
    assert [event["data"]["error"]["type"] for event in result.events if event["type"] == "agent_failed"] == ["retry"]


def test_out_of_a_tool_it_is_a_failed_call_unless_the_agent_passes_it_on(run_agent: RunAgent) -> None:
    result = run_agent(Uses)
    assert result.output == {"error": "again: the tool is busy"}
    (failed,) = [event for event in result.events if event["type"] == "tool_failed"]
    assert failed["data"]["error"] == {"type": "retry", "message": "the tool is busy"}
    passed_on = run_agent(Uses, {"give_way": True})
    assert passed_on.retry is not None
    assert (passed_on.message, passed_on.retry.after_s) == ("again: the tool is busy", 5)


# In a workflow


def test_a_step_that_asks_for_it_asks_for_the_whole_run(run_agent: RunAgent) -> None:
    busy = Step("busy", "busy", lambda _: {}, tries=3)
    agent = flow(Sequence(works("before"), busy, works("after")))
    first = run_agent(agent, agents=[Busy, Works])
    assert first.retry is not None
    assert (first.message, first.retry.after_s) == ("the provider is busy", 30)
    assert DONE == ["before", "order", "busy"]  # `tries` are for failures: this one asked to be left alone for a while
    second = run_agent(agent, agents=[Busy, Works], resumes=first)
    assert second.output["outputs"] == {"before": "before", "busy": "ordered", "after": "after"}
    assert DONE == ["before", "order", "busy", "after"]


@pytest.mark.parametrize("on_failure", ["fail", "continue"])
@pytest.mark.parametrize("is_last", [False, True])
def test_the_last_attempt_passes_over_what_may_fail(on_failure: Any, is_last: bool) -> None:  # noqa: FBT001
    busy = Step("busy", "busy", lambda _: {"always": True}, on_failure=on_failure)
    result = attempt(flow(Sequence(busy, works("after"))), is_last=is_last)
    if is_last and on_failure == "continue":
        error = {"type": "retry", "message": "the provider is busy"}
        assert result.output == {"outputs": {"after": "after"}, "errors": {"busy": error}}
    else:
        assert result.retry is not None
        assert (result.retry.after_s, DONE.count("after")) == (30, 0)


def test_beside_a_step_that_failed_for_good_the_run_fails() -> None:
    class Fails(Agent):
        """Fails when the other is cancelled."""

        name = "fails"

        async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
            try:
                await asyncio.sleep(60)
            finally:
                raise ValueError("no")

    agent = flow(Parallel(Step("fails", "fails", lambda _: {}), Step("busy", "busy", lambda _: {"always": True})))
    parts = Infrastructure(
        registry_of(agent, Busy, Fails), UnboundDatabase(), DictStore(), DictRecords(), RecordingBridge()
    )
    result = asyncio.run(ExecutionEngineFactory(parts).create_engine(a_context()).execute("flow", {}))
    assert (result.error or {})["type"] == "step_failed"
    assert result.retry is None
