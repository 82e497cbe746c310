"""What an author of agents uses: `Agent`, `Tool`, and what the two are handed. Re-exported by `lanewise`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from shared.context import UserExecutionContext
from shared.errors import InvalidError, LanewiseError
from shared.outcomes import MAX_AFTER_S, is_pause
from worker.workflow import Workflow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from worker.artifacts import Artifacts
    from worker.emitter import UserWebSocketEmitter
    from worker.interfaces import RedisManager
    from worker.orchestrator import WorkflowOrchestrator
    from worker.state import StateManager
    from worker.toolscope import ToolScope
    from worker.toolsystem import UserToolSystem


class AnyInput(BaseModel):
    """The input of an agent that declares none: any JSON object."""

    model_config = ConfigDict(extra="allow")


class Agent:
    """Does the work of a run. Subclass it, give it a name and an `execute`; the docstring is its description.

    A new instance is made for every run, in a process of its own, so instance attributes are the run's alone. What is
    set on the class is shared by all users and has to be immutable: a class with a mutable attribute is refused.

    Attributes:
        name: unique in the fleet; what `POST /v1/runs` calls `agent`.
        Input: the pydantic model of the input; its JSON Schema is published.
        tools: classes of the tools it may call.
        workflows: declarations of what it has other agents do, see `run.workflows`.
        time_limit_s: running time over all attempts, seconds.
        max_attempts: attempts that may be lost to crashes or end with `Retry`; other exceptions fail the run at once.
        queue: only workers that serve this queue run it.
        network: whether its sandbox may use the network; else it reaches the database and nothing more.
    """

    name: ClassVar[str]
    Input: ClassVar[type[BaseModel]] = AnyInput
    tools: ClassVar[tuple[type[Tool], ...]] = ()
    workflows: ClassVar[tuple[Workflow, ...]] = ()
    time_limit_s: ClassVar[float] = 600
    max_attempts: ClassVar[int] = 3
    queue: ClassVar[str] = "default"
    network: ClassVar[bool] = False

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        """Returns the result, JSON of at most 1 MiB. May be `async def`; a plain one may block.

        Args:
            context: whose work this is.
            run: the input and everything the agent may do.

        Raises:
            Retry: the run goes on in another attempt.
            Exception: whatever else is raised fails the run; its type and message (no traceback) go to the user.
        """
        raise NotImplementedError(f"{type(self).__name__} has no execute")


class Tool:
    """One thing an agent can do, with checked parameters. Subclass it, give it a name and a `run`.

    Attributes:
        name: unique among the tools of an agent.
        Parameters: the pydantic model of the parameters; its JSON Schema is what a model sees.
        permission: `open` to everybody, or `granted`: only to users who were granted it.
        time_limit_s: of one call, seconds. An async tool is cancelled then; a plain one, which runs in a thread, is
            given up: the call fails, and what its `scope` offers raises from then on.
        network: whether it needs the network: then the sandboxes of agents that have it may use it.
    """

    name: ClassVar[str]
    Parameters: ClassVar[type[BaseModel]] = AnyInput
    permission: ClassVar[Literal["open", "granted"]] = "open"
    time_limit_s: ClassVar[float] = 60
    network: ClassVar[bool] = False

    def __init__(self, scope: ToolScope) -> None:
        self.scope = scope

    def tool_schema(self) -> dict[str, Any]:
        """Returns the tool as a model needs it: `name`, `description` and `parameters`, a JSON Schema."""
        parameters = self.Parameters.model_json_schema()
        return {"name": self.name, "description": inspect.getdoc(self) or "", "parameters": parameters}

    def check_parameters(self, parameters: Mapping[str, Any]) -> Any:
        """Returns the parameters as `run` gets them.

        Raises:
            ValidationError: naming each bad one.
        """
        return self.Parameters.model_validate(dict(parameters))

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        """Returns the tool's result, JSON of at most 1 MiB. May be `async def`; a plain one may block.

        Several calls of one tool may run at once: what they share on `self` needs a lock.

        Args:
            context: a child of the agent's context, made for this call.
            parameters: an instance of `Parameters`.

        Raises:
            ToolError: for what the agent (or the user) should be told; other exceptions are reported by type and text.
        """
        raise NotImplementedError(f"{type(self).__name__} has no run")


class ToolError(LanewiseError):
    """A tool could not do what it was asked; the message says why."""

    code = "tool_error"
    status = 422
    title = "Tool failed"


class Retry(LanewiseError):  # noqa: N818 - what an author asks for, not what went wrong
    """Raised out of `execute`: this attempt is over, the run is to go on in another one, after its recorded steps.

    It counts towards `max_attempts`; the last attempt's fails the run. Meanwhile the run waits in the queue: it holds
    no slot, and waiting is no running time.

    Args:
        message: for the user: what is waited for.
        after_s: seconds until the next attempt, 0 to 86,400; None: the fleet's own pauses, none before the second
            attempt and growing ones after that.

    Raises:
        InvalidError: `after_s` is not such a number.
    """

    code = "retry"
    status = 503
    title = "Another attempt is needed"

    def __init__(self, message: str, after_s: float | None = None) -> None:
        if after_s is not None and not is_pause(after_s):
            raise InvalidError(f"after_s of a Retry must be a number of seconds from 0 to {MAX_AFTER_S:,.0f}")
        super().__init__(message)
        self.after_s = after_s


class AgentExecutionContext:
    """One execution of one agent, as its author sees it (there called `AgentRun`).

    Attributes:
        input: the validated `Input` of the agent.
        emit: `thinking(text)`, `progress(fraction, note="")`, `token(text)`.
        tools: `call(name, **parameters)` and `await dispatch_tool(name, parameters, context)`.
        store: `get(key)` and `set(key, value, ttl_s)`: small values of this user's that outlive the run for a while.
        state: `step(name, function)` and `db_step(name, function)`: done once, over recoveries too; `load()`,
            `save(value)` and `update(function)`: what the agent remembers in this thread.
        artifacts: `save(name, content, content_type)`: files for the user.
        workflows: `await orchestrate_workflow(name, context, run)`: has other agents do the parts of the work.
    """

    def __init__(  # noqa: PLR0913 - each one a thing the author is handed
        self,
        *,
        raw_input: Any,
        emit: UserWebSocketEmitter,
        tools: UserToolSystem,
        store: RedisManager,
        state: StateManager,
        artifacts: Artifacts,
        workflows: WorkflowOrchestrator,
        add_usage: Callable[[str, int, int], None],
        open_session: Callable[[], AbstractContextManager[Session]],
        is_cancelled: Callable[[], bool],
    ) -> None:
        self.raw_input = raw_input
        self.input: Any = None
        self.emit = emit
        self.tools = tools
        self.store = store
        self.state = state
        self.artifacts = artifacts
        self.workflows = workflows
        self._add_usage = add_usage
        self._open_session = open_session
        self._is_cancelled = is_cancelled
        self._stopped = False

    @property
    def cancelled(self) -> bool:
        """True once the user asked to cancel: a plain `execute` that loops should look, tidy up and return."""
        return self._stopped or self._is_cancelled()

    def stop(self) -> None:
        """Has `cancelled` be true, because the workflow that this is a part of goes on without it."""
        self._stopped = True

    def record_usage(self, model: str, input_tokens: int, output_tokens: int) -> None:
        """Adds one request to a model to what the run has used; its JSON shows the sum as `usage`."""
        self._add_usage(model, input_tokens, output_tokens)

    def db(self) -> AbstractContextManager[Session]:
        """Returns the request-scoped session: `with run.db() as session`. It sees only this user's rows."""
        return self._open_session()


AgentRun = AgentExecutionContext
