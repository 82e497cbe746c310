from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import structlog.testing

from lanewise.process import wait_until
from worker import alarm as alarm_module
from worker.alarm import Alarm

PATIENCE_S = 5


@pytest.fixture
def rung() -> list[tuple[str, float]]:
    return []


@pytest.fixture
def alarm(rung: list[tuple[str, float]]) -> Iterator[Alarm]:
    alarm = Alarm(lambda user_id: rung.append((user_id, time.monotonic())))
    alarm.start()
    yield alarm
    alarm.stop()


def test_it_rings_in_the_order_of_the_moments_and_never_early(alarm: Alarm, rung: list[tuple[str, float]]) -> None:
    began = time.monotonic()
    for user_id, after_s in (("late", 0.2), ("soon", 0.05), ("now", 0)):
        alarm.set(user_id, after_s)
    assert wait_until(lambda: len(rung) == 3, PATIENCE_S)
    assert [user_id for user_id, _ in rung] == ["now", "soon", "late"]
    assert all(at - began >= after_s for (_, at), after_s in zip(rung, (0, 0.05, 0.2), strict=True))


def test_one_that_fails_keeps_no_other_from_ringing() -> None:
    rung = []

    def ring(user_id: str) -> None:
        if user_id == "bad":
            raise RuntimeError("broken")
        rung.append(user_id)

    alarm = Alarm(ring)
    alarm.start()
    with structlog.testing.capture_logs() as logs:
        alarm.set("bad", 0)
        alarm.set("good", 0.01)
        assert wait_until(lambda: rung == ["good"], PATIENCE_S)
        alarm.stop()
    assert [entry["log_level"] for entry in logs] == ["error"]


def test_it_stops_at_once_and_rings_no_more(alarm: Alarm, rung: list[tuple[str, float]]) -> None:
    alarm.set("later", 3600)
    alarm.stop()
    assert not any(thread.name == "lanewise-alarm" for thread in threading.enumerate())
    assert rung == []


def test_what_is_beyond_its_limit_is_left_to_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_module, "MOST_SET", 2)
    rung: list[str] = []
    alarm = Alarm(rung.append)
    for user_id in ("one", "two", "three"):
        alarm.set(user_id, 0)
    alarm.start()
    assert wait_until(lambda: rung == ["one", "two"], PATIENCE_S)
    alarm.stop()
