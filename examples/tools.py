"""An agent with a tool of its own, which reads the user's documents; and a value that outlives the run."""

import re
from collections import Counter
from typing import Any

import sqlalchemy as sa
from lanewise import Agent, AgentRun, Tool, ToolError, UserExecutionContext
from pydantic import BaseModel, Field

DAY_S = 86_400


class Which(BaseModel):
    name: str = Field(description="a document that the user has uploaded")


class ReadDocument(Tool):
    """Reads one of the user's documents as text."""

    name = "read_document"
    Parameters = Which

    def run(self, context: UserExecutionContext, parameters: Which) -> str:
        # No user in the statement: this session sees the rows of the run's own user, and no others.
        with self.scope.db() as session:
            query = sa.text("SELECT content FROM documents WHERE name = :name")
            content = session.execute(query, {"name": parameters.name}).scalar()
        if content is None:
            raise ToolError(f"there is no document called {parameters.name!r}")
        return bytes(content).decode(errors="replace")


class Request(Which):
    top: int = Field(5, ge=1, le=100, description="how many words")


class TopWords(Agent):
    """Finds the words that a document of yours uses most."""

    name = "top_words"
    Input = Request
    tools = (ReadDocument,)

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> dict[str, Any]:
        found = await run.tools.dispatch_tool("read_document", {"name": run.input.name}, context)
        words = re.findall(r"\w+", found.unwrap().lower())
        run.emit.progress(0.5, f"{len(words)} words")
        # Kept for this user for a day, whichever run asks; other users have values of their own.
        times = (run.store.get("asked") or 0) + 1
        run.store.set("asked", times, ttl_s=DAY_S)
        return {"top": Counter(words).most_common(run.input.top), "asked": times}
