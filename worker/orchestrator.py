"""`WorkflowOrchestrator`: runs the workflows of an agent, each step by an agent of its own in a child context.

What a step came to is recorded in the run, so that after a recovery a workflow goes on after its last finished step.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from shared.context import UserExecutionContext, validate_user_context
from shared.errors import InvalidError, LanewiseError
from shared.jsonvalue import check_json
from shared.nearest import unknown_name
from shared.states import ExecutionState
from worker.core import AgentExecutionResult
from worker.described import describe_error
from worker.interfaces import EventBridge
from worker.progress import StepBridge, WorkflowProgress
from worker.state import StateManager
from worker.workflow import Choice, Parallel, Part, Results, Sequence, Step, Workflow

if TYPE_CHECKING:
    from worker.authoring import AgentExecutionContext

MAX_INPUT_BYTES = 1024 * 1024


class StepFailedError(LanewiseError):
    """A step failed whose failure ends the workflow.

    Args:
        step: its name.
        error: `{"type", "message"}`.
    """

    code, title = "step_failed", "A step of the workflow failed"

    def __init__(self, step: Step, error: Mapping[str, str]) -> None:
        super().__init__(f"step {step.name!r} (agent {step.agent!r}): {error['message']}")
        self.step = step.name
        self.error = dict(error)


class RunAgent(Protocol):
    """Runs one agent for the orchestrator, as the engine does."""

    async def __call__(
        self, agent_name: str, context: UserExecutionContext, raw_input: Any, state: StateManager, bridge: EventBridge
    ) -> AgentExecutionResult:
        """Returns how it ended; raises only for what is not the agent's mistake."""
        ...


class WorkflowOrchestrator:
    """The workflows of one agent in one run.

    Args:
        workflows: as the agent's class declares them.
        run_agent: does a step's work.
        state: of the agent; steps are recorded in it.
        bridge: the agent's way out for events.
        is_last: whether the run has no attempt after this one: where a failure is passed over, so is `Retry` then.
    """

    def __init__(
        self,
        workflows: Iterable[Workflow],
        run_agent: RunAgent,
        state: StateManager,
        bridge: EventBridge,
        *,
        is_last: bool = False,
    ) -> None:
        self._workflows = {workflow.name: workflow for workflow in workflows}
        self._run_agent = run_agent
        self._state = state
        self._bridge = bridge
        self._is_last = is_last
        self._begun: set[str] = set()

    async def orchestrate_workflow(
        self, workflow_name: str, user_context: UserExecutionContext, execution_context: AgentExecutionContext
    ) -> Results:
        """Runs a workflow of this agent from where an earlier attempt of the run left it.

        Args:
            workflow_name: one that the agent declares; each can be run once in a run.
            user_context: each step's agent gets a child of it.
            execution_context: the agent's `run`: its input is the workflow's, its `emit` tells how far the whole is.

        Returns:
            what the steps made.

        Raises:
            StepFailedError: a step failed whose failure ends the workflow; the others have ended when it is raised.
            Retry: a step's agent raised it: let it pass, and the run's next attempt goes on after the recorded steps.
            InvalidError: no such workflow, or it was run already.
        """
        context = validate_user_context(user_context)
        workflow = self._workflows.get(workflow_name)
        if workflow is None:
            raise InvalidError(unknown_name("workflow of this agent", str(workflow_name), self._workflows))
        if workflow_name in self._begun:
            raise InvalidError(f"workflow {workflow_name!r} was run already: once in a run is all that can be recorded")
        self._begun.add(workflow_name)
        execution = _Execution(
            workflow, context, execution_context, self._run_agent, self._state, self._bridge, self._is_last
        )
        return await execution.do(workflow.body, Results(execution_context.input))


