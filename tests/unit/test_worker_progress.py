"""The progress of a workflow whose parts tell theirs from several threads."""

from __future__ import annotations

import threading

import pytest

from worker.progress import WorkflowProgress
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
