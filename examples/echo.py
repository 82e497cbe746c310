"""The smallest agent: it counts words. The README shows it too."""

from lanewise import Agent, AgentRun, UserExecutionContext
from pydantic import BaseModel


class Text(BaseModel):
    text: str


class Count(Agent):
    """Counts the words of a text."""

    name = "count"
    Input = Text

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> dict[str, int]:
        run.emit.thinking("counting")
        return {"words": len(run.input.text.split())}
