"""The pytest plugin for authors of agents: installed with Lanewise, it gives tests the fixture `run_agent`.

def test_words_are_counted(run_agent: RunAgent) -> None:
    result = run_agent(Count, {"text": "one two"})
    assert result.output == {"words": 2}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

# What follows is loaded with every pytest of an environment that has Lanewise: the rest waits for the first use.
if TYPE_CHECKING:
    from lanewise.authoring.memory import Artifact
    from worker.authoring import Agent, Retry

__all__ = ["RunAgent", "RunResult"]


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Args:
        run: as REST gives it: `id`, `thread_id`, `status`, `output`, `error`, `usage` and more.
        events: in their public form, in order.
        artifacts: the files that it saved, by name; each has `content_type` and `content`.
        trace: where the agent raised, if it did.
        retry: what it raised, if it asked for another attempt: `run_agent(..., resumes=result)` makes that.
    """

    run: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    artifacts: Mapping[str, Artifact]
    trace: str
    retry: Retry | None = None

    @property
    def status(self) -> str:
        """`completed`, `failed`, `cancelled` or `timed_out`."""
        return str(self.run["status"])

    @property
    def output(self) -> Any:
        """What the agent returned, as JSON has it.

        Raises:
            AssertionError: it did not complete; with the reason, and where the agent raised.
        """
        if self.status != "completed":
            raise AssertionError(f"the run is {self.status}: {self.message}\n{self.trace}".rstrip())
        return self.run["output"]

    @property
    def message(self) -> str:
        """Of the error that the user sees; "" if the run completed."""
        return str((self.run["error"] or {}).get("message", ""))

    @property
    def types(self) -> list[str]:
        """Of the events, in order."""
        return [str(event["type"]) for event in self.events]

    @property
    def thread_id(self) -> str:
        """Of the run's thread: another run of it finds what this one remembered."""
        return str(self.run["thread_id"])


class RunAgent:
    """Runs agents in the process of the test. Values, memory and steps last from one call to the next, in one test."""

    def __init__(self) -> None:
        from lanewise.authoring.memory import Memory  # noqa: PLC0415

        self._memory = Memory()

    def __call__(  # noqa: PLR0913 - each one a thing that a test may want to say
        self,
        agent: type[Agent],
        run_input: Any = None,
        *,
        agents: Sequence[type[Agent]] = (),
        granted: Sequence[str] = (),
        user_id: str = "author",
        thread_id: str | None = None,
        resumes: RunResult | None = None,
        cancel_when: Callable[[Mapping[str, Any]], bool] = lambda _: False,
        time_limit_s: float | None = None,
    ) -> RunResult:
        """Runs an agent to its end; what it raises is in the result, not raised.

        Args:
            agent: its class.
            run_input: JSON; default `{}`. The agent's `Input` checks it.
            agents: further ones, which its workflows name.
            granted: names of tools that the user has a grant for.
            user_id: whose run it is.
            thread_id: default: a new thread.
            resumes: a run of this test that goes on in another attempt: what its steps recorded is not done again.
            cancel_when: given each event's `{"type", "agent", "data"}`; true asks the run to end, and the agent knows
                it when its call returns.
            time_limit_s: running time in seconds; default: the agent's.

        Raises:
            ConfigurationError: an agent is not sound, with file, line and cure.
        """
        from lanewise.authoring.in_process import registry_of, run_in_process  # noqa: PLC0415
        from lanewise.authoring.local_run import Order  # noqa: PLC0415
        from lanewise.authoring.trace import own_frames  # noqa: PLC0415
        from worker.authoring import Retry  # noqa: PLC0415

        registry = registry_of((agent, *agents))
        earlier = resumes.run if resumes else {}
        order = Order(
            agent.name,
            {} if run_input is None else run_input,
            agent.time_limit_s if time_limit_s is None else time_limit_s,
            user_id=user_id,
            thread_id=thread_id or earlier.get("thread_id"),
            run_id=earlier.get("id"),
            attempt=earlier.get("attempt", 0) + 1,
            after_seq=earlier.get("last_run_seq", 0),
            granted=granted,
        )
        run, events = run_in_process(order, self._memory, registry, cancel_when)
        retry = Retry(run.retry.message, run.retry.after_s) if run.retry else None
        return RunResult(run.view(), events, run.artifacts, "\n".join(own_frames(run.trace)), retry)


@pytest.fixture
def run_agent() -> RunAgent:
    """Runs an agent in this process: `run_agent(Count, {"text": "one two"}).output`. See `RunAgent`."""
    return RunAgent()
