"""Two small agents that the demo's fleet has besides the built-in ones."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from lanewise import Agent, AgentRun, UserExecutionContext

STEP_S = 0.1


class CountInput(BaseModel):
    """A text."""

    text: str


class Count(Agent):
    """Counts the words of a text."""

    name: ClassVar[str] = "count"
    Input: ClassVar[type[BaseModel]] = CountInput

    def execute(self, context: UserExecutionContext, run: AgentRun) -> dict[str, Any]:
        """Returns how many words there are, and the most frequent long ones."""
        del context
        words = run.input.text.split()
        long = Counter(word.lower() for word in words if word.isalpha() and len(word) > len("seven"))
        return {"words": len(words), "most_frequent": [word for word, _ in long.most_common(5)]}


class CountdownInput(BaseModel):
    """From where to count."""

    seconds: float = Field(gt=0, le=600)


class Countdown(Agent):
    """Counts seconds down: a run that takes its time."""

    name: ClassVar[str] = "countdown"
    Input: ClassVar[type[BaseModel]] = CountdownInput

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> str:
        """Returns when zero is reached."""
        del context
        total = max(1, round(run.input.seconds / STEP_S))
        for step in range(total):
            run.emit.progress(step / total, f"{(total - step) * STEP_S:.1f} s to go")
            await asyncio.sleep(STEP_S)
        return f"{total * STEP_S:.1f} s are over"
