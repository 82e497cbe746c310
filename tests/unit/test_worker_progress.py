"""The progress of a workflow whose parts tell theirs from many threads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from worker.progress import WorkflowProgress
from worker.workflow import Parallel, Step


@pytest.fixture
def _often_interrupted() -> Iterator[None]:
    """Has threads change places at nearly every instruction."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_often_interrupted")
def test_what_was_computed_first_is_told_first() -> None:
    steps = [Step(f"s{n}", "a", lambda _: {}) for n in range(4)]
    progress, told = WorkflowProgress(Parallel(*steps)), list[float]()

    def tell_all(step: Step) -> None:
        for number in range(1, 301):
            progress.update(step, number / 300, told.append)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(tell_all, steps))
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
