"""How an attempt can end, as values. `shared.runs.finish` is the one place that maps them to stored states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.states import ExecutionState

MAX_AFTER_S = 86_400.0


@dataclass(frozen=True)
class Completed:
    """The agent returned; `output` is JSON of at most 1 MiB."""

    output: Any
    state = ExecutionState.COMPLETED


@dataclass(frozen=True)
class Failed:
    """The agent raised, broke a limit, or its last attempt was lost.

    Args:
        type: the class of the error, or a stable word such as `sandbox_died`.
        message: for the user; no traceback.
        retryable: whether the same input may well succeed another time.
    """

    type: str
    message: str
    retryable: bool = False
    state = ExecutionState.FAILED


@dataclass(frozen=True)
class Cancelled:
    """The user's intent was carried out."""

    state = ExecutionState.CANCELLED


@dataclass(frozen=True)
class TimedOut:
    """Running time over all attempts reached `limit_s` seconds."""

    limit_s: float
    state = ExecutionState.TIMED_OUT


@dataclass(frozen=True)
class Lost:
    """The attempt is over and the run is not: its sandbox, runner or node died, or a drain handed it back.

    Args:
        type: a stable word, e.g. `sandbox_died`, `worker_lost`, `drained`.
        message: what happened, for the user.
        counted: whether it counts towards `max_attempts`; drains and store outages don't.
        after_s: seconds until the next attempt may begin; None: at once after the first loss, then later and later.
    """

    type: str
    message: str
    counted: bool = True
    after_s: float | None = None


def is_pause(value: object) -> bool:
    """Whether a value can be the `after_s` of a lost attempt."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_AFTER_S


Ended = Completed | Failed | Cancelled | TimedOut
Outcome = Ended | Lost
