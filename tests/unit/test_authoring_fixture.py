"""The fixture `run_agent`, as authors use it: in the process of the test, under a worker's supervision."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from lanewise import Agent, AgentRun, Sequence, StateConflictError, Step, Tool, UserExecutionContext, Workflow
from lanewise.testing import RunAgent
from shared.errors import ConfigurationError

FDS = Path("/proc/self/fd")
SEEN: list[Any] = []


class Text(BaseModel):
    text: str


class Secret(Tool):
    """For those who were granted it."""

    name = "secret"
    permission = "granted"

    def run(self, context: UserExecutionContext, parameters: Any) -> str:
        return f"of {context.user_id}"


class Count(Agent):
    """Counts words."""

    name = "count"
    Input = Text
    tools = (Secret,)

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> dict[str, Any]:
        run.emit.thinking("counting")
        run.emit.progress(0.5, "half way")
        return {"words": len(run.input.text.split()), "main": threading.current_thread() is threading.main_thread()}


class Ask(Agent):
    """Asks for the secret."""

    name = "ask"
    tools = (Secret,)

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        return run.tools.call("secret")


class Remember(Agent):
    """Counts its runs."""

    name = "remember"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> dict[str, Any]:
        runs = run.state.update(lambda before: (before or 0) + 1)
        times = (run.store.get("times") or 0) + 1
        run.store.set("times", times, ttl_s=60)
        return {"runs": runs, "times": times}


class Steps(Agent):
    """Does two things, and dies between them when told to."""

    name = "steps"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> list[str]:
        first = run.state.step("first", self.look, "first")
        if run.raw_input.get("fail"):
            raise ValueError("no second step")
        return [first, run.state.step("second", self.look, "second")]

    def look(self, what: str) -> str:
        SEEN.append(what)
        return what


class Wait(Agent):
    """Waits."""

    name = "wait"

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> None:
        run.emit.progress(0.1)
        await asyncio.sleep(60)


class Loop(Agent):
    """Looks whether it is cancelled."""

    name = "loop"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> int:
        for number in range(100_000):
            if run.cancelled:
                run.emit.thinking(f"stopping at {number}")
                return number
            run.emit.progress(number / 100_000)
        return -1


class Save(Agent):
    """Saves a file and uses a model."""

    name = "save"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> None:
        run.artifacts.save("notes.md", "# ä", "text/markdown")
        run.record_usage(model="a-model", input_tokens=5, output_tokens=2)
        run.record_usage(model="a-model", input_tokens=1, output_tokens=1)


class Do(Agent):
    """Does what the test wants."""

    name = "do"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        return ACTIONS[run.raw_input["action"]](run)


def _fail(_: AgentRun) -> None:
    pytest.fail("from inside")


def _database(run: AgentRun) -> None:
    with run.db():
        pass


def _conflict(run: AgentRun) -> None:
    run.state.save(1)
    run.state._versions["thread"] = 0
    run.state.save(2)


ACTIONS = {"fail": _fail, "database": _database, "set": lambda _: {1, 2}, "conflict": _conflict}


class Both(Agent):
    """Has others work."""

    name = "both"
    Input = Text
    workflows = (
        Workflow(
            "both",
            Sequence(
                Step("words", "count", input=lambda r: {"text": r.input.text}), Step("run", "remember", lambda _: {})
            ),
        ),
    )

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        results = await run.workflows.orchestrate_workflow("both", context, run)
        return {"words": results["words"]["words"], "runs": results["run"]["runs"]}


class Unsound(Agent):
    """Shares."""

    name = "unsound"
    cache = {}  # type: ignore[var-annotated]  # noqa: RUF012 - the mistake itself

    def execute(self, context: UserExecutionContext, run: AgentRun) -> None: ...


def test_the_result_and_its_events(run_agent: RunAgent) -> None:
    result = run_agent(Count, {"text": "a b"})
    assert (result.status, result.message, result.trace) == ("completed", "", "")
    assert result.output == {"words": 2, "main": True}  # here, where a debugger and coverage look
    assert result.types == [
        "run_started", "agent_started", "agent_thinking", "agent_progress", "agent_completed", "run_completed",
    ]  # fmt: skip
    assert [event["run_seq"] for event in result.events] == list(range(1, 7))
    assert result.events[3]["data"] == {"fraction": 0.5, "note": "half way"}
    assert {event["thread_id"] for event in result.events} == {result.thread_id}
    assert result.run["progress"] == {"fraction": 0.5, "note": "half way"}


def test_a_wrong_input_fails_the_run_as_it_does_in_a_sandbox(run_agent: RunAgent) -> None:
    result = run_agent(Count, {"words": 1})
    assert (result.status, result.message) == ("failed", "text: Field required")
    assert result.run["error"]["type"] == "invalid"
    assert result.trace == ""
    with pytest.raises(AssertionError, match="the run is failed: text: Field required"):
        _ = result.output


def test_an_error_tells_where_the_author_raised_it(run_agent: RunAgent) -> None:
    result = run_agent(Steps, {"fail": True})
    assert result.message == "no second step"
    assert result.trace.startswith(f"ValueError\n  {__file__}:")
    assert len(result.trace.splitlines()) == 2


def test_patches_reach_it(run_agent: RunAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Steps, "look", lambda _, what: f"patched {what}")
    assert run_agent(Steps).output == ["patched first", "patched second"]


def test_a_tool_that_needs_a_grant(run_agent: RunAgent) -> None:
    denied = run_agent(Ask)
    assert denied.message == "secret: the user has no grant for the tool 'secret'"
    assert "tool_denied" in denied.types
    assert run_agent(Ask, granted=["secret"], user_id="ada").output == "of ada"


def test_memory_of_a_thread_and_values_of_a_user(run_agent: RunAgent) -> None:
    first = run_agent(Remember)
    assert first.output == {"runs": 1, "times": 1}
    assert run_agent(Remember, thread_id=first.thread_id).output == {"runs": 2, "times": 2}
    assert run_agent(Remember).output == {"runs": 1, "times": 3}
    assert run_agent(Remember, thread_id=first.thread_id, user_id="bob").output == {"runs": 1, "times": 1}


def test_nothing_is_left_from_another_test() -> None:
    assert RunAgent()(Remember).output == {"runs": 1, "times": 1}
    assert RunAgent()(Remember).output == {"runs": 1, "times": 1}


def test_a_run_goes_on_from_its_last_recorded_step(run_agent: RunAgent) -> None:
    SEEN.clear()
    failed = run_agent(Steps, {"fail": True})
    went_on = run_agent(Steps, resumes=failed)
    assert went_on.output == ["first", "second"]
    assert SEEN == ["first", "second"]
    assert (went_on.run["id"], went_on.run["attempt"]) == (failed.run["id"], 2)
    assert [event["run_seq"] for event in went_on.events] == list(range(5, 9))  # they go on, too


@pytest.mark.parametrize("agent", [Wait, Loop])
def test_cancelling(run_agent: RunAgent, agent: type[Agent]) -> None:
    result = run_agent(agent, cancel_when=lambda event: event["type"] == "agent_progress")
    assert (result.status, result.message) == ("cancelled", "the run was cancelled")
    assert result.types.count("agent_progress") == 1
    if agent is Loop:
        assert [event["data"] for event in result.events if event["type"] == "agent_thinking"] == [
            {"text": "stopping at 1"}
        ]


def test_the_time_limit(run_agent: RunAgent) -> None:
    began = time.monotonic()
    result = run_agent(Wait, time_limit_s=0.2)
    assert (result.status, result.message) == ("timed_out", "the run reached its time limit of 0.2 s")
    assert time.monotonic() - began < 10


def test_files_and_usage(run_agent: RunAgent) -> None:
    result = run_agent(Save)
    assert result.artifacts["notes.md"].content == "# ä".encode()
    assert result.artifacts["notes.md"].content_type == "text/markdown"
    assert "agent_artifact" in result.types
    assert result.run["usage"] == {"requests": 2, "input_tokens": 6, "output_tokens": 3, "model": "a-model"}


def test_workflows_find_the_agents_that_they_name(run_agent: RunAgent) -> None:
    result = run_agent(Both, {"text": "a b c"}, agents=[Count, Remember])
    assert result.output == {"words": 3, "runs": 1}
    with pytest.raises(ConfigurationError, match=r"step for an agent that is not there.*'count'"):
        run_agent(Both, {"text": "a b c"})


def test_an_unsound_class_is_refused_with_its_line(run_agent: RunAgent) -> None:
    with pytest.raises(ConfigurationError, match=rf"Unsound.cache is a dict on the class.*{__file__}, line \d+"):
        run_agent(Unsound)


def test_what_a_sandbox_would_refuse_is_refused(run_agent: RunAgent) -> None:
    assert "set" in run_agent(Do, {"action": "set"}).message
    assert run_agent(Do, {"action": "conflict"}).run["error"]["type"] == StateConflictError.code
    assert "there is no database here: `lanewise run-agent` and tests" in run_agent(Do, {"action": "database"}).message


def test_pytests_own_outcomes_pass_through(run_agent: RunAgent) -> None:
    with pytest.raises(pytest.fail.Exception, match="from inside"):
        run_agent(Do, {"action": "fail"})


def test_in_a_test_that_is_async(run_agent: RunAgent) -> None:
    async def test() -> Any:
        return run_agent(Count, {"text": "a b"}).output

    assert asyncio.run(test()) == {"words": 2, "main": False}


def test_nothing_is_left_open(run_agent: RunAgent) -> None:
    run_agent(Count, {"text": "a"})
    before = len(list(FDS.iterdir())), threading.active_count()
    for _ in range(3):
        run_agent(Count, {"text": "a"})
        run_agent(Do, {"action": "set"})
    assert (len(list(FDS.iterdir())), threading.active_count()) == before


def test_every_pytest_loads_the_plugin_and_next_to_nothing_with_it() -> None:
    code = (
        "import sys, lanewise.testing; print([n for n in sys.modules if n.partition('.')[0] in ('worker', 'shared')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
