from __future__ import annotations

import threading

import pytest

from shared.errors import IllegalTransitionError, NotFoundError
from shared.states import ENDS, TRANSITIONS, ExecutionState
from worker.tracker import HISTORY, AgentExecutionTracker

QUEUED, RUNNING, COMPLETED = ExecutionState.QUEUED, ExecutionState.RUNNING, ExecutionState.COMPLETED


@pytest.fixture
def tracker() -> AgentExecutionTracker:
    tracker = AgentExecutionTracker()
    tracker.start("run-1:1", "run-1", "corr-1", agent="count")
    return tracker


def test_an_execution_is_under_way_from_its_start_to_its_end(tracker: AgentExecutionTracker) -> None:
    assert tracker.active() == {"run-1:1": QUEUED}
    tracker.transition("run-1:1", RUNNING)
    assert tracker.active() == {"run-1:1": RUNNING}
    tracker.transition("run-1:1", COMPLETED)
    assert tracker.active() == {}
    assert tracker.totals() == {COMPLETED: 1}


def test_every_transition_keeps_run_correlation_and_details(tracker: AgentExecutionTracker) -> None:
    tracker.transition("run-1:1", RUNNING, attempt=1)
    tracker.transition("run-1:1", COMPLETED, duration_s=0.5)
    tracker.start("run-2:1", "run-2", "corr-2")
    history = tracker.history("run-1")
    assert [(item.old, item.new, item.details) for item in history] == [
        (None, QUEUED, {"agent": "count"}),
        (QUEUED, RUNNING, {"attempt": 1}),
        (RUNNING, COMPLETED, {"duration_s": 0.5}),
    ]
    assert {(item.run_id, item.correlation_id) for item in history} == {("run-1", "corr-1")}
    assert [item.at for item in history] == sorted(item.at for item in history)
    assert len(tracker.history()) == 4


@pytest.mark.parametrize("old", [QUEUED, RUNNING])
@pytest.mark.parametrize("new", list(ExecutionState))
def test_the_table_of_states_decides(tracker: AgentExecutionTracker, old: ExecutionState, new: ExecutionState) -> None:
    if old is RUNNING:
        tracker.transition("run-1:1", RUNNING)
    before = tracker.history()
    if new in TRANSITIONS[old]:
        tracker.transition("run-1:1", new)
        assert tracker.history()[-1].new is new
    else:
        with pytest.raises(IllegalTransitionError, match=f"from {old} to {new}"):
            tracker.transition("run-1:1", new)
        assert tracker.history() == before
        assert tracker.active() == {"run-1:1": old}


@pytest.mark.parametrize("end", sorted(ENDS))
def test_nothing_follows_an_end(tracker: AgentExecutionTracker, end: ExecutionState) -> None:
    tracker.transition("run-1:1", RUNNING)
    tracker.transition("run-1:1", end)
    for new in ExecutionState:
        with pytest.raises(NotFoundError, match="run-1:1"):
            tracker.transition("run-1:1", new)


def test_a_run_that_is_queued_again_is_under_way_here_no_more(tracker: AgentExecutionTracker) -> None:
    tracker.transition("run-1:1", RUNNING)
    tracker.transition("run-1:1", QUEUED)
    assert tracker.active() == {}
    tracker.start("run-1:2", "run-1", "corr-1")
    assert tracker.active() == {"run-1:2": QUEUED}


def test_an_execution_that_was_never_started_is_refused(tracker: AgentExecutionTracker) -> None:
    with pytest.raises(NotFoundError, match="other"):
        tracker.transition("other", RUNNING)


def test_the_history_is_bounded() -> None:
    tracker = AgentExecutionTracker()
    for number in range(HISTORY + 3):
        tracker.start(str(number), str(number), "corr")
    assert len(tracker.history()) == HISTORY
    assert tracker.history()[0].run_id == "3"


def test_threads_do_not_lose_each_others_transitions() -> None:
    tracker = AgentExecutionTracker()

    def work(name: int) -> None:
        for number in range(30):
            execution = f"{name}:{number}"
            tracker.start(execution, execution, "corr")
            tracker.transition(execution, RUNNING)
            tracker.transition(execution, COMPLETED)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert tracker.totals() == {COMPLETED: 240}
    assert tracker.active() == {}
    assert len(tracker.history()) == 720
