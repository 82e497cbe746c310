"""`AgentExecutionTracker`: where each execution is, in the vocabulary of `shared.states`, with its history."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from shared.errors import NotFoundError
from shared.states import ExecutionState, check_transition

HISTORY = 1000


@dataclass(frozen=True)
class Transition:
    """One change of state, with whatever the one who made it had to say."""

    run_id: str
    correlation_id: str
    old: ExecutionState | None
    new: ExecutionState
    at: float
    details: dict[str, Any] = field(default_factory=dict)


class AgentExecutionTracker:
    """Executions that are under way, and the last 1,000 transitions. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, tuple[ExecutionState, str, str]] = {}
        self._history: deque[Transition] = deque(maxlen=HISTORY)
        self._ended: Counter[ExecutionState] = Counter()

    def start(self, execution_id: str, run_id: str, correlation_id: str, **details: Any) -> None:
        """Registers an execution as queued."""
        with self._lock:
            self._states[execution_id] = (ExecutionState.QUEUED, run_id, correlation_id)
            self._note(run_id, correlation_id, None, ExecutionState.QUEUED, details)

    def transition(self, execution_id: str, new: ExecutionState, **details: Any) -> None:
        """Moves an execution on; one that has ended, or is queued again, is under way no more.

        Raises:
            NotFoundError: no such execution is under way.
            IllegalTransitionError: the table of states does not allow it.
        """
        with self._lock:
            if execution_id not in self._states:
                raise NotFoundError(f"no execution {execution_id!r} is under way")
            old, run_id, correlation_id = self._states[execution_id]
            check_transition(old, new)
            if new.is_end or new is ExecutionState.QUEUED:
                del self._states[execution_id]
                self._ended[new] += 1
            else:
                self._states[execution_id] = (new, run_id, correlation_id)
            self._note(run_id, correlation_id, old, new, details)

    def active(self) -> dict[str, ExecutionState]:
        """Returns the state of each execution under way."""
        with self._lock:
            return {execution_id: state for execution_id, (state, _, _) in self._states.items()}

    def history(self, run_id: str | None = None) -> list[Transition]:
        """Returns the last transitions, of one run if one is named."""
        with self._lock:
            return [item for item in self._history if run_id in (None, item.run_id)]

    def totals(self) -> dict[ExecutionState, int]:
        """Returns how many executions ended in each state."""
        with self._lock:
            return dict(self._ended)

    def _note(
        self, run_id: str, correlation_id: str, old: ExecutionState | None, new: ExecutionState, details: dict[str, Any]
    ) -> None:
        self._history.append(Transition(run_id, correlation_id, old, new, time.time(), details))
