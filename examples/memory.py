"""An agent that remembers: what was said in its thread, a moment that stays the same, a file for the user."""

from datetime import UTC, datetime

from lanewise import Agent, AgentRun, UserExecutionContext
from pydantic import BaseModel, Field


class Entry(BaseModel):
    text: str = Field(min_length=1, max_length=1000)


class Journal(Agent):
    """Keeps a journal of what you tell it in a thread, and gives it to you as a file."""

    name = "journal"
    Input = Entry

    def execute(self, context: UserExecutionContext, run: AgentRun) -> dict[str, int]:
        # A step: if this run's worker dies below, the next attempt reads the moment instead of asking the clock again.
        moment = run.state.step("moment", lambda: datetime.now(UTC).isoformat(timespec="minutes"))
        # By run, so that a second attempt adds nothing. If another run saves meanwhile, `update` calls the function
        # again, on what that one saved.
        entries: dict[str, str] = run.state.update(
            lambda before: {**(before or {}), context.run_id: f"{moment} {run.input.text}"}
        )
        run.artifacts.save("journal.md", "".join(f"- {entry}\n" for entry in entries.values()), "text/markdown")
        return {"entries": len(entries)}
