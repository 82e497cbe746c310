"""Agents that work as one: two of them at the same time, then a decision. The steps are recorded like any others."""

from typing import Any

from lanewise import Agent, AgentRun, Parallel, Step, UserExecutionContext, Workflow
from pydantic import BaseModel


class Texts(BaseModel):
    first: str
    second: str


class Compare(Agent):
    """Says which of two texts has more words; the agent `count` counts them."""

    name = "compare"
    Input = Texts
    workflows = (
        Workflow(
            "count-both",
            Parallel(
                Step("first", "count", input=lambda results: {"text": results.input.first}),
                Step("second", "count", input=lambda results: {"text": results.input.second}),
            ),
        ),
    )

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> dict[str, Any]:
        results = await run.workflows.orchestrate_workflow("count-both", context, run)
        words = {name: results[name]["words"] for name in ("first", "second")}
        return {"words": words, "longer": max(words, key=lambda name: words[name])}
