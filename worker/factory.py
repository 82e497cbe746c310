"""`AgentInstanceFactory`: makes what a run needs, fresh, and takes all of it down again, whatever happens."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from shared.context import UserExecutionContext, validate_user_context
from shared.errors import ConfigurationError
from worker.authoring import Agent
from worker.registry import AgentClassRegistry

log = logging.getLogger(__name__)  # not structlog: this module is loaded by every sandbox

HISTORY = 100


@dataclass
class _Held:
    """What the factory knows of a run that is open."""

    context: UserExecutionContext
    opened: float
    touched: float
    callbacks: ExitStack = field(default_factory=ExitStack)
    errors: int = 0


@dataclass(frozen=True)
class PastRun:
    """A run that was cleaned up: ids and figures only, nothing of what it worked on."""

    run_id: str
    correlation_id: str
    duration_s: float
    cleanup_errors: int


class AgentInstanceFactory:
    """Instances and clean-up for runs. Holds no agent: whoever asked for an instance owns it.

    Args:
        registry: the frozen classes.
        clock: seconds that never go back; a test brings its own.
    """

    def __init__(self, registry: AgentClassRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._history: deque[PastRun] = deque(maxlen=HISTORY)
        self._counters: Counter[str] = Counter()

    def create_user_execution_context(
        self, user_id: str, thread_id: str, run_id: str, **optional: Any
    ) -> UserExecutionContext:
        """Returns a validated root context and counts the run as active until it is cleaned up.

        Raises:
            InvalidContextError: naming the bad field.
        """
        context = UserExecutionContext.from_request(user_id, thread_id, run_id, **optional)
        self._adopt(context)
        return context

    def create_agent_instance(self, agent_name: str, context: UserExecutionContext) -> Agent:
        """Returns a new instance of a registered agent, for this context's run.

        Raises:
            UnknownAgentError: no such agent; with the nearest match.
            InvalidContextError: the context is not sound.
        """
        validate_user_context(context)
        agent = self._registry.get(agent_name)()
        self._counters["agents_created"] += 1
        if context.run_id in self._held:
            self._held[context.run_id].touched = self._clock()
        return agent

    @contextmanager
    def user_execution_scope(self, context: UserExecutionContext) -> Iterator[UserExecutionContext]:
        """Opens a run; whatever happens inside, its clean-up callbacks have run when the scope is left."""
        self._adopt(validate_user_context(context))
        try:
            yield context
        finally:
            self.cleanup_user_context(context)

    def add_cleanup(self, context: UserExecutionContext, callback: Callable[[], None]) -> None:
        """Has `callback` called when the run is cleaned up; the last one added is called first.

        Raises:
            ConfigurationError: the run is not open here.
        """
        held = self._find(context)
        if held is None:
            raise ConfigurationError(f"run {context.run_id} is not open in this factory")
        held.callbacks.callback(self._attempt, held, callback)

    def cleanup_user_context(self, context: UserExecutionContext) -> bool:
        """Closes a run: calls its callbacks in reverse order, each one whatever the others raised.

        Returns:
            False if it was closed before.
        """
        held = self._find(context)
        if held is None:
            return False
        del self._held[context.run_id]
        try:
            held.callbacks.close()
        finally:
            self._counters["runs_cleaned"] += 1
            self._counters["cleanup_errors"] += held.errors
            duration = self._clock() - held.opened
            self._history.append(PastRun(context.run_id, context.correlation_id, duration, held.errors))
        return True

    def cleanup_inactive(self, idle_s: float) -> int:
        """Closes runs in which nothing was made for `idle_s` seconds; returns how many."""
        idle = [held.context for held in self._held.values() if self._clock() - held.touched >= idle_s]
        return sum(self.cleanup_user_context(context) for context in idle)

    @property
    def active_runs(self) -> list[str]:
        """The ids of the open runs."""
        return list(self._held)

    @property
    def run_history(self) -> list[PastRun]:
        """The last 100 runs that were cleaned up."""
        return list(self._history)

    @property
    def counters(self) -> dict[str, int]:
        """Runs opened and cleaned, agents created, clean-ups that raised."""
        return dict(self._counters)

    def _adopt(self, context: UserExecutionContext) -> None:
        if self._find(context) is None:
            now = self._clock()
            self._held[context.run_id] = _Held(context, now, now)
            self._counters["runs_opened"] += 1

    def _find(self, context: UserExecutionContext) -> _Held | None:
        held = self._held.get(context.run_id)
        if held is not None and held.context.user_id != context.user_id:
            raise ConfigurationError(f"run {context.run_id} is open for another user")
        return held

    @staticmethod
    def _attempt(held: _Held, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:  # one clean-up's failure must not keep the others from running
            held.errors += 1
            context = held.context
            log.exception("a clean-up of run %s failed (correlation %s)", context.run_id, context.correlation_id)
