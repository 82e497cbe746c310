"""How far a workflow is: computed from its parts, and added to what their agents tell."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from shared.context import UserExecutionContext
from shared.event_types import EventType
from worker.emitter import check_data
from worker.interfaces import EventBridge
from worker.workflow import Choice, Part, Step


class WorkflowProgress:
    """The fractions of the steps, and what they make of the whole. Never falls. Safe to use from any thread.

    Args:
        body: of the workflow.
    """

    def __init__(self, body: Part) -> None:
        self._body = body
        self._lock = threading.Lock()
        self._fractions: dict[str, float] = {}
        self._chosen: dict[str, str] = {}
        self._whole = 0.0

    def update(self, step: Step, fraction: float, tell: Callable[[float], None]) -> None:
        """Takes in how far a step is, from 0 to 1, and tells how far the whole is.

        Args:
            tell: sends it. Under the lock: what was computed first has to be sent first, or the whole would fall.
        """
        with self._lock:
            self._fractions[step.name] = fraction
            tell(self._now())

    def choose(self, choice: Choice, key: str, tell: Callable[[float], None]) -> None:
        """Takes in what was chosen, and tells how far the whole is."""
        with self._lock:
            self._chosen[choice.name] = key
            tell(self._now())

    def _now(self) -> float:
        self._whole = max(self._whole, min(self._fraction(self._body), 1.0))
        return self._whole

    def _fraction(self, part: Part | None) -> float:
        if part is None:
            return 1.0
        if isinstance(part, Step):
            return self._fractions.get(part.name, 0.0)
        if isinstance(part, Choice):
            key = self._chosen.get(part.name)
            return 0.0 if key is None else self._fraction(part.options[key])
        total = sum(map(_weight, part.parts))
        return sum(_weight(child) * self._fraction(child) for child in part.parts) / total if total else 1.0


class StepBridge:
    """The way out for the events of one step: its agent's progress tells the whole's too. An `EventBridge`.

    Args:
        bridge: of the workflow's agent.
        progress: of the workflow.
        step: whose agent's events come here.
    """

    def __init__(self, bridge: EventBridge, progress: WorkflowProgress, step: Step) -> None:
        self._bridge = bridge
        self._progress = progress
        self._step = step

    def send_event(self, context: UserExecutionContext, kind: str, agent: str, data: dict[str, Any]) -> None:
        """Passes an event on; one of progress gets `step` and `run_fraction`."""
        if kind != EventType.AGENT_PROGRESS:
            self._bridge.send_event(context, kind, agent, data)
            return
        step = f"{self._step.name}/{data['step']}" if "step" in data else self._step.name

        def tell(whole: float) -> None:
            more = {**data, "step": step, "run_fraction": round(whole, 4)}
            check_data(more)  # the note alone may just have fitted
            self._bridge.send_event(context, kind, agent, more)

        # A step whose agent runs a workflow of its own has told how far that is.
        self._progress.update(self._step, data.get("run_fraction", data["fraction"]), tell)


def _weight(part: Part | None) -> float:
    if part is None:
        return 0.0
    if isinstance(part, Step):
        return part.weight
    if isinstance(part, Choice):
        return max(map(_weight, part.options.values()))
    return sum(map(_weight, part.parts))
