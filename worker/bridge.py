"""`WebSocketBridge`: the sandbox's way out for events. Whose channel they reach follows from the context alone."""

from __future__ import annotations

from typing import Any

from shared.context import UserExecutionContext, validate_user_context
from shared.errors import InvalidContextError
from worker.link import RunnerLink


class WebSocketBridge:
    """Hands events to the runner, which knows from its claim whose they are. Safe to use from any thread.

    Args:
        link: to the runner.
        owner: the run that this sandbox was made for; events for any other context are refused here already.
    """

    def __init__(self, link: RunnerLink, owner: UserExecutionContext) -> None:
        self._link = link
        self._owner = (owner.user_id, owner.thread_id, owner.run_id)

    def send_event(self, context: UserExecutionContext, kind: str, agent: str, data: dict[str, Any]) -> None:
        """Writes the event out before it returns.

        Raises:
            InvalidContextError: the context is not sound, or not of this sandbox's run.
        """
        validate_user_context(context)
        if (context.user_id, context.thread_id, context.run_id) != self._owner:
            raise InvalidContextError("an event for a run that this sandbox does not belong to")
        self._link.send({"t": "event", "type": kind, "agent": agent, "data": data})
