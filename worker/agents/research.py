"""`research`: finds and cites passages in the user's documents."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel

from shared.context import UserExecutionContext
from worker.authoring import Agent, AgentRun, Tool
from worker.tools.deep_research import DeepResearchParameters, DeepResearchTool


class Research(Agent):
    """Answers a question from your own documents (Markdown, text, HTML, PDF) with exact quotes, or says: not found."""

    name: ClassVar[str] = "research"
    Input: ClassVar[type[BaseModel]] = DeepResearchParameters
    tools: ClassVar[tuple[type[Tool], ...]] = (DeepResearchTool,)
    time_limit_s: ClassVar[float] = 600

    def execute(self, context: UserExecutionContext, run: AgentRun) -> dict[str, Any]:
        """Returns what `DeepResearchTool` found."""
        del context
        result: dict[str, Any] = run.tools.call("deep_research", **run.input.model_dump())
        run.emit.thinking(_impression(result))
        run.emit.progress(1.0, "done")
        return result


def _impression(result: dict[str, Any]) -> str:
    if not result["found"]:
        return str(result["answer"])
    best = result["citations"][0]
    place = " > ".join(filter(None, (best["document"], best["heading"])))
    return f"the best of {len(result['passages'])} passages is in {place}"
