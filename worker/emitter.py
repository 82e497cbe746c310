"""`UserWebSocketEmitter`: how an agent speaks to its user while it works."""

from __future__ import annotations

import json
from typing import Any

from shared.context import UserExecutionContext, validate_user_context
from shared.errors import InvalidError, TooLargeError
from shared.event_types import MAX_DATA_BYTES, EventType
from worker.interfaces import EventBridge


class UserWebSocketEmitter:
    """Bound to one user, thread and run for good; each call has been written out when it returns.

    Args:
        context: whose events these are.
        bridge: the way out.
        agent: the name under which they appear.
    """

    __slots__ = ("__weakref__", "_agent", "_bridge", "_context", "_count")

    def __init__(self, context: UserExecutionContext, bridge: EventBridge, agent: str) -> None:
        self._context = validate_user_context(context)
        self._bridge = bridge
        self._agent = agent
        self._count = 0

    @property
    def count(self) -> int:
        """How many events were emitted here."""
        return self._count

    def thinking(self, text: str) -> None:
        """Tells what the agent is about to do or has found."""
        self.emit(EventType.AGENT_THINKING, {"text": _text("text", text)})

    def progress(self, fraction: float, note: str = "") -> None:
        """Tells how far the work is.

        Args:
            fraction: from 0 to 1.
            note: what is being done now.
        """
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
            raise InvalidError(f"fraction must be a number from 0 to 1, not {fraction!r}")
        self.emit(EventType.AGENT_PROGRESS, {"fraction": round(float(fraction), 4), "note": _text("note", note)})

    def token(self, text: str) -> None:
        """Streams a piece of text as it is made."""
        self.emit(EventType.AGENT_TOKEN, {"text": _text("text", text)})

    def emit(self, kind: EventType, data: dict[str, Any]) -> None:
        """Sends one event.

        Raises:
            LanewiseError: see `check_data`.
        """
        check_data(data)
        self._bridge.send_event(self._context, kind, self._agent, data)
        self._count += 1


def check_data(data: dict[str, Any]) -> None:
    """Sees to it that an event's data can be stored.

    Raises:
        TooLargeError: data above 64 KiB.
        InvalidError: data that JSON cannot carry.
    """
    try:
        size = len(json.dumps(data, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidError(f"event data is not JSON: {error}") from None
    if size > MAX_DATA_BYTES:
        raise TooLargeError(f"event data has {size} bytes; the limit is {MAX_DATA_BYTES}")


def _text(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise InvalidError(f"{name} must be a string, not {type(value).__name__}")
    return value
