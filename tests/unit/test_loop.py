from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import structlog.testing

from shared.loop import Loop

PATIENCE_S = 5


class Counting(Loop):
    name = "counting"

    def __init__(self, interval_s: float = 0.001, wanted: int = 3) -> None:
        super().__init__(interval_s)
        self.ticks = 0
        self.wanted = wanted
        self.enough = threading.Event()
        self.fail = False

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks >= self.wanted:
            self.enough.set()
        if self.fail:
            raise RuntimeError("broken tick")


@pytest.fixture
def loop() -> Iterator[Counting]:
    loop = Counting()
    yield loop
    loop.stop()


def alive() -> bool:
    return any(thread.name == "lanewise-counting" for thread in threading.enumerate())


def test_ticks_until_it_is_stopped(loop: Counting) -> None:
    loop.start()
    assert loop.enough.wait(PATIENCE_S)
    loop.stop()
    assert not alive()


def test_outlives_a_tick_that_raises_and_logs_it(loop: Counting) -> None:
    loop.fail = True
    with structlog.testing.capture_logs() as logs:
        loop.start()
        assert loop.enough.wait(PATIENCE_S)
        loop.stop()
    assert len(logs) == loop.ticks
    assert {(entry["log_level"], entry["loop"]) for entry in logs} == {("error", "counting")}


def test_stopping_does_not_wait_for_the_interval() -> None:
    loop = Counting(interval_s=3600, wanted=1)
    loop.start()
    assert loop.enough.wait(PATIENCE_S)
    loop.stop(PATIENCE_S)
    assert not alive()
    assert loop.ticks == 1


def test_stopping_waits_for_the_present_tick_within_its_bound() -> None:
    entered, release = threading.Event(), threading.Event()

    class Slow(Loop):
        name = "counting"

        def tick(self) -> None:
            entered.set()
            release.wait(PATIENCE_S)

    loop = Slow(3600)
    loop.start()
    try:
        assert entered.wait(PATIENCE_S)
        loop.stop(0.01)
        assert alive()
    finally:
        release.set()
        loop.stop(PATIENCE_S)
    assert not alive()


def test_a_tick_can_be_called_without_a_thread(loop: Counting) -> None:
    loop.tick()
    assert loop.ticks == 1
    assert not alive()


def test_stopping_what_never_started_is_fine(loop: Counting) -> None:
    loop.stop()
