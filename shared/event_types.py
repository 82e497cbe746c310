"""The kinds of events. Apart from the log, because a sandbox emits them and needs nothing of Redis or the tables."""

from __future__ import annotations

from enum import StrEnum

MAX_DATA_BYTES = 64 * 1024


class EventType(StrEnum):
    """Every kind of event that a client can see."""

    RUN_QUEUED = "run_queued"
    RUN_POSITION = "run_position"
    RUN_STARTED = "run_started"
    RUN_RECOVERING = "run_recovering"
    RUN_COMPLETED = "run_completed"
    RUN_FAILED = "run_failed"
    RUN_CANCELLED = "run_cancelled"
    RUN_TIMED_OUT = "run_timed_out"
    AGENT_STARTED = "agent_started"
    AGENT_THINKING = "agent_thinking"
    AGENT_PROGRESS = "agent_progress"
    AGENT_TOKEN = "agent_token"  # noqa: S105 - a token of text
    AGENT_ARTIFACT = "agent_artifact"
    AGENT_COMPLETED = "agent_completed"
    AGENT_FAILED = "agent_failed"
    TOOL_EXECUTING = "tool_executing"
    TOOL_COMPLETED = "tool_completed"
    TOOL_FAILED = "tool_failed"
    TOOL_DENIED = "tool_denied"


class Denial(StrEnum):
    """Why a tool call was denied: `reason` of `tool_denied`, and the outcome in the audit trail."""

    NOT_GRANTED = "not_granted"
    UNKNOWN_TOOL = "unknown_tool"


# One of these is the last event of each run.
LAST_TYPES = frozenset({
    EventType.RUN_COMPLETED, EventType.RUN_FAILED, EventType.RUN_CANCELLED, EventType.RUN_TIMED_OUT,
})  # fmt: skip
# What a sandbox may emit; the rest is for the runner, the api and the leader to say.
SANDBOX_TYPES = frozenset(kind for kind in EventType if not kind.startswith("run_"))
