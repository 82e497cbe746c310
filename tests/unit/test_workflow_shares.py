"""What the steps of a workflow have in common, as docs/authoring.md says: memory and files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lanewise import Agent, AgentRun, Results, Sequence, Step, UserExecutionContext, Workflow
from lanewise.testing import RunAgent


class Scribe(Agent):
    """Writes down who asked it."""

    name = "scribe"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        who = run.input.who
        run.artifacts.save("notes.txt", who, "text/plain")
        return {scope: run.state.update(lambda kept: [*(kept or []), who], scope) for scope in ("thread", "run")}


def _asking(who: str) -> Callable[[Results], dict[str, str]]:
    return lambda _: {"who": who}


class Twice(Agent):
    """Asks the scribe twice."""

    name = "twice"
    workflows = (Workflow("twice", Sequence(*(Step(who, "scribe", input=_asking(who)) for who in "ab"))),)

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        return (await run.workflows.orchestrate_workflow("twice", context, run))["b"]


def test_steps_of_one_agent_share_its_memory(run_agent: RunAgent) -> None:
    first = run_agent(Twice, agents=[Scribe])
    assert first.output == {"thread": ["a", "b"], "run": ["a", "b"]}
    again = run_agent(Twice, agents=[Scribe], thread_id=first.thread_id)
    assert again.output == {"thread": ["a", "b", "a", "b"], "run": ["a", "b"]}


def test_a_file_of_a_later_step_replaces_one_of_the_same_name(run_agent: RunAgent) -> None:
    result = run_agent(Twice, agents=[Scribe])
    assert {name: artifact.content for name, artifact in result.artifacts.items()} == {"notes.txt": b"b"}
