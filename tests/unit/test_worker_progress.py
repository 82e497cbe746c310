"""The progress of a workflow whose parts tell theirs from several threads."""

from __future__ import annotations

import threading

import pytest

from shared.errors import TooLargeError
from shared.event_types import MAX_DATA_BYTES
from tests.parts import RecordingBridge
from tests.services import a_context
from worker.emitter import UserWebSocketEmitter
from worker.progress import StepBridge, WorkflowProgress
from worker.workflow import Parallel, Step


def test_what_was_computed_first_is_told_first() -> None:
    one, two = (Step(name, "a", lambda _: {}) for name in ("one", "two"))
    progress, told = WorkflowProgress(Parallel(one, two)), list[float]()
    begun, overtaken = threading.Event(), threading.Event()

    def slowly(whole: float) -> None:
        begun.set()
        overtaken.wait(0.2)
        told.append(whole)

    def quickly(whole: float) -> None:
        told.append(whole)
        overtaken.set()

    first = threading.Thread(target=progress.update, args=(one, 1.0, slowly))
    first.start()
    assert begun.wait(10)
    progress.update(two, 1.0, quickly)
    first.join()
    assert told == [pytest.approx(0.5), pytest.approx(1.0)]


def test_a_note_that_fits_only_without_the_steps_share_is_refused_to_its_agent() -> None:
    """Not by the runner, which would take it for a breach of the protocol and fail the run."""
    step, bridge = Step("one", "a", lambda _: {}), RecordingBridge()
    emit = UserWebSocketEmitter(a_context(), StepBridge(bridge, WorkflowProgress(step), step), "a")
    with pytest.raises(TooLargeError, match="event data"):
        emit.progress(0.5, "x" * (MAX_DATA_BYTES - len('{"fraction": 0.5, "note": ""}')))
    emit.progress(0.5, "half way")
    assert bridge.data("agent_progress") == [{"fraction": 0.5, "note": "half way", "step": "one", "run_fraction": 0.5}]
