"""An agent in a package of its own, found by its entry point."""

from lanewise import Agent, AgentRun, UserExecutionContext
from pydantic import BaseModel


class Who(BaseModel):
    name: str = "world"


class Hello(Agent):
    """Greets somebody."""

    name = "hello"
    Input = Who

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> dict[str, str]:
        return {"greeting": f"Hello, {run.input.name}!"}