@dataclass
class _Execution:
    """One workflow under way."""

    workflow: Workflow
    context: UserExecutionContext
    run: AgentExecutionContext
    run_agent: RunAgent
    state: StateManager
    bridge: EventBridge
    is_last: bool

    def __post_init__(self) -> None:
        self.progress = WorkflowProgress(self.workflow.body)

    async def do(self, part: Part, results: Results) -> Results:
        """Does a part; returns the results so far with its own."""
        match part:
            case Step():
                return results.adding(await self._step(part, results))
            case Choice():
                return await self._choice(part, results)
            case Sequence():
                for child in part.parts:
                    results = await self.do(child, results)
                return results
            case Parallel():
                return await self._parallel(part, results)

    async def _parallel(self, part: Parallel, results: Results) -> Results:
        try:
            async with asyncio.TaskGroup() as group:  # the first failure cancels the others, and waits for them
                tasks = [group.create_task(self.do(child, results)) for child in part.parts]
        except BaseExceptionGroup as failures:
            raise _first(failures) from None
        for task in tasks:
            results = results.adding(task.result())
        return results

    async def _choice(self, part: Choice, results: Results) -> Results:
        name = self._name(part)
        found = await self.state.recall(name)
        key = found[0] if found else part.choose(results)
        if key not in part.options:
            raise InvalidError(f"choice {part.name!r} chose {key!r}; there are: {', '.join(map(repr, part.options))}")
        if not found:
            key = await self.state.record(name, key)
        self.progress.choose(part, key, lambda whole: self.run.emit.progress(whole, f"{part.name}: {key}"))
        chosen = part.options[key]
        return results if chosen is None else await self.do(chosen, results)

    async def _step(self, step: Step, results: Results) -> Results:
        name = self._name(step)
        found = await self.state.recall(name)
        if found:
            record = found[0]
        else:
            record = await self._try(step, results)
            if "error" in record and step.on_failure == "fail":
                raise StepFailedError(step, record["error"])
            record = await self.state.record(name, record)
        note = f"{step.name} {'failed' if 'error' in record else 'done'}"
        self.progress.update(step, 1.0, lambda whole: self.run.emit.progress(whole, note))
        if "error" in record:
            return Results(None, errors={step.name: record["error"]})
        return Results(None, outputs={step.name: record["output"]})

    async def _try(self, step: Step, results: Results) -> dict[str, Any]:
        """Returns `{"output"}` or `{"error"}`."""
        record: dict[str, Any] = {}
        for _ in range(step.tries):
            try:
                # A copy, as JSON has it: an agent cannot change what other steps are given.
                raw_input = json.loads(json.dumps(check_json(step.input(results), "input", MAX_INPUT_BYTES)))
            except Exception as error:  # noqa: BLE001 - the author's function; its failure is the step's
                record = {"error": describe_error(error)}
                continue
            record = await self._attempt(step, raw_input)
            if "output" in record:
                break
        return record

    async def _attempt(self, step: Step, raw_input: Any) -> dict[str, Any]:
        context = self.context.create_child_context(f"step:{step.name}", {"workflow": self.workflow.name})
        state = self.state.child(step.agent, self._name(step))
        bridge = StepBridge(self.bridge, self.progress, step)
        result = await self.run_agent(step.agent, context, raw_input, state, bridge)
        if result.state is ExecutionState.COMPLETED:
            return {"output": result.output}
        if result.state is ExecutionState.CANCELLED:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
            return {"error": {"type": "cancelled", "message": "the agent cancelled itself"}}
        if result.retry is not None and not (self.is_last and step.on_failure == "continue"):
            raise result.retry  # the run's next attempt comes back to this step; what is recorded is not done again
        return {"error": dict(result.error or {})}

    def _name(self, part: Step | Choice) -> str:
        return f"{self.workflow.name}/{part.name}"


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Returns the first failure, that of a step before what is a mistake in the declaration."""
    flat = [_first(each) if isinstance(each, BaseExceptionGroup) else each for each in failures.exceptions]
    return next((failure for failure in flat if isinstance(failure, StepFailedError)), flat[0])
