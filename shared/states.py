"""The states of a run and the one table of legal transitions (drawn in docs/architecture.md)."""

from __future__ import annotations

from enum import StrEnum

from shared.errors import IllegalTransitionError


class ExecutionState(StrEnum):
    """Where a run is. Four of the six are ends, and a run reaches exactly one of them."""

    QUEUED = "queued"  # accepted and stored; parked until the user has a free slot, then granted
    RUNNING = "running"  # claimed by a worker: `attempt` was raised and is the fence
    COMPLETED = "completed"  # the agent returned a result
    FAILED = "failed"  # the agent raised, or its last attempt was lost
    CANCELLED = "cancelled"  # the user asked for it in time
    TIMED_OUT = "timed_out"  # running time over all attempts reached the limit

    @property
    def is_end(self) -> bool:
        """True when nothing follows."""
        return self in ENDS


ENDS = frozenset({ExecutionState.COMPLETED, ExecutionState.FAILED, ExecutionState.CANCELLED, ExecutionState.TIMED_OUT})
LIVE = frozenset(ExecutionState) - ENDS

TRANSITIONS: dict[ExecutionState, frozenset[ExecutionState]] = {
    # A queued run can end without running: cancelled in the queue, poisoned, or out of time.
    ExecutionState.QUEUED: frozenset(
        {ExecutionState.RUNNING, ExecutionState.CANCELLED, ExecutionState.FAILED, ExecutionState.TIMED_OUT}
    ),
    # Back to queued: the attempt was lost, asked for a retry, or was handed back by a drain.
    ExecutionState.RUNNING: ENDS | {ExecutionState.QUEUED},
    **dict.fromkeys(ENDS, frozenset[ExecutionState]()),
}


def check_transition(old: ExecutionState, new: ExecutionState) -> None:
    """Refuses a transition that the table does not hold.

    Raises:
        IllegalTransitionError: naming both states.
    """
    if new not in TRANSITIONS[old]:
        raise IllegalTransitionError(f"a run cannot go from {old} to {new}")
