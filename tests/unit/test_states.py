from __future__ import annotations

import itertools

import pytest

from shared.errors import IllegalTransitionError
from shared.event_types import SANDBOX_TYPES, EventType
from shared.events import TERMINAL
from shared.outcomes import Cancelled, Completed, Failed, TimedOut
from shared.states import ENDS, LIVE, TRANSITIONS, ExecutionState, check_transition

LEGAL = {
    ("queued", "running"), ("queued", "cancelled"), ("queued", "failed"), ("queued", "timed_out"),
    ("running", "queued"), ("running", "completed"), ("running", "failed"), ("running", "cancelled"),
    ("running", "timed_out"),
}  # fmt: skip


def test_the_public_vocabulary() -> None:
    assert [str(state) for state in ExecutionState] == [
        "queued", "running", "completed", "failed", "cancelled", "timed_out",
    ]  # fmt: skip


def test_the_table_has_a_row_for_every_state() -> None:
    assert set(TRANSITIONS) == set(ExecutionState)
    assert set(ExecutionState) == ENDS | LIVE
    assert not ENDS & LIVE


@pytest.mark.parametrize(("old", "new"), list(itertools.product(ExecutionState, repeat=2)))
def test_every_pair_of_states(old: ExecutionState, new: ExecutionState) -> None:
    if (old, new) in LEGAL:
        check_transition(old, new)
    else:
        with pytest.raises(IllegalTransitionError, match=f"from {old} to {new}"):
            check_transition(old, new)


@pytest.mark.parametrize("state", ExecutionState)
def test_an_end_is_what_nothing_follows(state: ExecutionState) -> None:
    assert state.is_end == (not TRANSITIONS[state])


def test_every_end_has_one_outcome_and_one_terminal_event() -> None:
    assert {kind.state for kind in (Completed, Failed, Cancelled, TimedOut)} == ENDS == set(TERMINAL)
    assert [f"run_{state}" for state in TERMINAL] == [str(event) for event in TERMINAL.values()]


def test_a_sandbox_may_say_nothing_about_the_run_itself() -> None:
    assert {kind for kind in EventType if kind.startswith(("agent_", "tool_"))} == SANDBOX_TYPES
    assert not SANDBOX_TYPES & set(TERMINAL.values())
